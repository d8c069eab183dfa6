"""From the catalogue to a run: ``run config = defaults + scale (+ its method's) + the run's own line``.

The catalogue (``pipelines/experiments.yaml``) names runs, tables and figures; a scale file
(``pipelines/scales/*.yaml``) holds sizes, seeds and optimiser settings. ``resolve`` composes one run at one
seed into a :class:`~unigrpo.config.RunConfig`; every later step reads only that. The workflow calls the same
functions while it is parsed, so nothing here imports torch, and everything wrong is one UserError naming file
and key.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unigrpo import cli, files
from unigrpo.config import RLConfig, RunConfig, SupervisedConfig, check_processes, from_dict, reward_parts, to_dict
from unigrpo.schema import check, nearest, read_yaml
from unigrpo.types import UserError
from unigrpo.world.pool import training_pool

REWARDS = Path(__file__).resolve().parents[2] / "rewards"
METHODS = Path(__file__).parent / "methods"
CONTRACT = ("NEEDS", "roll_out", "make_slices", "losses")  # of a file in METHODS
BUILD = re.compile(r"^def build\(", re.MULTILINE)  # of a file in REWARDS that is a reward
FROM_WORKFLOW = {"learned": ["path"], "weak": ["path"]}  # options given to the reward that a run is trained by
BASE = "base"  # the one run without a parent
SFT = "sft"  # the run that decoding is chosen and the reward learned on
COMMON = ("label", "stage", "init", "evaluate")  # keys of a run's line that are not settings of its stage
MODES = {"yes": "think", "no": "direct"}  # thinking at evaluation, as tables say it -> as files say it
LAYOUT = ("processes", "sharding", "activation_checkpointing")  # among devices, of SFT and reinforcement
OF_TRAINING = (  # kinds of table and figure that need no images of their runs
    "training", "curves", "progress", "regularisers", "overoptimisation", "frontier", "mechanism", "sheets"
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- the catalogue
def load_catalogue(path: str | Path) -> dict:
    """Read the catalogue, check it and fill every run's line in: ``like`` followed, label and stage set.

    Returns ``{"runs": {name: line}, "tables": {name: spec}, "figures": {name: spec}, "overrides": {name: {key:
    line}}}``, where a line holds ``label``, ``stage`` (base, sft or rl), ``init``, ``evaluate`` and its own settings,
    and the last is a run's line without each setting that it makes itself. Raises UserError.
    """
    catalogue = read_yaml(path)
    check(catalogue, "experiments", path)
    for name in (BASE, SFT):
        if name not in catalogue["runs"]:
            raise UserError(f"{path}: runs.{name}: missing, the workflow needs a run of this name")
    runs, sweeps = _spread(path, catalogue["runs"])
    lines = {name: {"label": name, **_inherit(path, runs, name)} for name in runs}
    kept = {name: _overrides(runs, catalogue["runs"], name) for name in runs}
    for name, line in lines.items():
        line["stage"] = BASE if name == BASE else "rl" if "train" in line else "sft"
        line.setdefault("init", None)
        _check_line(path, name, line)
    for name in lines:
        _follow(path, lines, name, "init")
    filled = {"runs": lines, "overrides": kept}
    for kind in ("tables", "figures"):
        filled[kind] = {name: _name_each(spec, sweeps) for name, spec in catalogue.get(kind, {}).items()}
        for name, spec in filled[kind].items():
            _check_spec(path, f"{kind}.{name}", spec, lines)
    return filled


def _spread(path, runs: dict) -> tuple[dict, dict[str, list[str]]]:
    """Every run with ``vary: {setting: [values]}`` replaced by one run per value, called ``<name>_<setting>_<value>``;
    and the names that each was replaced by."""
    spread, sweeps = {}, {}
    for name, line in runs.items():
        if "vary" not in line:
            spread[name] = line
            continue
        ((setting, values),) = line["vary"].items()
        own = {key: value for key, value in line.items() if key != "vary"}
        members = {
            re.sub(r"[^a-z0-9_]", "_", f"{name}_{setting}_{value}".lower()): own
            | {"label": f"{line.get('label', name)}, {setting} {value}", setting: value}
            for value in values
        }
        for clash in members.keys() & (runs.keys() | spread.keys()):
            raise UserError(f"{path}: runs.{name}.vary: makes a run called {clash!r}, which is there already")
        spread |= members
        sweeps[name] = list(members)
    return spread, sweeps


def _name_each(spec: dict, sweeps: dict[str, list[str]]) -> dict:
    """A table or figure with each run that is varied named value by value."""
    named_each = dict(spec)
    if "runs" in spec:
        named_each["runs"] = [run for name in spec["runs"] for run in sweeps.get(name, [name])]
    if "rows" in spec:
        named_each["rows"] = [[run, *mode] for name, *mode in spec["rows"] for run in sweeps.get(name, [name])]
    return named_each


def _follow(path, runs: dict, name: str, key: str) -> list[str]:
    """The chain of runs from ``name`` along ``key`` (``like`` or ``init``); every name known, none twice."""
    chain = [name]
    while (parent := runs[chain[-1]].get(key)) is not None:
        if parent not in runs:
            raise UserError(f"{path}: runs.{chain[-1]}.{key}: no run is called {parent!r}{nearest(parent, runs)}")
        if parent in chain:
            raise UserError(f"{path}: runs.{name}.{key}: goes round in a circle ({' -> '.join([*chain, parent])})")
        chain.append(parent)
    return chain


def _inherit(path, runs: dict, name: str) -> dict:
    """A run's line laid over the lines it is ``like``; a label is its own and is not inherited."""
    merged = {}
    for ancestor in reversed(_follow(path, runs, name, "like")):
        merged.pop("label", None)
        merged |= runs[ancestor]
    merged.pop("like", None)
    return merged


