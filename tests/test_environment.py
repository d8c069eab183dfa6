"""What a user installs is what was tested: lock, package, conda view and the two commands agree; code is in order."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unigrpo.core.yaml_files import read_yaml


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(root):
    """Package -> version."""
    lines = [*hashed(root), *(root / "torch.lock").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}


def hashed(root):
    """Requirement -> the hashes of its files."""
    text = (root / "requirements.lock").read_text().replace("\\\n", "")
    rows = [line.split(" --hash=") for line in text.splitlines() if not line.startswith("#")]
    return {name.strip(): [value.strip() for value in values] for name, *values in rows}


def direct(project):
    """What the package and its developers ask for, extras that nobody needs by default left out."""
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_the_lock_pins_every_dependency_within_its_range(project, lock):
    for requirement in direct(project):
        assert lock[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_every_package_but_torch_is_locked_by_the_hashes_of_its_files(root):
    """Torch has a build for each platform; of a pure package one file serves all."""
    rows = hashed(root)
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for values in rows.values() for value in values)
    assert len(rows) > 100 and all(rows.values()) and len(rows["numpy==2.4.6"]) > 20
    names = re.findall(r"^([\w-]+)==", (root / "torch.lock").read_text(), re.MULTILINE)
    assert names == ["torch", "torchvision"]
    assert "://" not in (root / "requirements.lock").read_text()


def test_the_lock_is_closed_under_dependencies(lock):
    """Every package that a locked one needs here is locked too, in an accepted version."""
    environment = {"extra": ""}
    for name in lock:
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate(environment):
                version = lock.get(canonicalize_name(needed.name))
                assert version is not None, f"{name} needs {needed.name}, which is not locked"
                assert needed.specifier.contains(version, prereleases=True), f"{name} needs {needed}, locked {version}"


def test_this_environment_is_the_locked_one(lock):
    for name in ("torch", "transformers", "snakemake", "pandas", "numpy"):
        assert importlib.metadata.version(name).split("+")[0] == lock[name]


def test_conda_view_has_the_same_pins(root, project, lock):
    view = read_yaml(root / "environment.yml")
    (pip,) = [entry["pip"] for entry in view["dependencies"] if isinstance(entry, dict)]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in pip)}
    assert pins == {name: lock[name] for name in (canonicalize_name(r.name) for r in direct(project))}
    python = next(entry for entry in view["dependencies"] if str(entry).startswith("python="))
    assert python.removeprefix("python=") in Requirement("python" + project["requires-python"]).specifier


def test_versions_and_names_agree(root, project):
    citation = read_yaml(root / "CITATION.cff")
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in (root / "LICENSE").read_text()


def test_continuous_integration_runs_the_tests(root):
    script = root / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[1] == "set -euo pipefail" and "make test" in lines


def test_the_commands_of_the_readme_exist(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"^\s*make ([a-z]+)", (root / "README.md").read_text(), re.MULTILINE)
    assert {"reproduce", "test"} <= set(commands) <= targets


def test_make_says_what_it_needs(root):
    assert subprocess.run(["make", "-n", "run"], cwd=root, capture_output=True, text=True).returncode != 0
    plan = subprocess.run(
        ["make", "-n", "reproduce", "SCALE=smoke", "SEEDS=2"], cwd=root, capture_output=True, text=True
    )
    assert "-m unigrpo reproduce --scale 'smoke' --cores 2 --seeds 2" in plan.stdout


FAKE = f"""#!/bin/sh
echo "$@" >> calls
[ "$2" != unigrpo ] || exec {sys.executable} "$@"
"""


def make(root, folder, owner, *words):
    """`make` in a checkout whose .venv was made for `owner` and runs nothing but the project: (what it ran, result)."""
    for name in ("Makefile", "requirements.lock", "torch.lock", "pyproject.toml"):
        shutil.copy(root / name, folder)
    for name in ("src", "rewards", "evals", "pipelines"):
        (folder / name).symlink_to(root / name)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(FAKE)
    (folder / ".venv/bin/python").chmod(0o755)
    (folder / ".venv/lib/python3/site-packages").mkdir(parents=True)
    (folder / ".venv/lib/python3/site-packages/__editable__.unigrpo-0.1.0.pth").write_text(f"{owner}\n")
    done = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)
    return (folder / "calls").read_text() if (folder / "calls").exists() else "", done


def test_make_installs_into_no_environment_of_another_checkout(root, tmp_path):
    """But into that of a checkout that was moved, whose old place is gone."""
    folders = [tmp_path / name for name in ("other's", "own", "moved")]
    other = tmp_path / "other/src"
    other.mkdir(parents=True)
    for folder, owner in zip(folders, (other, folders[1] / "src", tmp_path / "gone/src"), strict=True):
        folder.mkdir()
        ran, done = make(root, folder, owner, "env")
        assert done.returncode == 0 and ("pip install" in ran) == (owner != other)
        assert (done.stderr == f".venv stays as it is: it was made for {other}\n") == (owner == other)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("reproduce", "CORES=0"),
            "error: Invalid value for '--cores': Input should be greater than or equal to 1; see",
        ),
        (
            ("reproduce", "CORES=-1"),
            "error: Invalid value for '--cores': Input should be greater than or equal to 1; see",
        ),
        (("reproduce", "CORES=x"), "error: Invalid value for '--cores': Input should be a valid integer"),
        (
            ("reproduce", "SEEDS=0"),
            "error: Invalid value for '--seeds': Input should be greater than or equal to 1; see",
        ),
        (("run", "RUN=base", "SCALE=a b"), "error: --config scale=a b: no such file in"),
        (("run", "RUN=unigrp"), "error: --config run=unigrp: no such run; did you mean unigrpo?"),
    ],
)
def test_make_refuses_bad_arguments_in_one_line(root, tmp_path, words, message):
    _, done = make(root, tmp_path, tmp_path / "src", *words)
    ours, *makes = done.stderr.splitlines()
    assert ours.startswith(message) and "Error 2" in makes.pop() and makes == [] and done.returncode == 2
    assert not (tmp_path / "results").exists()


CHECKS = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--quiet", "--check", "."],
    "snakefmt": ["snakefmt", "--check", "Snakefile", "pipelines"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_code_is_in_order(root, check):
    done = subprocess.run([sys.executable, "-m", *CHECKS[check]], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
