"""The rename test: a plug-in's name stands in its file's name and in the catalogue or a scale, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests._support import project as copies

pytestmark = pytest.mark.slow

KINDS = {  # folder of a kind of plug-in -> the key that names one
    "src/unigrpo/methods": "method",
    "src/unigrpo/objectives/regularisers": "regulariser",
    "src/unigrpo/models/backbones": "backbone",
    "src/unigrpo/report/tables": "kind",
    "src/unigrpo/report/figures": "kind",
    "rewards": "reward",
}


def plugins(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.stem[0].isalpha() and (p.suffix == ".py" or p.is_dir())]


@pytest.fixture(scope="module")
def project(root, tmp_path_factory) -> Path:
    """A copy of the project in which every plug-in of every kind has another name."""
    folder = copies.copy(root, tmp_path_factory.mktemp("renamed"))
    words = [folder / "pipelines/experiments.yaml", *(folder / "pipelines/scales").glob("*.yaml")]
    for place, key in KINDS.items():
        for source in plugins(folder / place):
            new = f"{source.stem}_renamed"
            source.rename(source.with_name(new + source.suffix))
            for file in words:
                text = re.sub(rf"\b{key}: {source.stem}\b", f"{key}: {new}", file.read_text())
                if key == "method" and file.parent.name == "scales":  # a scale's settings of a method
                    text = re.sub(rf"^  {source.stem}: (?=\{{)", f"  {new}: ", text, flags=re.MULTILINE)
                file.write_text(text)
            package = place.removeprefix("src/").replace("/", ".")
            for other in (folder / place).glob("*.py"):  # a plug-in may be built on another
                text = other.read_text().replace(f"from {package}.{source.stem} import", f"from {package}.{new} import")
                other.write_text(text)
    return folder


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper", "sd35"])
def test_everything_still_plans(project, scale):
    assert "total" in copies.run(project, "snakemake", "-n", "--cores", "1", "--config", f"scale={scale}")


def test_a_run_still_trains(project):
    model = "results/smoke/runs/unigrpo/seed0/model.safetensors"
    copies.run(project, "snakemake", "--cores", "1", model, "--config", "scale=smoke")
    assert (project / model).with_name("run.json").exists()
