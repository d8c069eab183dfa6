"""Modules that are loaded when they are first used.

A plug-in states its facts at the top of its file, and the workflow reads them every time that it is parsed. So a room
hands out its modules unloaded: ``from unigrpo.objectives import flow`` costs nothing until ``flow.something`` is read.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


def lazy(name: str) -> ModuleType:
    """The module called ``name``, executed when an attribute of it is first read. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
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
