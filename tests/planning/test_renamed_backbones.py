"""A backbone's name stands in its folder's name and in scale files: with another one, plans are of the same model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

RENAMED = {"world.py": ("cpu", "toy.py")}


@pytest.mark.parametrize(("name", "scale", "other"), [(name, *rest) for name, rest in RENAMED.items()])
def test_a_renamed_backbone_plans(root, tmp_path, name, scale, other):
    for part in ("src", "pipelines", "rewards"):
        shutil.copytree(root / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    backbones = tmp_path / "src/unigrpo/models/backbones"
    (backbones / name).rename(backbones / other)
    file = tmp_path / f"pipelines/scales/{scale}.yaml"
    word, new = (text.removesuffix(".py") for text in (name, other))
    assert f"backbone: {word}" in file.read_text()
    file.write_text(file.read_text().replace(f"backbone: {word}", f"backbone: {new}"))
    said = []
    for project in (root, tmp_path):
        command = (
            "from unigrpo.planning import phases; from unigrpo.study.resolve import chosen_run;"
            f"cfg, base = (chosen_run({scale!r}, run, 0, None)[1] for run in ('unigrpo', 'base'));"
            "print(sum(x.numel() for x in phases.tensors(phases.unfilled(cfg, base))))"
        )
        variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
        done = subprocess.run(
            [sys.executable, "-c", command], env=variables, cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert said[0] == said[1] and int(said[0]) > 0