def _overrides(runs: dict, written: dict, name: str) -> dict[str, dict]:
    """The line of ``name`` without each setting of its own; those that a sweep varies are what it is for."""
    own = runs[name].keys() - {*COMMON, "seeds", "like", "train"} if name in written else set()
    return {key: _inherit("", runs | {name: {k: v for k, v in runs[name].items() if k != key}}, name) for key in own}


def _check_line(path, name: str, line: dict) -> None:
    """What the schema cannot say of a run: it has a parent, a mode, and only settings of its own stage."""
    where = f"{path}: runs.{name}"
    if line["init"] is None and name != BASE:
        raise UserError(f"{where}.init: missing, the run it starts from (only {BASE} has none)")
    if line["init"] is not None and name == BASE:
        raise UserError(f"{where}.init: unexpected, {BASE} starts from nothing")
    if not line.get("evaluate"):
        raise UserError(f"{where}.evaluate: missing, [yes], [no] or [no, yes] (thinking at evaluation)")
    known = {field.name for field in dataclasses.fields(_section(line["stage"]))}
    for key in line.keys() - known - {*COMMON, "seeds"}:
        ours = key in {field.name for field in dataclasses.fields(RLConfig)}
        hint = "; it needs `train`: [text], [image] or both" if ours else nearest(key, known)
        raise UserError(f"{where}.{key}: not a setting of {line['stage']} runs{hint}")


def _check_spec(path, where: str, spec: dict, runs: dict) -> None:
    """A table or figure has what its kind needs, of runs that exist and are evaluated in the mode asked."""
    needed = "rows" if spec["kind"] in ("main", "categories") else "runs"
    if needed not in spec:
        raise UserError(f"{path}: {where}.{needed}: missing, kind {spec['kind']} shows them")
    mode = "yes" if spec["kind"] in ("decoding", "guidance") else None
    wanted = [(f"rows.{i}", *row) for i, row in enumerate(spec.get("rows", []))]
    wanted += [(f"runs.{i}", run, mode) for i, run in enumerate(spec.get("runs", []))]
    for key, run, mode in wanted:
        if run not in runs:
            raise UserError(f"{path}: {where}.{key}: no run is called {run!r}{nearest(run, runs)}")
        if mode and mode not in runs[run]["evaluate"]:
            raise UserError(f"{path}: {where}.{key}: run {run!r} is not evaluated with thinking {mode!r}")
        trained = spec["kind"] == "guidance" or (spec["kind"] in OF_TRAINING and spec["kind"] != "curves")
        if trained and runs[run]["stage"] != "rl":
            raise UserError(f"{path}: {where}.{key}: run {run!r} is not trained by reinforcement")


