"""From the catalogue to a run: ``run config = catalogue's defaults + scale (+ its method's) + the run's line``.

``pipelines/experiments.yaml`` names runs, tables and figures; a file of ``pipelines/scales`` holds sizes, seeds and
optimiser settings. Both are a :class:`Study`, which the workflow reads; a step of a run reads its :class:`RunConfig`.
Imports no torch; everything wrong is one UserError naming file and key.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.registry import declarations, nearest
from unigrpo.core.settings import Count, deciding, from_dict, require, to_dict
from unigrpo.core.yaml_files import read_yaml
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.study.catalogue import BASE, CEILING, COMMON, NAME, OUTSIDE, SFT, ancestors, load_catalogue, runs_in_use
from unigrpo.study.config import (
    LEARNED,
    Machine,
    RunConfig,
    SamplingConfig,
    SupervisedConfig,
    check_together,
    load,
    rl_class,
)
from unigrpo.study.facts import BACKBONES, METHODS, REGULARISERS
from unigrpo.study.provenance import ROOT
from unigrpo.study.training_inputs import check_reward, training_pool

PAINTING = ("grid", "shift", "guidance_interval", "reasoning_guidance", "renorm")  # as evaluated, so trained
LINES = "UNIGRPO_LINES"  # environment variable by which a command hands lines of runs (JSON) to all of its steps
CATALOGUE, SCALES = ROOT / "pipelines" / "experiments.yaml", ROOT / "pipelines" / "scales"
WORDS = {"code": "keep", "state": "anew", "weights": "accept", "published": "use", "starts": "train"}  # of one value
OPTIONS = ("scale", "seeds", "run", "group", *WORDS)  # of load_study
MODES = {"yes": "think", "no": "direct"}  # thinking at evaluation, as tables say it -> as files say it
PARTS = ("config", "training", "steps", *LEARNED, "tuning", "evaluation")  # see part()


class Scale(Machine):
    """A scale file: sizes, seeds, machine and optimiser settings that all runs share."""

    seeds: Annotated[int, Field(ge=1, le=1000)]
    memory: Count = 4000  # MB of the machine, for a process that holds a model
    memory_of_training: Count | None = None  # the same for all processes of SFT or reinforcement
    hours: Count = 24  # that the longest step may take
    trial: bool = False  # whether it only shows that every step runs, so that its numbers mean nothing
    model: dict[str, Any] = {}
    base: dict[str, Any]
    sft: dict[str, Any]
    sampling: dict[str, Any] = {}
    rl: dict[str, Any]
    methods: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = {}  # settings of a run, and of those like it, that this scale has chosen
    reward: dict[str, Any] = {}
    weak_reward: dict[str, Any] = {}
    preference_reward: dict[str, Any] = {}


def load_scale(path: str | Path, defaults: dict) -> dict:
    """A scale file; with the catalogue's ``defaults`` every section makes a valid configuration, else UserError."""
    scale = read_yaml(path)
    line = {"label": "", "init": BASE, "evaluate": ["yes"]}
    with error_prefix(path):
        from_dict(Scale, scale)
        for stage in (BASE, SFT, "rl"):
            _compose(scale, defaults, line | {"stage": stage}, stage, Path(path).stem, 0)
        for method in scale.get("methods", {}):
            facts = METHODS.load(method, f"methods.{method}").FACTS
            parts = list(facts.trains[0])
            noise = {} if facts.noise_inside else {"same_noise": False}
            settled, refused = line | {"stage": "rl", "method": method, "train": parts} | noise, []
            for regulariser in ("none", *REGULARISERS.names()):  # its runs will name one that it works with
                try:
                    _compose(scale, defaults, settled | {"regulariser": regulariser}, method, Path(path).stem, 0)
                    break
                except UserError as error:
                    refused.append(error)
            else:
                raise refused[0]
    return scale


def _settings(line: dict) -> dict:
    """The settings of its stage that a run's line makes."""
    return {key: value for key, value in line.items() if key not in (*COMMON, "seeds", "like")}


