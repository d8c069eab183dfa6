"""A run killed with -9 and started again with the same command ends like one that was left alone, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from tests._support import tiny
from unigrpo.core import settings, tensor_files
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.training import state
from unigrpo.training.metrics_log import MetricsLog

TIMES = ("seconds_rollout", "seconds_update", "images_per_second")

# Runs the command line, but ends the process at the n-th call of a function: before it, or in the middle of a file.
DRIVER = """
import importlib, os, sys
place, n, *sys.argv[1:] = sys.argv[1:]
name, attribute = place.rsplit(".", 1)
main = importlib.import_module("unigrpo.__main__").main
try:
    owner = importlib.import_module(name)
except ModuleNotFoundError:
    name, kind = name.rsplit(".", 1)
    owner = getattr(importlib.import_module(name), kind)
original, calls = getattr(owner, attribute), 0
def deadly(*args, **options):
    global calls
    calls += 1
    if calls == int(n):
        if attribute == "save_file":
            original(*args, **options)
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        os.kill(os.getpid(), 9)
    return original(*args, **options)
setattr(owner, attribute, deadly)
main()
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with what a run starts from."""
    folder = tmp_path_factory.mktemp("start")
    tiny.write_start(folder)
    cfg = tiny.run_config("rl", rl=replace(tiny.RL, rollouts=4, validate_every=4))
    (folder / "rl.json").write_text(json.dumps(settings.to_dict(cfg)))
    return folder


def launch(root, start, stage, *command, out):
    options = ["train", "--config", start / f"{stage}.json", "--init", start / "init", "--out", out]
    if stage == "rl":
        options += ["--reward", start / "reward", "--decoding", start / "decoding.json"]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"}
    call = [sys.executable, *command, *map(str, options)]
    return subprocess.run(call, env=environment, capture_output=True, text=True)


def finish(root, start, stage, out):
    process = launch(root, start, stage, "-m", "unigrpo", out=out)
    assert process.returncode == 0, process.stderr[-2000:]


def kill(root, start, stage, out, place, n):
    process = launch(root, start, stage, "-c", DRIVER, place, str(n), out=out)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]


def saved_step(out):
    """The step of the state that a run of ``out`` would resume from."""
    return state.load_state(out / "state")[0].step


def rows(out):
    return [{k: v for k, v in row.items() if k not in TIMES} for _, row in read_jsonl(out / "metrics.jsonl")]


def assert_same(out, other):
    for name in ("model.safetensors", "model.json", "tokenizer/tokenizer.json"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(out) == rows(other)
    records = [json.loads((folder / "run.json").read_text()) for folder in (out, other)]
    for name in ("images", "model_evaluations", "updates", "collapsed"):
        assert records[0].get(name) == records[1].get(name), name
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in other.rglob("*"))
    for path in (other / "validation").glob("*"):
        assert (out / "validation" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_reinforcement_survives_three_kills(root, start, tmp_path):
    """One run, killed inside its 2nd rollout, between the halves of its 3rd, and while it writes that rollout's state;
    beside it lie a model of an earlier run, a broken temporary file and a line that the kill cut short."""
    calm, out = tmp_path / "calm", tmp_path / "killed"
    finish(root, start, "rl", calm)
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"of an earlier run")

    kill(
        root, start, "rl", out, "unigrpo.objectives.flow.draw_window", 2
    )  # the 2nd rollout: traces written, nothing painted
    assert saved_step(out) == 1 and [r["rollout"] for r in rows(out)] == [-1, 0]
    (out / "state" / ".next.safetensors.tmp").write_bytes(b"half of a sta")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "rollout": 1, "upd')

    kill(root, start, "rl", out, "torch.optim.AdamW.step", 4)  # the 3rd rollout: its first half is learned
    assert saved_step(out) == 2 and [r["rollout"] for r in rows(out)] == [-1, 0, 1]

    kill(root, start, "rl", out, "unigrpo.core.tensor_files.save_file", 1)  # the state after the 3rd rollout
    assert saved_step(out) == 2 and [r["rollout"] for r in rows(out)] == [-1, 0, 1, 2]
    assert (out / "state" / ".next.safetensors.tmp").exists()

    finish(root, start, "rl", out)
    assert_same(out, calm)


@pytest.mark.slow
def test_supervised_training_survives_a_kill(root, start, tmp_path):
    """Killed in the 4th step of 6, states after the 2nd and the 4th; the kept average is part of the state."""
    calm, out = tmp_path / "calm", tmp_path / "killed"
    finish(root, start, "sft", calm)
    kill(root, start, "sft", out, "torch.optim.AdamW.step", 4)
    assert saved_step(out) == 2
    finish(root, start, "sft", out)
    assert_same(out, calm)


# ---- the parts ---------------------------------------------------------------------------------------------


def notes(step=1):
    counts = {"updates": 2 * step, "wall_seconds": 0.5}
    pieces = [{"from": 0, "to": step, "code": {"unigrpo.methods.grpo": "abc"}}]
    return state.Notes(step, 9, {"rl.lr_text": 1e-3}, {"parent": "12"}, pieces, True, counts)


def test_a_state_returns_with_its_notes_and_leaves_the_one_before(tmp_path):
    tensors = {"model/w": torch.arange(3.0)}
    assert state.load_state(tmp_path / "state") is None
    for step in (1, 2, 3):
        state.save_state(tmp_path / "state", tensors, notes(step))
    found, read = state.load_state(tmp_path / "state")
    assert found == notes(3) and torch.equal(read["model/w"], tensors["model/w"])
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["previous.safetensors", "state.safetensors"]


def flipped(path):
    """One bit of the last tensor is another one; the file is as long as before."""
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(p.read_bytes()[:-40]), lambda p: p.write_bytes(b""), flipped]
)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, capsys, damage):
    for step in (1, 2):
        state.save_state(tmp_path, {"w": torch.zeros(100)}, notes(step))
    damage(tmp_path / "state.safetensors")
    assert state.load_state(tmp_path)[0].step == 1
    assert f"{tmp_path}/state.safetensors: " in capsys.readouterr().err
    damage(tmp_path / "previous.safetensors")
    with pytest.raises(UserError, match=f"previous.safetensors: .*; delete {tmp_path} to start anew$"):
        state.load_state(tmp_path)


@pytest.mark.parametrize("name", ["previous.safetensors", "state.safetensors"])
def test_a_kill_between_the_names_of_two_states_leaves_the_newest(tmp_path, monkeypatch, name):
    """Also where the one that gets the name of the state before is damaged."""
    state.save_state(tmp_path, {}, notes(1))
    (tmp_path / "state.safetensors").write_bytes(b"noise")

    def deadly(source, target):
        if target.name == name:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", deadly)
    with pytest.raises(KeyboardInterrupt):
        state.save_state(tmp_path, {}, notes(2))
    assert state.load_state(tmp_path)[0].step == 2


def test_optimiser_and_modules_return_bit_for_bit(tmp_path):
    """After a restore from disk the next step is the step that would have come."""

    def make():
        module = torch.nn.Linear(4, 3)
        with torch.no_grad():
            for i, p in enumerate(module.parameters()):
                p.copy_(torch.linspace(-1, 1 + i, p.numel()).view_as(p))
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    def step(module, optimizer, x):
        module(torch.full((2, 4), x)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    module, optimizer = make()
    step(module, optimizer, 0.3)
    state.save_state(tmp_path, state.gather({"model": module}, optimizer), notes())
    other, again = make()
    state.restore(state.load_state(tmp_path)[1], {"model": other}, again, tmp_path)
    for m, o in ((module, optimizer), (other, again)):
        step(m, o, -0.7)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_the_log_drops_an_unfinished_last_line_and_later_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"rollout": -1}\n{"rollout": 0}\n{"rollout": 1}\n{"roll')
    MetricsLog(path, "rollout", 1).write(rollout=1, loss=torch.tensor(0.1234567))
    assert [row for _, row in read_jsonl(path)] == [{"rollout": -1}, {"rollout": 0}, {"rollout": 1, "loss": 0.123457}]
    MetricsLog(path, "rollout", 0)
    assert path.read_text() == ""


def test_a_whole_row_without_its_line_end_is_unfinished_too(tmp_path):
    """The line end is written last: without it the row may have lost digits."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"rollout": 0}\n{"rollout": 1}')
    MetricsLog(path, "rollout", 2)
    assert path.read_text() == '{"rollout": 0}\n'


