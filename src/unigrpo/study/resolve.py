"""From the catalogue to a run: ``run config = catalogue's defaults + scale (+ its method's) + the run's line``.

The catalogue (``pipelines/experiments.yaml``) names runs, tables and figures; a scale file
(``pipelines/scales/*.yaml``) holds sizes, seeds and optimiser settings. ``resolve`` composes one run at one
seed into a :class:`~unigrpo.study.config.RunConfig`; every later step reads only that. The workflow calls the same
functions while it is parsed, so nothing here imports torch, and everything wrong is one UserError naming file
and key.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from unigrpo.core import files
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.registry import nearest
from unigrpo.core.settings import Count, Settings, from_dict, to_dict
from unigrpo.core.yaml_files import read_yaml
from unigrpo.study.catalogue import BASE, COMMON, SFT, ancestors
from unigrpo.study.config import RunConfig
from unigrpo.study.facts import METHODS, REGULARISERS
from unigrpo.study.training_inputs import check_reward, training_pool

LAYOUT = ("processes", "sharding", "activation_checkpointing")  # among devices, of SFT and reinforcement
MACHINE = ("backbone", "device", "precision", "threads", *LAYOUT)  # keys of a scale that a run has too


class Scale(Settings):
    """A scale file: sizes, seeds, machine and optimiser settings that all runs share."""

    seeds: Annotated[int, Field(ge=1, le=1000)]
    backbone: str
    device: str = "auto"
    precision: Literal["no", "bf16"] = "no"
    threads: Count = 1
    processes: Count = 1
    sharding: bool = False
    activation_checkpointing: bool = False
    memory: Count = 4000  # MB of the machine, for a process that holds a model
    memory_of_training: Count | None = None  # the same for all processes of SFT or reinforcement
    hours: Count = 24  # that the longest step may take
    model: dict[str, Any] = {}
    base: dict[str, Any]
    sft: dict[str, Any]
    sampling: dict[str, Any] = {}
    rl: dict[str, Any]
    methods: dict[str, dict[str, Any]] = {}
    reward: dict[str, Any] = {}
    weak_reward: dict[str, Any] = {}


def load_scale(path: str | Path, defaults: dict) -> dict:
    """Read a scale file and check it with the catalogue's ``defaults``: every section makes a valid configuration.
    Raises UserError."""
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
            settled = {"stage": "rl", "method": method, "train": parts} | noise
            _compose_with_any(scale, defaults, line | settled, method, Path(path).stem)
    return scale


def _compose_with_any(scale: dict, defaults: dict, line: dict, method: str, scale_name: str) -> None:
    """Raise UserError unless the settings of a method work with some regulariser, which its runs will name."""
    refused = None
    for regulariser in ("none", *REGULARISERS.names()):
        try:
            _compose(scale, defaults, line | {"regulariser": regulariser}, method, scale_name, 0)
            return
        except UserError as error:
            refused = refused or error
    raise refused


def resolve(catalogue: dict, scale: dict, scale_name: str, run: str, seed: int) -> RunConfig:
    """The configuration of ``run`` at ``seed``. Raises UserError naming the run's key."""
    if run not in catalogue["runs"]:
        raise UserError(f"runs: no run is called {run!r}{nearest(run, catalogue['runs'])}")
    try:
        runs = catalogue["runs"]
        sft = next((name for name in ancestors(runs, run, "init") if runs[name]["stage"] == SFT), None)
        data = _settings(runs[sft]) if sft else {}
        config = _compose(scale, catalogue["defaults"], runs[run], run, scale_name, seed, data)
        if config.stage == "rl":
            check_reward(config.rl.reward, config.rl.reward_options, "rl.reward", "rl.reward_options")
            with error_prefix("rl.prompt_file"):
                training_pool(config)
        return config
    except UserError as error:
        raise UserError(re.sub(r"^(rl|supervised)\.", f"runs.{run}.", str(error))) from None


def _settings(line: dict) -> dict:
    """The settings of its stage that a run's line makes."""
    return {key: value for key, value in line.items() if key not in (*COMMON, "seeds")}


def _compose(
    scale: dict, defaults: dict, line: dict, run: str, scale_name: str, seed: int, data: dict | None = None
) -> RunConfig:
    """``data``: what the run's supervised ancestor changes in the scale's; a reinforced run knows its data by it."""
    common = {key: line[key] for key in COMMON}
    settings = _settings(line)
    sections = {key: scale.get(key, {}) for key in ("model", "sampling", "reward")}
    sections["weak_reward"] = sections["reward"] | scale.get("weak_reward", {})
    if line["stage"] == "rl":
        method = settings.get("method", defaults.get("method"))
        sections["rl"] = defaults | scale["rl"] | scale.get("methods", {}).get(method, {}) | settings
        sections["supervised"] = scale.get(SFT, {}) | (data or {})
    else:
        stage = dict(scale[line["stage"]])
        common |= {key: stage.pop(key) for key in ("source", "released", "language_model") if key in stage}
        sections["supervised"] = stage | settings
    machine = {key: scale[key] for key in MACHINE if key in scale}
    return from_dict(RunConfig, {"run": run, "scale": scale_name, "seed": seed, **common, **machine, **sections})


# --------------------------------------------------------------------------------------- what depends on what
# A step resolves all of a configuration, but is done again only when its part of it has changed. Tables and figures
# depend on ``config``.
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
    wanted = {"training": trained, "reward": {"reward"}, "weak_reward": {"weak_reward"}}.get(name, set())
    if name == "training" and stage == "rl" and "sft_data" in METHODS.load(resolved["rl"]["method"]).FACTS.needs:
        wanted = wanted | {"supervised"}
    drop = {"label", "evaluate", "supervised", "rl", "reward", "weak_reward", *LAYOUT} - wanted
    unread = {"evaluation": _TUNING, "tuning": _EVALUATION}.get(name, _TUNING | _EVALUATION)
    sampling = {key: value for key, value in resolved["sampling"].items() if key not in unread}
    return {key: value for key, value in resolved.items() if key not in drop} | {"sampling": sampling}


def fingerprint(settings: object) -> str:
    """A short name for settings: equal where they are equal, so that a changed one is a changed job."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


def training_fingerprint(resolved: RunConfig, *inputs: Path) -> str:
    """Fingerprint of all that decides the trained weights: settings, and the contents of the files started from."""
    return fingerprint([part(to_dict(resolved), "training"), *map(files.digest, inputs)])