def _compose(
    scale: dict, defaults: dict, line: dict, run: str, scale_name: str, seed: int, data: dict | None = None
) -> RunConfig:
    """``data``: what the run's supervised ancestor changes in the scale's; a reinforced run knows its data by it."""
    common = {key: line[key] for key in COMMON}
    chosen = [scale.get("runs", {}).get(each, {}) for each in line.get("like", ())]
    settings = reduce(or_, chosen, {}) | _settings(line)
    sections = {key: scale.get(key, {}) for key in ("model", "sampling", "reward")}
    sections["weak_reward"] = sections["reward"] | scale.get("weak_reward", {})
    sections["preference_reward"] = sections["reward"] | {"annotator": {}} | scale.get("preference_reward", {})
    if line["stage"] == "rl":
        method = settings.get("method", defaults.get("method"))
        painted = {key: value for key, value in sections["sampling"].items() if key in PAINTING}
        sections["rl"] = defaults | painted | scale["rl"] | scale.get("methods", {}).get(method, {}) | settings
        sections["supervised"] = scale.get(SFT, {}) | (data or {})
    else:
        stage = dict(scale[line["stage"]])
        common |= {key: stage.pop(key) for key in ("source", "released", "language_model") if key in stage}
        sections["supervised"] = stage | settings
    machine = {key: scale[key] for key in Machine.model_fields if key in scale}
    return from_dict(RunConfig, {"run": run, "scale": scale_name, "seed": seed, **common, **machine, **sections})


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
        """The replicates of a run: the scale's, or fewer by its line; a ceiling has those of the run that it bounds,
        and none where the backbone is not the world's."""
        line, most = self.catalogue["runs"][run], self.scale["seeds"]
        if line["stage"] == CEILING:
            released = BACKBONES.load(self.scale["backbone"], "backbone").FACTS.released
            return range(0) if released else self.seeds(line["init"])
        return range(min(most, line.get("seeds") or most))

    def trained_seeds(self, run: str) -> range:
        """Those with weights of their own: the base is one model, sampled at every seed."""
        return range(1) if self.catalogue["runs"][run]["stage"] == BASE else self.seeds(run)

    def weights(self, run: str, seed: int) -> tuple[str, int]:
        """The run and seed whose weights a run has at ``seed``: the same seed's, or its only ones."""
        if self.catalogue["runs"][run]["stage"] == CEILING:
            return self.parent(run, seed)
        return run, seed if seed in self.trained_seeds(run) else 0

    def parent(self, run: str, seed: int) -> tuple[str, int]:
        """The run and seed that ``run`` starts from."""
        return self.weights(self.catalogue["runs"][run]["init"], seed)

    def modes(self, run: str) -> list[str]:
        """How a run is evaluated."""
        return [MODES[mode] for mode in self.catalogue["runs"][run]["evaluate"]]

    def resolve(self, run: str, seed: int = 0) -> RunConfig:
        """The configuration of ``run`` at ``seed``. Raises UserError naming the run's key."""
        runs, defaults = self.catalogue["runs"], self.catalogue["defaults"]
        if run not in runs:
            raise UserError(f"runs: no run is called {run!r}{nearest(run, runs)}")
        if runs[run]["stage"] == OUTSIDE:
            raise UserError(f"runs.{run}: expected a run that is trained, its images are made elsewhere")
        if runs[run]["stage"] == CEILING:
            about = {"run": run} | {key: runs[run][key] for key in ("label", "init", "evaluate", "ceiling")}
            return from_dict(RunConfig, to_dict(self.resolve(runs[run]["init"], seed)) | about)
        try:
            sft = next((name for name in ancestors(runs, run, "init") if runs[name]["stage"] == SFT), None)
            data = _settings(runs[sft]) if sft else {}
            config = _compose(self.scale, defaults, runs[run], run, self.scale_name, seed, data)
            if config.stage == "rl":
                check_reward(config.rl.reward, config.rl.reward_options, "rl.reward", "rl.reward_options")
                with error_prefix("rl.prompt_file"):
                    training_pool(config)
            return config
        except UserError as error:
            raise UserError(re.sub(r"^(rl|supervised)\.", f"runs.{run}.", str(error))) from None

    def config(self, run: str, seed: int) -> dict:
        """The same as JSON holds it; of images made elsewhere what their line says."""
        line = self.catalogue["runs"].get(run, {})
        if line.get("stage") != OUTSIDE:
            return to_dict(self.resolve(run, seed))
        where = {"images": str(self.outside(run, seed)), "backbone": self.scale["backbone"]}
        return {"run": run, "scale": self.scale_name, "seed": seed} | line | where

    def outside(self, run: str, seed: int) -> Path:
        """Where the images of a run that another program has made lie."""
        return ROOT / self.catalogue["runs"][run]["images"].replace("{seed}", str(seed))


