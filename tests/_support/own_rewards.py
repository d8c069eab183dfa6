"""Rewards of a user's own, as files beside the shipped ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import rewards

FACTS = "from unigrpo.study.facts import RewardFacts\nFACTS = RewardFacts(what='a test', differentiable={})\n"


def add(monkeypatch, folder: Path, files: Mapping[str, str], differentiable: tuple[str, ...] = ()) -> None:
    """Each of ``files``, name -> source without FACTS, becomes a reward while the test runs."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(FACTS.format(name in differentiable) + text)
        monkeypatch.delitem(sys.modules, f"rewards.{name}", raising=False)
        monkeypatch.delattr(rewards, name, raising=False)
    monkeypatch.setattr(rewards, "__path__", [*rewards.__path__, str(folder)])
    importlib.invalidate_caches()
