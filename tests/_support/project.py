"""A copy of the project, whose files a test changes, and calls in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

COPIED = ("src", "rewards", "evals", "pipelines", "profiles", "assets", "Snakefile", "environment.yml")


def copy(root: Path, folder: Path) -> Path:
    """The project without its tests, docs and results, in ``folder``."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(root / name, folder / name)
    (folder / "results/reference").mkdir(parents=True)
    shutil.copy(root / "results/reference/paper.csv", folder / "results/reference")
    return folder


def run(project: Path, *command: str) -> str:
    """What ``python -m <command>`` prints in ``project``; a failure fails the test."""
    variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=project, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr
