"""What a command works on: the catalogue at a scale, one of its runs at a seed, or a configuration in a file."""

from __future__ import annotations

from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.registry import nearest
from unigrpo.study import config
from unigrpo.study.catalogue import load_catalogue
from unigrpo.study.config import RunConfig
from unigrpo.study.overview import Study
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import load_scale, resolve

CATALOGUE, SCALES = ROOT / "pipelines" / "experiments.yaml", ROOT / "pipelines" / "scales"


def chosen_study(scale: str) -> Study:
    """The catalogue at ``scale``. Raises UserError."""
    names = [path.stem for path in SCALES.glob("*.yaml")]
    if scale not in names:
        raise UserError(f"--scale {scale}: no such file in {SCALES}{nearest(scale, names)}")
    catalogue = load_catalogue(CATALOGUE)
    return Study(catalogue, scale, load_scale(SCALES / f"{scale}.yaml", catalogue["defaults"]))


def chosen_run(scale: str | None, run: str | None, seed: int, file: Path | None) -> tuple[str, RunConfig]:
    """(the words that chose it, its configuration): ``run`` of the catalogue at ``scale`` and ``seed``, or the resolved
    configuration (JSON) in ``file``. Raises UserError unless exactly one of the two is given."""
    if (file is None) == (run is None) or (scale is None) != (run is None):
        raise UserError("expected either --scale and --run, or --config")
    if file is not None:
        return str(file), config.load(file)
    study = chosen_study(scale)
    try:
        return f"--scale {scale} --run {run}", resolve(study.catalogue, study.scale, scale, run, seed)
    except UserError as error:
        raise UserError(f"{CATALOGUE}: {error}") from None