def named(spec: dict) -> list[str]:
    """The runs that a table or figure names, each once, in its order."""
    return list(dict.fromkeys([*spec.get("runs", []), *(row[0] for row in spec.get("rows", []))]))


def by_default(specs: dict) -> list[str]:
    """The tables or figures that are made unless they say ``default: false`` or belong to a group."""
    return [name for name, spec in specs.items() if spec.get("default", "group" not in spec)]


def of_group(specs: dict, group: str | None) -> list[str]:
    """The tables or figures of a group, which are made together when it is asked for."""
    return [name for name, spec in specs.items() if group is not None and spec.get("group") == group]


def groups(catalogue: dict) -> list[str]:
    """The names of all groups."""
    specs = [*catalogue["tables"].values(), *catalogue["figures"].values()]
    return list(dict.fromkeys(spec["group"] for spec in specs if "group" in spec))


def runs_in_use(catalogue: dict, judged: bool = False) -> list[str]:
    """Runs that a default table or figure names, and all they descend from, in the catalogue's order; where ``judged``,
    only for the tables and figures that need images."""
    specs = [catalogue[kind][name] for kind in ("tables", "figures") for name in by_default(catalogue[kind])]
    shown = {run for spec in specs if not (judged and spec["kind"] in OF_TRAINING) for run in named(spec)}
    used = {ancestor for run in shown for ancestor in _follow("", catalogue["runs"], run, "init")}
    return [run for run in catalogue["runs"] if run in used]


# ---------------------------------------------------------------------------------------------------- one run
def load_scale(path: str | Path) -> dict:
    """Read a scale file and check it alone: every section makes a valid configuration. Raises UserError."""
    scale = read_yaml(path)
    check(scale, "scale", path)
    line = {"label": "", "init": BASE, "evaluate": ["yes"]}
    try:
        for stage in (BASE, SFT, "rl"):
            _compose(scale, line | {"stage": stage}, stage, Path(path).stem, 0)
        for method in scale.get("methods", {}):
            run = line | {"stage": "rl", "method": method, "train": ["image"], "same_noise": False}
            _compose(scale, run, method, Path(path).stem, 0)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return scale


def resolve(catalogue: dict, scale: dict, scale_name: str, run: str, seed: int) -> RunConfig:
    """The configuration of ``run`` at ``seed``. Raises UserError naming the run's key."""
    if run not in catalogue["runs"]:
        raise UserError(f"runs: no run is called {run!r}{nearest(run, catalogue['runs'])}")
    try:
        line = catalogue["runs"][run]
        config = _compose(scale, line, run, scale_name, seed, _data_of(catalogue["runs"], run))
        if config.stage == "rl":
            _check_inputs(config.rl)
        return config
    except UserError as error:
        raise UserError(re.sub(r"^(rl|supervised)\.", f"runs.{run}.", str(error))) from None


def _data_of(runs: dict, run: str) -> dict:
    """The settings of the supervised stage that ``run`` descends from, as its own line has them."""
    ancestor = next((name for name in _follow("", runs, run, "init") if runs[name]["stage"] == SFT), None)
    return {key: value for key, value in runs[ancestor].items() if key not in (*COMMON, "seeds")} if ancestor else {}


def reward_names() -> list[str]:
    """The files in ``rewards/`` that are rewards: those with a function ``build``. Imports none of them."""
    return sorted(path.stem for path in REWARDS.glob("*.py") if BUILD.search(files.read_text(path)))


def _check_inputs(rl: RLConfig) -> None:
    """The method, the reward and the prompts that a run names are there and can be trained with."""
    method = METHODS / f"{rl.method}.py"
    if missing := [name for name in CONTRACT if not re.search(rf"^(def )?{name}\b", files.read_text(method), re.M)]:
        raise UserError(f"rl.method: {method.name} has no {', '.join(missing)}; unigrpo.methods says what it needs")
    _check_reward(rl.reward, rl.reward_options, "rl.reward", "rl.reward_options")
    try:
        training_pool(rl)
    except UserError as error:
        raise UserError(f"rl.prompt_file: {error}") from None


