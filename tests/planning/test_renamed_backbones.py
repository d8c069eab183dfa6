"""A backbone's name stands in its folder's name and in scale files: with another one, plans say the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

RENAMED = {"bagel": ("paper", "hippo"), "llm_dit": ("sd35", "two_releases"), "world.py": ("cpu", "toy.py")}


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
        command = f"from unigrpo.planning.plan import plan; print(*plan({scale!r})[0], sep=chr(10))"
        variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
        done = subprocess.run(
            [sys.executable, "-c", command], env=variables, cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert said[0] == said[1] and "fits          yes" in said[0]
