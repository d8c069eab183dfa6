"""Modules that are loaded when they are first used.

A plug-in states its facts at the top of its file, and the workflow reads them every time that it is parsed. So a room
hands out its modules unloaded: ``from unigrpo.objectives import flow`` costs nothing until ``flow.something`` is read.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


class _Unloaded(ModuleType):
    """A module that is executed when an attribute is read that it does not have yet. Those of every module it has, so
    that whoever looks through ``sys.modules`` (``inspect`` does, while torch is imported) loads nothing."""

    def __getattr__(self, attribute: str) -> object:
        self.__class__ = ModuleType
        try:
            self.__spec__.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(self.__name__, None)
            raise
        return getattr(self, attribute)


def lazy(name: str) -> ModuleType:
    """The module called ``name``, executed when an attribute of it is first read. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Unloaded
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], leaf, module)
    return module


def submodules(package: str) -> Callable[[str], ModuleType]:
    """The ``__getattr__`` of a package that hands out its modules unloaded."""

    def load(name: str) -> ModuleType:
        if not name.startswith("_"):
            try:
                return lazy(f"{package}.{name}")
            except ModuleNotFoundError:
                pass
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