@declarations()
def load_study(catalogue_file: Path, scale_folder: Path, options: dict) -> Study:
    """The study that ``options`` choose: ``scale`` (default cpu), ``seeds`` in place of the scale's, a ``run`` of the
    catalogue, and a ``group`` of its tables and figures. Every run is resolved once, so that bad settings are met
    before anything runs. Raises UserError."""
    for key in options.keys() - set(OPTIONS):
        raise UserError(f"--config {key}: unknown option{nearest(key, OPTIONS)}")
    for key in options.keys() & WORDS:
        require(options[key] == WORDS[key], f"--config {key}={options[key]}", f"{key}={WORDS[key]}")
    study = _read_study(catalogue_file, scale_folder, str(options.get("scale", "cpu")), "--config scale=")
    runs, specs = study.catalogue["runs"], [*study.catalogue["tables"].values(), *study.catalogue["figures"].values()]
    groups = list(dict.fromkeys(spec["group"] for spec in specs if "group" in spec))
    if "run" in options and options["run"] not in runs:
        members = [run for run in runs if run.startswith(f"{options['run']}_")]
        hint = f"; there are {', '.join(members)}" if members else nearest(options["run"], runs)
        raise UserError(f"--config run={options['run']}: no such run{hint}")
    if "group" in options and options["group"] not in groups:
        raise UserError(f"--config group={options['group']}: no such group{nearest(options['group'], groups)}")
    study = replace(study, scale=study.scale | {"seeds": options.get("seeds", study.scale["seeds"])})
    from_dict(Scale, study.scale, "--config")
    asked = [options["run"]] if "run" in options else []
    try:
        for name, benchmark in study.catalogue["benchmarks"].items():
            closed = BACKBONES.load(study.scale["backbone"], "backbone").FACTS.closed_vocabulary
            benchmark.check(f"benchmarks.{name}", closed)
        _check_runs(study)
        for run in {*runs_in_use(study.catalogue), *asked}:
            with error_prefix(f"runs.{run}"):
                _check_machine_or_images(study, run)
    except UserError as error:
        raise UserError(f"{catalogue_file}: {error} (with {scale_folder / study.scale_name}.yaml)") from None
    return study


def _check_machine_or_images(study: Study, run: str) -> None:
    if study.catalogue["runs"][run]["stage"] != OUTSIDE:
        return check_together(study.resolve(run))
    for path in (study.outside(run, seed) for seed in study.seeds(run)):
        require(path.exists(), f"images: {path}", "a folder of images, or a JSON file that names them")


def _read_study(catalogue_file: Path, scale_folder: Path, scale: str, option: str) -> Study:
    """The catalogue at ``scale``, which follows ``option`` on the command line."""
    scales = [path.stem for path in scale_folder.glob("*.yaml")]
    if scale not in scales:
        raise UserError(f"{option}{scale}: no such file in {scale_folder}{nearest(scale, scales)}")
    file = scale_folder / f"{scale}.yaml"
    if not NAME.fullmatch(scale) or scale == "reference":  # a pattern and a word of a shell, and a folder of results
        raise UserError(f"{file}: expected a name of small letters, digits and underscores, and not 'reference'")
    catalogue = load_catalogue(catalogue_file, json.loads(os.environ.get(LINES, "{}")))
    settings = load_scale(file, catalogue["defaults"])
    for run in settings.get("runs", {}).keys() - catalogue["runs"].keys():
        raise UserError(f"{file}: runs.{run}: no run is called {run!r}{nearest(run, catalogue['runs'])}")
    return Study(catalogue, scale, settings)


