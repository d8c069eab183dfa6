"""A study: the catalogue at one scale, checked completely, as the workflow sees it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.registry import nearest
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.study.catalogue import facts_of, groups, load_catalogue, runs_in_use
from unigrpo.study.config import check_processes
from unigrpo.study.resolve import Scale, fingerprint, load_scale, resolve

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

    def config(self, run: str, seed: int) -> dict:
        return to_dict(resolve(self.catalogue, self.scale, self.scale_name, run, seed))


OPTIONS = ("scale", "seeds", "run", "group")


def _check_runs(catalogue: dict, scale: dict, scale_name: str) -> None:
    """Every run can be resolved, none twice under two names, and no line has a setting that changes nothing; but errors
    in supervised data, which ablations of the world set, mean nothing to another backbone."""
    seen: dict[str, str] = {}
    for run in catalogue["runs"]:
        config = resolve(catalogue, scale, scale_name, run, 0)
        if config.stage != "rl" and config.backbone_facts.released:
            continue
        same = fingerprint({k: v for k, v in to_dict(config).items() if k not in ("run", "label", "evaluate")})
        if same in seen:
            raise UserError(f"runs.{run}: is the same run as {seen[same]}, expected a setting that differs")
        seen[same] = run
        for key, line in catalogue["overrides"][run].items():
            without = catalogue["runs"] | {run: {"label": run, "stage": config.stage, "init": config.init} | line}
            try:
                changed = resolve(catalogue | {"runs": without}, scale, scale_name, run, 0) != config
            except UserError:
                continue  # the line does not work without it
            if not changed:
                value = catalogue["runs"][run][key]
                raise UserError(f"runs.{run}.{key}: changes nothing, {key} is {value} without it; leave it out")


def _check_split(catalogue: dict, scale: dict, scale_name: str, run: str) -> None:
    """A run that is to be made can be split among the scale's processes."""
    try:
        check_processes(resolve(catalogue, scale, scale_name, run, 0))
    except UserError as error:
        raise UserError(f"runs.{run}: {error}") from None


def load_study(catalogue_file: Path, scale_folder: Path, options: dict) -> Study:
    """The study that ``options`` choose: ``scale`` (default cpu), ``seeds`` in place of the scale's,
    ``run``, one run of the catalogue, and ``group``, one of its groups of tables and figures.

    Every run is resolved once, so that bad settings are met before anything runs. Raises UserError.
    """
    for key in options.keys() - set(OPTIONS):
        raise UserError(f"--config {key}: unknown option{nearest(key, OPTIONS)}")
    scales = [path.stem for path in scale_folder.glob("*.yaml")]
    name = str(options.get("scale", "cpu"))
    if name not in scales:
        raise UserError(f"--config scale={name}: no such file in {scale_folder}{nearest(name, scales)}")
    scale_file = scale_folder / f"{name}.yaml"
    catalogue = load_catalogue(catalogue_file)
    scale = load_scale(scale_file, catalogue["defaults"])
    runs = catalogue["runs"]
    if "run" in options and options["run"] not in runs:
        members = [run for run in runs if run.startswith(f"{options['run']}_")]
        hint = f"; there are {', '.join(members)}" if members else nearest(options["run"], runs)
        raise UserError(f"--config run={options['run']}: no such run{hint}")
    if "group" in options and options["group"] not in groups(catalogue):
        known = groups(catalogue)
        raise UserError(f"--config group={options['group']}: no such group{nearest(options['group'], known)}")
    scale = scale | {"seeds": options.get("seeds", scale["seeds"])}
    from_dict(Scale, scale, "--config")
    asked = [options["run"]] if "run" in options else []
    try:
        _check_runs(catalogue, scale, name)
        for run in {*runs_in_use(catalogue), *asked}:
            _check_split(catalogue, scale, name, run)
    except UserError as error:
        raise UserError(f"{catalogue_file}: {error} (with {scale_file})") from None
    return Study(catalogue, name, scale)