def _check_reward(reward: str, options: dict, key: str, options_key: str) -> None:
    """The reward is there and takes these options, and so does every part of a weighted sum."""
    path = REWARDS / f"{reward}.py"
    text = files.read_text(path) if reward.isidentifier() and path.exists() else ""
    if not BUILD.search(text):
        raise UserError(f"{key}: no reward of this name in rewards/: {reward!r}{nearest(reward, reward_names())}")
    needed, taken = _options_of(text, path)
    for name in options:
        if taken is not None and name not in taken:
            raise UserError(f"{options_key}.{name}: not an option of the reward {reward}{nearest(name, taken)}")
    given = FROM_WORKFLOW.get(reward, []) if key == "rl.reward" else []
    for name in needed:
        if name not in options and name not in given:
            raise UserError(f"{options_key}.{name}: missing, the reward {reward} needs it")
    if reward == "weighted":
        for name, part in reward_parts(options["parts"], f"{options_key}.parts").items():
            where = f"{options_key}.parts.{name}"
            _check_reward(part.reward or name, part.options, f"{where}.reward", f"{where}.options")


@cache
def _options_of(text: str, path: Path) -> tuple[list[str], list[str] | None]:
    """The options that ``build`` in this source needs, and all that it takes (None: any). Does not run it."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: not Python ({error.msg})") from None
    build = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build")
    plain = [*build.args.posonlyargs, *build.args.args]
    needed = plain[: len(plain) - len(build.args.defaults)]
    needed += [a for a, default in zip(build.args.kwonlyargs, build.args.kw_defaults, strict=True) if default is None]
    taken = None if build.args.kwarg else [a.arg for a in (*plain, *build.args.kwonlyargs)]
    return [a.arg for a in needed], taken


def _section(stage: str) -> type:
    return RLConfig if stage == "rl" else SupervisedConfig


def _compose(scale: dict, line: dict, run: str, scale_name: str, seed: int, data: dict | None = None) -> RunConfig:
    """``data``: what the run's supervised ancestor changes in the scale's; a reinforced run knows its data by it."""
    common = {key: line[key] for key in COMMON}
    settings = {key: value for key, value in line.items() if key not in (*COMMON, "seeds")}
    own = dict(scale.get(line["stage"], {}))
    sections = {key: scale.get(key, {}) for key in ("model", "sampling", "rl", "reward")}
    sections["weak_reward"] = sections["reward"] | scale.get("weak_reward", {})
    origin = {key: own.pop(key) for key in ("source", "released", "language_model") if key in own}
    if line["stage"] == "rl":
        own |= scale.get("methods", {}).get(settings.get("method", RLConfig.method), {})
        sections["supervised"] = scale.get(SFT, {}) | (data or {})
    sections["rl" if line["stage"] == "rl" else "supervised"] = own | settings
    machine = {key: scale[key] for key in ("backbone", "device", "precision", "threads", *LAYOUT) if key in scale}
    return from_dict(
        RunConfig, {"run": run, "scale": scale_name, "seed": seed, **common, **origin, **machine, **sections}
    )


# --------------------------------------------------------------------------------------- what depends on what
# A step reads a whole configuration, but is run again only when its own part of it has changed. The part's
# name is the name of the JSON file that the step reads; tables and figures read ``config``.
PARTS = ("config", "training", "reward", "weak_reward", "tuning", "evaluation")
_EVALUATION = {"images_per_prompt", "batch_size"}
_TUNING = {"guidance_grid", "temperature_grid"}


def part(resolved: dict, name: str) -> dict:
    """The settings of a resolved configuration that decide one step's outcome.

    ``config``: all of them; ``training``: those of the weights and the training record; ``reward``: of the learned
    reward and its data, ``weak_reward``: of the weaker one; ``tuning``: of the choice of decoding; ``evaluation``: of
    the images judged.
    """
    if name == "config":
        return resolved
    stage = "rl" if resolved["stage"] == "rl" else "supervised"
    trained = {stage} if resolved["stage"] == BASE else {stage, *LAYOUT}
    own = {"training": trained, "reward": {"reward"}, "weak_reward": {"weak_reward"}}.get(name, set())
    if name == "training" and stage == "rl" and _needs_data(resolved["rl"]["method"]):
        own = own | {"supervised"}
    drop = {"label", "evaluate", "supervised", "rl", "reward", "weak_reward", *LAYOUT} - own
    unread = {"evaluation": _TUNING, "tuning": _EVALUATION}.get(name, _TUNING | _EVALUATION)
    sampling = {key: value for key, value in resolved["sampling"].items() if key not in unread}
    return {key: value for key, value in resolved.items() if key not in drop} | {"sampling": sampling}


def _needs_data(method: str) -> bool:
    """Whether the method asks for the data of supervised fine-tuning. Does not import it."""
    return bool(re.search(r'^NEEDS\b.*"data"', files.read_text(METHODS / f"{method}.py"), re.MULTILINE))


def fingerprint(settings: object) -> str:
    """A short name for settings: equal where they are equal, so that a changed one is a changed job."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


