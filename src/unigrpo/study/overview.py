"""A study: the catalogue at one scale, checked completely, as the workflow sees it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.registry import nearest
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.study.catalogue import facts_of, groups, load_catalogue, runs_in_use
from unigrpo.study.config import RunConfig, check_processes, load
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import Scale, fingerprint, load_scale, resolve

CATALOGUE, SCALES = ROOT / "pipelines" / "experiments.yaml", ROOT / "pipelines" / "scales"
OPTIONS = ("scale", "seeds", "run", "group")  # of load_study
MODES = {"yes": "think", "no": "direct"}  # thinking at evaluation, as tables say it -> as files say it


@dataclass(frozen=True)
class Study:
    """The catalogue at one scale: what the workflow needs to know about every run."""

    catalogue: dict
    scale_name: str
    scale: dict

    def runs(self, *stages: str) -> list[str]:
        """All runs of these stages (of any, without one), needed by a table or not."""
        lines = self.catalogue["runs"]
        return [name for name in lines if not stages or lines[name]["stage"] in stages]

    def seeds(self, run: str) -> range:
        """Those of the scale for RL, or fewer where the run's line says so; one for the supervised runs, which all
        seeds share."""
        line, most = self.catalogue["runs"][run], self.scale["seeds"]
        return range(min(most, line.get("seeds", most)) if line["stage"] == "rl" else 1)

    def parent(self, run: str, seed: int) -> tuple[str, int]:
        """The run and seed that ``run`` starts from: the same seed, or the parent's only one."""
        parent = self.catalogue["runs"][run]["init"]
        return parent, seed if seed in self.seeds(parent) else 0

    def modes(self, run: str) -> list[str]:
        """How a run is evaluated; with greedy text too where a table that shows it starts with the run."""
        first = [spec["runs"][0] for spec in self.catalogue["tables"].values() if facts_of("tables", spec).greedy]
        return [MODES[mode] for mode in self.catalogue["runs"][run]["evaluate"]] + ["greedy"] * (run in first)

    def resolve(self, run: str, seed: int = 0) -> RunConfig:
        """The configuration of ``run`` at ``seed``. Raises UserError naming the run's key."""
        return resolve(self.catalogue, self.scale, self.scale_name, run, seed)

    def config(self, run: str, seed: int) -> dict:
        return to_dict(self.resolve(run, seed))


def load_study(catalogue_file: Path, scale_folder: Path, options: dict) -> Study:
    """The study that ``options`` choose: ``scale`` (default cpu), ``seeds`` in place of the scale's,
    ``run``, one run of the catalogue, and ``group``, one of its groups of tables and figures.

    Every run is resolved once, so that bad settings are met before anything runs. Raises UserError.
    """
    for key in options.keys() - set(OPTIONS):
        raise UserError(f"--config {key}: unknown option{nearest(key, OPTIONS)}")
    study = _read_study(catalogue_file, scale_folder, str(options.get("scale", "cpu")), "--config scale=")
    runs, known = study.catalogue["runs"], groups(study.catalogue)
    if "run" in options and options["run"] not in runs:
        members = [run for run in runs if run.startswith(f"{options['run']}_")]
        hint = f"; there are {', '.join(members)}" if members else nearest(options["run"], runs)
        raise UserError(f"--config run={options['run']}: no such run{hint}")
    if "group" in options and options["group"] not in known:
        raise UserError(f"--config group={options['group']}: no such group{nearest(options['group'], known)}")
    study = replace(study, scale=study.scale | {"seeds": options.get("seeds", study.scale["seeds"])})
    from_dict(Scale, study.scale, "--config")
    asked = [options["run"]] if "run" in options else []
    try:
        _check_runs(study)
        for run in {*runs_in_use(study.catalogue), *asked}:
            with error_prefix(f"runs.{run}"):
                check_processes(study.resolve(run))
    except UserError as error:
        raise UserError(f"{catalogue_file}: {error} (with {scale_folder / study.scale_name}.yaml)") from None
    return study


def _read_study(catalogue_file: Path, scale_folder: Path, scale: str, option: str) -> Study:
    """The catalogue at ``scale``, which follows ``option`` on the command line."""
    scales = [path.stem for path in scale_folder.glob("*.yaml")]
    if scale not in scales:
        raise UserError(f"{option}{scale}: no such file in {scale_folder}{nearest(scale, scales)}")
    catalogue = load_catalogue(catalogue_file)
    return Study(catalogue, scale, load_scale(scale_folder / f"{scale}.yaml", catalogue["defaults"]))


def _check_runs(study: Study) -> None:
    """Every run can be resolved, none twice under two names, and no line has a setting that changes nothing; but errors
    in supervised data, which ablations of the world set, mean nothing to another backbone."""
    runs = study.catalogue["runs"]
    seen: dict[str, str] = {}
    for run in runs:
        config = study.resolve(run)
        if config.stage != "rl" and config.backbone_facts.released:
            continue
        same = fingerprint({k: v for k, v in to_dict(config).items() if k not in ("run", "label", "evaluate")})
        if same in seen:
            raise UserError(f"runs.{run}: is the same run as {seen[same]}, expected a setting that differs")
        seen[same] = run
        for key, line in study.catalogue["overrides"][run].items():
            without = runs | {run: {"label": run, "stage": config.stage, "init": config.init} | line}
            try:
                changed = replace(study, catalogue=study.catalogue | {"runs": without}).resolve(run) != config
            except UserError:
                continue  # the line does not work without it
            if not changed:
                raise UserError(
                    f"runs.{run}.{key}: changes nothing, {key} is {runs[run][key]} without it; leave it out"
                )


def chosen_study(scale: str) -> Study:
    """This checkout's catalogue at ``scale``, its runs not checked. Raises UserError."""
    return _read_study(CATALOGUE, SCALES, scale, "--scale ")


def chosen_run(scale: str | None, run: str | None, seed: int, file: Path | None) -> tuple[str, RunConfig]:
    """(the words that chose it, its configuration): ``run`` of the catalogue at ``scale`` and ``seed``, or the resolved
    configuration (JSON) in ``file``. Raises UserError unless exactly one of the two is given."""
    if (file is None) == (run is None) or (scale is None) != (run is None):
        raise UserError("expected either --scale and --run, or --config")
    if file is not None:
        return str(file), load(file)
    study = chosen_study(scale)
    with error_prefix(CATALOGUE):
        return f"--scale {scale} --run {run}", study.resolve(run, seed)
