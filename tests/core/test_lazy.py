"""Modules that are loaded when they are used, and not before."""

import inspect
import subprocess
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
    assert "given_late" not in sys.modules
    assert module.value == 3 and lazy("given_late") is sys.modules["given_late"]


def test_what_is_set_is_set_in_the_module(write, monkeypatch):
    module = lazy(write("given_set", "value = 3\ndef read():\n    return value\n"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "value", 4)
        assert module.read() == 4
    assert module.read() == 3


def test_what_fails_is_not_left_behind(write):
    module = lazy(write("given_broken", "value = 1 / 0\n"))
    with pytest.raises(ZeroDivisionError):
        module.value  # noqa: B018
    assert "given_broken" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="given_nowhere"):
        lazy("given_nowhere")


@pytest.mark.parametrize("use", ["import torch.nn.functional", "from torch import nn", "import torch; torch.ones(1)"])
def test_torch_is_imported_in_order_after_it_was_named(root, use):
    """In a process of its own: a part of torch, imported before torch is, ends the process."""
    named = "from unigrpo.core.lazy import lazy; later = lazy('torch')"
    code = f"{named}; {use}; import torch; assert later.nn is torch.nn"
    done = subprocess.run([sys.executable, "-c", code], cwd=root / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_star_brings_its_names(write):
    write("given_star", "value = 5\n")
    lazy("given_star")
    names: dict = {}
    exec("from given_star import *", names)
    assert names["value"] == 5