def training_fingerprint(resolved: RunConfig, *inputs: Path) -> str:
    """Fingerprint of all that decides the trained weights: settings, and the contents of the files started from."""
    return fingerprint([part(to_dict(resolved), "training"), *map(files.digest, inputs)])


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
        """How a run is evaluated; with greedy text too where a decoding table starts with it."""
        decoding = [spec for spec in self.catalogue["tables"].values() if spec["kind"] == "decoding"]
        greedy = ["greedy"] if any(spec["runs"][0] == run for spec in decoding) else []
        return [MODES[mode] for mode in self.catalogue["runs"][run]["evaluate"]] + greedy

    def config(self, run: str, seed: int) -> dict:
        return to_dict(resolve(self.catalogue, self.scale, self.scale_name, run, seed))


OPTIONS = ("scale", "seeds", "run", "group")


def _check_runs(catalogue: dict, scale: dict, scale_name: str) -> None:
    """Every run can be resolved, none twice under two names, and no line has a setting that changes nothing; but errors
    in supervised data, which ablations of the world set, mean nothing to another backbone."""
    seen: dict[str, str] = {}
    for run in catalogue["runs"]:
        config = resolve(catalogue, scale, scale_name, run, 0)
        if config.stage != "rl" and config.backbone != "world":
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
    catalogue, scale = load_catalogue(catalogue_file), load_scale(scale_file)
    runs = catalogue["runs"]
    if "run" in options and options["run"] not in runs:
        members = [run for run in runs if run.startswith(f"{options['run']}_")]
        hint = f"; there are {', '.join(members)}" if members else nearest(options["run"], runs)
        raise UserError(f"--config run={options['run']}: no such run{hint}")
    if "group" in options and options["group"] not in groups(catalogue):
        known = groups(catalogue)
        raise UserError(f"--config group={options['group']}: no such group{nearest(options['group'], known)}")
    scale = scale | {"seeds": options.get("seeds", scale["seeds"])}
    check(scale, "scale", "--config")
    asked = [options["run"]] if "run" in options else []
    try:
        _check_runs(catalogue, scale, name)
        for run in {*runs_in_use(catalogue), *asked}:
            _check_split(catalogue, scale, name, run)
    except UserError as error:
        raise UserError(f"{catalogue_file}: {error} (with {scale_file})") from None
    return Study(catalogue, name, scale)


def main() -> None:
    parser = cli.parser(
        "unigrpo.resolve",
        "Write one run's resolved configuration, or the spec of a table or figure.",
        catalogue="runs, tables and figures (YAML)",
        out="JSON file to write",
    )
    parser.add_argument("--scale-file", type=Path, help="sizes and settings (YAML); needed for --run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="name of the run")
    what.add_argument("--table", help="name of the table")
    what.add_argument("--figure", help="name of the figure")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    args = parser.parse_args()
    if args.run and not args.scale_file:
        parser.error("--run needs --scale-file")
    catalogue = load_catalogue(args.catalogue)
    scale = load_scale(args.scale_file) if args.run else {}
    try:
        if args.run:
            value = to_dict(resolve(catalogue, scale, args.scale_file.stem, args.run, args.seed))
        else:
            kind, name = ("tables", args.table) if args.table else ("figures", args.figure)
            if name not in catalogue[kind]:
                raise UserError(f"{kind}: nothing is called {name!r}{nearest(name, catalogue[kind])}")
            value = catalogue[kind][name]
    except UserError as error:
        raise UserError(f"{args.catalogue}: {error}") from None
    files.write_json(args.out, value)


if __name__ == "__main__":
    cli.run(main)
