"""From the catalogue to a run: ``run config = defaults + scale (+ its method's) + the run's own line``.

The catalogue (``pipelines/experiments.yaml``) names runs, tables and figures; a scale file
(``pipelines/scales/*.yaml``) holds sizes, seeds and optimiser settings. ``resolve`` composes one run at one
seed into a :class:`~unigrpo.study.config.RunConfig`; every later step reads only that. The workflow calls the same
functions while it is parsed, so nothing here imports torch, and everything wrong is one UserError naming file
and key.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from unigrpo.core import cli, files
from unigrpo.core.errors import UserError
from unigrpo.core.yaml_files import check, nearest, read_yaml
from unigrpo.study.catalogue import BASE, COMMON, SFT, ancestors, load_catalogue
from unigrpo.study.config import RLConfig, RunConfig, from_dict, reward_parts, to_dict
from unigrpo.world.pool import training_pool

REWARDS = Path(__file__).resolve().parents[3] / "rewards"
METHODS = Path(__file__).parents[1] / "methods"
CONTRACT = ("NEEDS", "roll_out", "make_slices", "losses")  # of a file in METHODS
BUILD = re.compile(r"^def build\(", re.MULTILINE)  # of a file in REWARDS that is a reward
FROM_WORKFLOW = {"learned": ["path"], "weak": ["path"]}  # options given to the reward that a run is trained by
LAYOUT = ("processes", "sharding", "activation_checkpointing")  # among devices, of SFT and reinforcement


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
            _check_inputs(config)
        return config
    except UserError as error:
        raise UserError(re.sub(r"^(rl|supervised)\.", f"runs.{run}.", str(error))) from None


def _data_of(runs: dict, run: str) -> dict:
    """The settings of the supervised stage that ``run`` descends from, as its own line has them."""
    ancestor = next((name for name in ancestors("", runs, run, "init") if runs[name]["stage"] == SFT), None)
    return {key: value for key, value in runs[ancestor].items() if key not in (*COMMON, "seeds")} if ancestor else {}


def reward_names() -> list[str]:
    """The files in ``rewards/`` that are rewards: those with a function ``build``. Imports none of them."""
    return sorted(path.stem for path in REWARDS.glob("*.py") if BUILD.search(files.read_text(path)))


def _check_inputs(cfg: RunConfig) -> None:
    """The method, the reward and the prompts that a run names are there and can be trained with."""
    rl, method = cfg.rl, METHODS / f"{cfg.rl.method}.py"
    if missing := [name for name in CONTRACT if not re.search(rf"^(def )?{name}\b", files.read_text(method), re.M)]:
        raise UserError(f"rl.method: {method.name} has no {', '.join(missing)}; unigrpo.methods says what it needs")
    _check_reward(rl.reward, rl.reward_options, "rl.reward", "rl.reward_options")
    try:
        training_pool(cfg)
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


def main() -> None:
    parser = cli.parser(
        "unigrpo.study.resolve",
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
