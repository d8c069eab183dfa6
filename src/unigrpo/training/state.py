"""What a run resumes from: ``state/state.safetensors``, its modules and its optimiser in one file with notes of what
made them; ``previous.safetensors`` is the one before, for the day that the newest cannot be read. A run is its
settings, its inputs and its code: what does not fit is never overwritten without a word."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unigrpo.core import code_identity, distributed, files
from unigrpo.core.distributed import like
from unigrpo.core.errors import UserError
from unigrpo.core.settings import flat, from_dict
from unigrpo.core.tensor_files import load_weights, open_tensors, read_tensors, write_tensors
from unigrpo.models.sharding import full
from unigrpo.study import provenance, resolve
from unigrpo.study.config import RunConfig

STATE, PREVIOUS, NEXT = "state.safetensors", "previous.safetensors", "next.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter
REASONS = {  # why a setting that lengthens a run cannot
    "supervised.steps": "the learning rate falls over all steps",
    "rl.rollouts": "the method has a schedule",
}
LAYOUT = ("threads", "processes", "sharding", "activation_checkpointing", "reduce_each_slice")


@dataclass(frozen=True)
class Notes:
    """Of a state after ``step`` of ``total`` steps: the flat settings and the digests of the inputs that made it, the
    ``pieces`` of the run so far, one a process, whether the validation that was due after the step was made, and
    ``counts`` of what was done."""

    step: int
    total: int
    settings: dict
    inputs: dict[str, str]
    pieces: list[dict]
    validated: bool
    counts: dict


Loaded = tuple[Notes, dict[str, Tensor]]  # a state and its tensors


def save_state(folder: Path, tensors: dict[str, Tensor], notes: Notes) -> None:
    """Write what a run resumes from. A kill at any moment leaves a complete state, and so does one damaged file."""
    about = {"notes": json.dumps(asdict(notes)), "sums": json.dumps(_sums(tensors))}
    write_tensors(folder / NEXT, tensors, about)
    with files.accessing(folder / STATE, "written"):
        if (folder / STATE).exists():
            os.replace(folder / STATE, folder / PREVIOUS)
        os.replace(folder / NEXT, folder / STATE)


def load_state(folder: Path) -> Loaded | None:
    """The newest state that can be read, None without any; says which is damaged. Raises UserError where all are."""
    damaged = []
    for path in (folder / NEXT, folder / STATE, folder / PREVIOUS):  # the first where a kill left it without its name
        if path.exists():
            try:
                found = _read(path)
            except UserError as error:
                damaged.append(str(error))
                continue
            if damaged and distributed.is_main():
                print(f"{damaged[0]}; the run goes on from {path.name}", file=sys.stderr)
            return found
    if damaged:
        raise UserError(f"{'; '.join(damaged)}; delete {folder} to start anew")
    return None


def _read(path: Path) -> Loaded:
    tensors = read_tensors(path)
    with open_tensors(path) as file:
        about = file.metadata() or {}
    notes, sums = (files.parse_json(about.get(name, ""), f"{path}: {name}") for name in ("notes", "sums"))
    notes = from_dict(Notes, notes, f"{path}: notes")
    if sums != _sums(tensors):
        raise UserError(f"{path}: damaged (its tensors are not those of the sums in its header)")
    return notes, tensors


def _sums(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The sum of each tensor's bytes, by which a changed one is noticed."""
    return {name: int(t.detach().contiguous().view(-1).view(torch.uint8).sum()) for name, t in tensors.items()}


