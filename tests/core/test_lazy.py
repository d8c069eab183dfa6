"""Modules that are loaded when they are used, and not before."""

import inspect
import sys

import pytest

from unigrpo.core.lazy import lazy


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return module


def test_an_attribute_loads_it_and_a_look_through_all_modules_does_not(write):
    module = lazy(write("given_late", "value = 3\n"))
    inspect.getmodule(test_an_attribute_loads_it_and_a_look_through_all_modules_does_not.__code__)
    assert hasattr(module, "__file__") and "value" not in vars(module)
    assert module.value == 3 and lazy("given_late") is module
    from given_late import value

    assert value == 3


def test_what_fails_is_not_left_behind(write):
    module = lazy(write("given_broken", "value = 1 / 0\n"))
    with pytest.raises(ZeroDivisionError):
        module.value  # noqa: B018
    assert "given_broken" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="given_nowhere"):
        lazy("given_nowhere")


def test_a_star_brings_its_names(write):
    write("given_star", "value = 5\n")
    lazy("given_star")
    names: dict = {}
    exec("from given_star import *", names)
    assert names["value"] == 5