def _check_runs(study: Study) -> None:
    """Every run can be resolved, none twice under two names, and no line has a setting that changes nothing; but errors
    in supervised data, which ablations of the world set, mean nothing to another backbone."""
    runs = study.catalogue["runs"]
    seen: dict[str, str] = {}
    for run in study.runs(BASE, SFT, "rl"):
        config = study.resolve(run)
        if config.stage != "rl" and config.backbone_facts.released:
            continue
        same = fingerprint({k: v for k, v in to_dict(config).items() if k not in ("run", "label", "evaluate")})
        if same in seen:
            raise UserError(f"runs.{run}: is the same run as {seen[same]}, expected a setting that differs")
        seen[same] = run
        for key, line in study.catalogue["overrides"][run].items():
            place = {key: runs[run][key] for key in ("stage", "init", "like")}
            without = runs | {run: {"label": run} | place | line}
            try:
                changed = replace(study, catalogue=study.catalogue | {"runs": without}).resolve(run) != config
            except UserError:
                continue  # the line does not work without it
            if not changed:
                same = f"{key} is {runs[run][key]} without it; leave it out"
                raise UserError(f"runs.{run}.{key}: changes nothing, {same}")


@declarations()
def chosen_study(scale: str) -> Study:
    """This checkout's catalogue at ``scale``, its runs not checked. Raises UserError."""
    return _read_study(CATALOGUE, SCALES, scale, "--scale ")


@cache
@declarations()
def benchmarks() -> dict[str, Benchmark]:
    """Those of this checkout's catalogue. Raises UserError."""
    return load_catalogue(CATALOGUE)["benchmarks"]


@cache
@declarations()
def runs() -> list[str]:
    """The same of its runs."""
    return list(load_catalogue(CATALOGUE)["runs"])


@declarations()
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


@declarations()
def part(resolved: dict, name: str) -> dict:
    """The settings of a resolved configuration that decide one step's outcome: it is done again when they change. Marks
    beside the settings say which do (``core.settings.Decides``).

    ``config``: all of them, for tables and figures; ``training``: those of the weights and the training record;
    ``steps``: the same, but for the length of a run that can go on; ``reward``: of the learned reward and its data,
    ``weak_reward``, ``preference_reward``: of the weaker one, and of that which learns preferences; ``tuning``: of the
    choice of decoding; ``evaluation``: of the images judged. Of a regulariser that a reinforced run does not name,
    settings at their defaults decide nothing.
    """
    if name == "config":
        return resolved
    found, kinds = deciding(RunConfig, resolved, name), {"supervised": SupervisedConfig, "sampling": SamplingConfig}
    if resolved["stage"] != "rl":
        found.pop("rl", None)
    else:
        rl, facts = resolved["rl"], METHODS.load(resolved["rl"]["method"], "rl.method").FACTS
        kinds["rl"] = rl_class(rl["method"])
        found |= {"rl": {k: v for k, v in rl.items() if not _idle(rl, k)}} if "rl" in found else {}
        if "sft_data" not in facts.needs:
            found.pop("supervised", None)
    found |= {key: deciding(kind, found[key], name) for key, kind in kinds.items() if key in found}
    if name == "steps" and resolved["stage"] == "rl" and facts.schedule:
        found["rl"]["rollouts"] = rl["rollouts"]
    return found


def _idle(rl: dict, key: str) -> bool:
    """Whether a setting is one of a regulariser that a reinforced run does not name, and has its default."""
    others = (REGULARISERS.load(name) for name in REGULARISERS.names() if name != rl["regulariser"])
    fields = [other.Settings.model_fields.get(key) for other in others]
    return any(field is not None and field.default == rl[key] for field in fields)


def fingerprint(settings: object) -> str:
    """A short name for settings: equal where they are equal, so that a changed one is a changed job."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
