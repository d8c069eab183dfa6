"""The rename test: a plug-in's name stands in its file's name and in the catalogue or a scale, and nowhere else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COPIED = ("src", "rewards", "evals", "pipelines", "profiles", "assets", "Snakefile", "environment.yml")
RENAMED = (  # file or folder, the key that names it, the new name
    ("src/unigrpo/methods/grpo.py", "method", "policy_gradient"),
    ("src/unigrpo/methods/fpo.py", "method", "flow_policy"),
    ("src/unigrpo/objectives/regularisers/velocity_mse.py", "regulariser", "distance"),
    ("src/unigrpo/models/backbones/world.py", "backbone", "toy"),
    ("src/unigrpo/report/tables/main.py", "kind", "headline"),
    ("src/unigrpo/report/figures/grid.py", "kind", "picture_grid"),
    ("rewards/learned.py", "reward", "trained_judge"),
)


@pytest.fixture(scope="module")
def project(root, tmp_path_factory) -> Path:
    """A copy of the project in which a plug-in of every kind has another name."""
    folder = tmp_path_factory.mktemp("renamed")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, folder / name)
    (folder / "results/reference").mkdir(parents=True)
    shutil.copy(root / "results/reference/paper.csv", folder / "results/reference")
    for path, key, new in RENAMED:
        source = folder / path
        source.rename(source.with_name(new + source.suffix))
        for file in [folder / "pipelines/experiments.yaml", *(folder / "pipelines/scales").glob("*.yaml")]:
            text = re.sub(rf"\b{key}: {source.stem}\b", f"{key}: {new}", file.read_text())
            file.write_text(re.sub(rf"^  {source.stem}: (?=\{{)", f"  {new}: ", text, flags=re.M) if "method" in key
                            and file.parent.name == "scales" else text)  # fmt: skip
    return folder


def snakemake(project: Path, *arguments: str) -> str:
    variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_everything_still_plans(project, scale):
    assert "total" in snakemake(project, "-n", "--config", f"scale={scale}")


def test_a_run_still_trains(project):
    snakemake(project, "results/smoke/runs/unigrpo/seed0/model.safetensors", "--config", "scale=smoke")
    assert (project / "results/smoke/runs/unigrpo/seed0/run.json").exists()