@pytest.mark.parametrize("line", ['{"roll', "[3]", '{"step": 3}', '{"rollout": "3"}', ""])
def test_a_damaged_line_elsewhere_is_not_dropped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    text = '{"rollout": 0}\n' + line + '\n{"rollout": 1}\n'
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: "):
        MetricsLog(path, "rollout", 2)
    assert path.read_text() == text


@pytest.mark.parametrize("gold", [{}, {"gold": "0.3"}, {"gold": None}])
def test_a_row_without_its_number_is_named(tmp_path, gold):
    log = MetricsLog(tmp_path / "metrics.jsonl", "step", 0)
    log.write(kind="train", step=0)
    log.write(kind="validation", step=0, gold=0.5)
    assert log.column("gold", kind="validation") == [0.5]
    log.write(kind="validation", step=1, **gold)
    with pytest.raises(UserError, match=r"metrics.jsonl, line 3: 'gold' must be a number, found "):
        log.column("gold", kind="validation")


DAMAGE = {
    "lost": (lambda t: t.pop("model/weight"), "tensor weight is missing"),
    "shape": (lambda t: t.update({"model/weight": torch.zeros(4, 3)}), r"tensor weight: expected shape \(3, 4\)"),
    "value": (lambda t: t["model/bias"].fill_(float("nan")), "tensor bias: expected finite numbers"),
    "owner": (lambda t: t.update({"ema/w": torch.zeros(1)}), "unexpected tensors of ema"),
    "moment": (lambda t: t.pop("optimizer/1/exp_avg"), "optimizer/1: expected step, exp_avg, exp_avg_sq"),
    "moments": (lambda t: t.update({"optimizer/0/exp_avg": torch.zeros(4)}), "optimizer/0: expected step, "),
    "parameter": (lambda t: t.update({"optimizer/2/step": torch.zeros(())}), "unexpected tensor optimizer/2/step"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_state_of_other_tensors_is_refused(tmp_path, damage, message):
    module = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    tensors = {name: value.clone() for name, value in state.gather({"model": module}, optimizer).items()}
    state.restore(tensors, {"model": module}, optimizer, tmp_path)
    damage(tensors)
    with pytest.raises(UserError, match=f"^{tmp_path}: {message}"):
        state.restore(tensors, {"model": module}, optimizer, tmp_path)


@pytest.mark.parametrize("notes", [None, {"notes": "{}"}, {"notes": "[1"}, {"notes": '{"step": "two"}'}])
def test_a_state_without_its_notes_is_refused(tmp_path, notes):
    tensor_files.write_tensors(tmp_path / "state.safetensors", {"w": torch.zeros(1)}, notes)
    with pytest.raises(UserError, match="state.safetensors: (notes|sums)"):
        state.load_state(tmp_path)