def gather(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a resumed run needs, as named tensors: modules by name, and the optimiser in parameter order. Of
    split modules the main process alone gets the tensors, as they are without the split."""
    states = {name: module.state_dict() for name, module in modules.items()}
    tensors = {f"{name}/{key}": full(value) for name, state in states.items() for key, value in state.items()}
    for index, part in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": full(torch.as_tensor(value)) for key, value in part.items()}
    return tensors


def restore(
    tensors: dict[str, Tensor], modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Inverse of :func:`gather`; learning rates stay those of ``optimizer``. Raises UserError for a tensor that is
    missing, damaged or of another training than that of ``modules``; ``path`` names where they were loaded from."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, key = name.partition("/")
        parts.setdefault(owner, {})[key] = value
    for name, module in modules.items():
        load_weights(module, parts.pop(name, {}), path)
    moments = parts.pop("optimizer", {})
    if parts:
        raise UserError(f"{path}: unexpected tensors of {', '.join(parts)}: a state of another training?")
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        found = {key: moments.pop(f"{index}/{key}") for key in MOMENTS if f"{index}/{key}" in moments}
        if not found:
            continue  # a parameter that never had a gradient
        shapes = [value.shape for value in found.values()]
        if shapes != [torch.Size(), parameter.shape, parameter.shape]:
            raise UserError(f"{path}: optimizer/{index}: expected {', '.join(MOMENTS)} of its parameter's shape")
        state[index] = {key: value if key == "step" else like(parameter, value) for key, value in found.items()}
    if moments:
        raise UserError(f"{path}: unexpected tensor optimizer/{min(moments)}: a state of another training?")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@dataclass(frozen=True)
class Identity:
    """``settings`` are the flat ones that decide its steps; ``inputs`` are digests of the files it starts from."""

    settings: dict
    inputs: dict[str, str]

    @classmethod
    def of(cls, config: dict, inputs: Mapping[str, str]) -> Identity:
        return cls(flat(resolve.part(config, "steps")), dict(inputs))


def piece(cfg: RunConfig, device: str, first: int) -> dict:
    """The record of this process, which works on a run from the step ``first`` on."""
    layout = {key: getattr(cfg, key) for key in LAYOUT} | {"memory": cfg.sampling.memory}
    layout |= {"micro_batch": cfg.rl.micro_batch} if cfg.rl else {}
    facts = {"versions": provenance.versions(), "commit": provenance.commit(), "device": device, "layout": layout}
    return {"from": first, "code": code_identity.loaded()} | facts


def standing(out: Path, now: Identity, total: int, keep_code: bool = False) -> tuple[bool, Loaded | None]:
    """Whether the run ``now`` of ``total`` steps has finished in ``out``, else the state to go on from. Raises
    UserError where ``out`` holds another run, or code has changed since and ``keep_code`` does not allow that."""
    record = provenance.read_record(out)
    if trained := record and not record.get("not_trained"):
        with files.reading(out / "run.json", "the configuration of a run"):
            config, pieces = record["config"], record.get("pieces", [])
            then = Identity.of(config, record.get("inputs", now.inputs))
            done = config["rl"]["rollouts"] if config["stage"] == "rl" else config["supervised"]["steps"]
        _require_fit(f"{out / 'run.json'}: finished", then, now, pieces, keep_code)
        if record.get("collapsed") and total != done:
            raise UserError(f"{out / 'run.json'}: collapsed ({record.get('collapse')}): start anew with state=anew")
        weights = provenance.weights_file(out)
        if done == total and weights.exists() and files.digest(weights) == record.get("weights"):
            return True, None
    found = load_state(out / "state")
    if found is None:
        if trained and total != done:
            without = f"finished with {done}, without a state to go on"
            raise UserError(f"{out / 'run.json'}: {without}: start anew with state=anew")
        return False, None
    notes = found[0]
    key = "rollout" if now.settings["stage"] == "rl" else "step"
    where = f"{out / 'state'}: written at {key} {notes.step} of {notes.total}"
    _require_fit(where, Identity(notes.settings, notes.inputs), now, notes.pieces, keep_code)
    if notes.step > total:
        raise UserError(f"{where}, {total} are asked for: start anew with state=anew")
    return False, found


def _require_fit(where: str, then: Identity, now: Identity, pieces: list[dict], keep_code: bool) -> None:
    words = [
        f"{key} {json.dumps(before)}, now {json.dumps(value)}" + (f", and {REASONS[key]}" if key in REASONS else "")
        for key in (then.settings | now.settings)
        if (before := then.settings.get(key)) != (value := now.settings.get(key))
    ]
    words += [f"another {key}" for key in sorted({key for key, _ in then.inputs.items() ^ now.inputs.items()})]
    code = list(dict.fromkeys(name for p in pieces for name in code_identity.changed(p.get("code", {}))))
    if words:
        others = [*words, *[f"code: {', '.join(code)}"] * bool(code)]
        raise UserError(f"{where} with other settings ({'; '.join(others)}): start anew with state=anew")
    if code and not keep_code:
        ways = "start anew with state=anew, or continue knowingly with code=keep"
        raise UserError(f"{where} with other code ({', '.join(code)}): {ways}")
