"""The rename test: a plug-in's name stands in its file's name and in the catalogue or scale, and nowhere else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

COPIED = ("src", "rewards", "evals", "pipelines", "profiles", "assets", "Snakefile", "environment.yml")


@pytest.fixture
def project(root, tmp_path) -> Path:
    """A copy of the project without its tests."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, folder / name)
    (folder / "results").mkdir()
    shutil.copytree(root / "results/reference", folder / "results/reference")
    return folder


def rename(project: Path, old: str, new: str) -> None:
    """Rename a plug-in's file or folder, and its one word in the catalogue and the scales."""
    source = project / old
    source.rename(source.with_name(new + source.suffix))
    for path in [project / "pipelines/experiments.yaml", *(project / "pipelines/scales").glob("*.yaml")]:
        path.write_text(re.sub(rf"(?<=[ {{\[]){source.stem}(?=[ ,}}\]:\n])(?!: {{label)", new, path.read_text()))


def call(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
    return subprocess.run(arguments, cwd=project, env=variables, capture_output=True, text=True)
