"""A place for methods that exist for one test."""

from __future__ import annotations

import importlib
import sys

import pytest

from unigrpo import methods


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Puts a file beside the shipped methods, for one test."""
    folder = tmp_path / "methods"
    folder.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    names = []

    def write(name: str, source: str) -> None:
        names.append(name)
        sys.modules.pop(f"unigrpo.methods.{name}", None)  # of another test's file
        methods.__dict__.pop(name, None)
        (folder / f"{name}.py").write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in names:
        sys.modules.pop(f"unigrpo.methods.{name}", None)
        methods.__dict__.pop(name, None)
