"""Modules that are loaded at their first use: ``from unigrpo.objectives import flow`` costs nothing until ``flow.x``
is read. So the facts of a plug-in, which the workflow reads whenever it is parsed, are read without what it imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType


class _Later:
    """Stands for a module and passes everything on to it, importing it first. It is not in ``sys.modules``: an import
    elsewhere is an ordinary one, and whoever looks through all modules (``inspect`` does) loads nothing."""

    __slots__ = ("_module_name",)  # hence no __dict__ that would hide the module's

    def __init__(self, name: str):
        object.__setattr__(self, "_module_name", name)

    def __getattr__(self, attribute: str) -> object:
        return getattr(importlib.import_module(self._module_name), attribute)

    def __setattr__(self, attribute: str, value: object) -> None:
        setattr(importlib.import_module(self._module_name), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(importlib.import_module(self._module_name), attribute)


def lazy(name: str) -> ModuleType:
    """The module called ``name``, imported when an attribute of it is first used. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _Later(name)


def submodules(package: str) -> Callable[[str], ModuleType]:
    """The ``__getattr__`` of a package that hands out its modules unloaded."""

    def load(name: str) -> ModuleType:
        if not name.startswith("_"):
            with suppress(ModuleNotFoundError):
                return lazy(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
