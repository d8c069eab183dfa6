"""What a run continues from: layout changes nothing, numbers are never mixed without a word, signals lose nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import textwrap

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, safe_open

from tests._support import several, tiny
from tests._support.several import brightness
from unigrpo.core import code_identity, sitting
from unigrpo.core.errors import Collapse, UserError
from unigrpo.core.files import digest, read_jsonl
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.report.data.results import Folder
from unigrpo.sampling.engine import Decoding
from unigrpo.study.config import SupervisedConfig
from unigrpo.tools import export
from unigrpo.training import loop, reinforcement_run, supervised_run
from unigrpo.world import prompts as world_prompts

TIMES = ("seconds_rollout", "seconds_update", "images_per_second")
SHORT = {"rollouts": 4, "validate_every": 2, "checkpoint_every": 1}


@pytest.fixture(scope="module", autouse=True)
def few_prompts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_prompts, "prompt_set", several.few_prompts)
        yield


class Killed(Exception):
    pass


def train(start, out, *, rl=None, run=None, words=None, reward=brightness, inputs=None):
    """A run of SHORT settings with ``rl`` changed."""
    AcceleratorState._reset_state(reset_partial_state=True)
    cfg = tiny.run_config("rl", rl=tiny.reinforcement(**SHORT | (rl or {})), **(run or {}))
    decoding = Decoding(True, 2.0, 0.7)
    reinforcement_run.train(cfg, out, start / "init", reward, decoding, inputs or {}, **(words or {}))


def at_rollout(number, act):
    """A reward that calls ``act`` when the rollout ``number``, from 0, is judged; validations have 4 images."""
    calls = []

    def reward(images, prompts):
        calls.append(len(images) == 12)
        if len(images) == 12 and sum(calls) == number + 1:
            act()
        return brightness(images, prompts)

    return reward


def die():
    raise Killed


def content(folder, but=(".lock",)):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in but}


def rows(out, kind="train"):
    found = [row for _, row in read_jsonl(out / "metrics.jsonl") if row["kind"] == kind]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def weights(out):
    return (out / "model.safetensors").read_bytes()


def notes(out):
    with safe_open(out / "state" / "state.safetensors", "pt") as file:
        return json.loads(file.metadata()["notes"])


def record(out):
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def calm(start, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm") / "out"
    train(start, out)
    return out


@pytest.fixture(scope="module")
def half(start, tmp_path_factory):
    """A run that was killed in its fourth rollout of four."""
    out = tmp_path_factory.mktemp("half") / "out"
    with pytest.raises(Killed):
        train(start, out, reward=at_rollout(3, die))
    assert notes(out)["step"] == 3
    return out


@pytest.fixture
def copy(half, tmp_path):
    return shutil.copytree(half, tmp_path / "out")


# ---- settings, inputs and code ----------------------------------------------------------------------------------

KEPT = {
    "micro_batch": {"rl": {"micro_batch": 4}},
    "validate_every": {"rl": {"validate_every": 3}},
    "validation_images": {"rl": {"validation_images": 2}},
    "checkpoint_every": {"rl": {"checkpoint_every": 3}},
    "checkpoint_minutes": {"rl": {"checkpoint_minutes": 3.0}},
    "keep_state": {"rl": {"keep_state": False}},
    "keep_weights": {"rl": {"keep_weights": "none"}},
    "rollouts": {"rl": {"rollouts": 5}},
    "threads": {"run": {"threads": 2}},
    "label": {"run": {"label": "Other"}},
    "activation_checkpointing": {"run": {"activation_checkpointing": True}},
    "memory": {"run": {"sampling": replace(tiny.run_config().sampling, memory=32)}},
}
REFUSED = {
    "rl.lr_text 0.001, now 0.002": {"rl": {"lr_text": 2e-3}},
    'rl.transition "sde", now "cps"': {"rl": {"transition": "cps"}},
    "rl.velocity_mse_weight 1.0, now 2.0": {"rl": {"velocity_mse_weight": 2.0}},
    "seed 3, now 4": {"run": {"seed": 4}},
    'precision "no", now "bf16"': {"run": {"precision": "bf16"}},
    "another decoding": {"inputs": {"decoding": "decoding.json"}},
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_layout_bookkeeping_and_length_keep_what_was_done(start, half, copy, change):
    train(start, copy, **change)
    kept = [row for _, row in read_jsonl(copy / "metrics.jsonl") if row["kind"] == "train"]
    before = [row for _, row in read_jsonl(half / "metrics.jsonl") if row["kind"] == "train"]
    assert kept[:3] == before[:3] and len(kept) == (5 if "rollouts" in change.get("rl", {}) else 4)
    assert [(p["from"], p["to"]) for p in record(copy)["pieces"]] == [(0, 3), (3, len(kept))]


@pytest.mark.parametrize("words, change", REFUSED.items(), ids=REFUSED)
def test_what_decides_numbers_is_refused_and_nothing_is_touched(start, copy, words, change):
    change = change | {"inputs": {k: start / v for k, v in change.get("inputs", {}).items()}}
    before = content(copy)
    with pytest.raises(UserError) as refusal:
        train(start, copy, **change)
    expected = f"{copy}/state: written at rollout 3 of 4 with other settings ({words}): start anew with state=anew"
    assert str(refusal.value) == expected and content(copy) == before
    with pytest.raises(UserError, match="other settings"):  # it forgives other code alone
        train(start, copy, **change, words={"keep_code": True})
    if "run" not in change:
        train(start, copy, **change, words={"anew": True})
        assert [(p["from"], p["to"]) for p in record(copy)["pieces"]] == [(0, 4)]


def test_anew_gives_up_only_what_does_not_fit(start, half, copy, calm):
    """So the same command continues after a stop."""
    train(start, copy, words={"anew": True})
    assert weights(copy) == weights(calm) and [p["to"] for p in record(copy)["pieces"]] == [3, 4]


def test_a_state_that_fits_is_continued_beside_the_record_of_another_run(start, calm, tmp_path):
    """A run that is done anew and fails: the workflow puts the finished one back, whose settings are others."""
    out = shutil.copytree(calm, tmp_path / "out")
    changed = {"rl": {"lr_text": 0.002}, "words": {"anew": True}}
    with pytest.raises(Killed):
        train(start, out, **changed, reward=at_rollout(3, die))
    for name in ("run.json", "model.safetensors"):
        shutil.copy(calm / name, out / name)
    train(start, out, **changed)
    assert [(p["from"], p["to"]) for p in record(out)["pieces"]] == [(0, 3), (3, 4)]
    assert record(out)["config"]["rl"]["lr_text"] == 0.002


def test_other_weights_of_the_parent_are_refused(start, copy, tmp_path):
    other = shutil.copytree(start, tmp_path / "start")
    path = other / "init" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"with other settings \(another parent\)"):
        train(other, copy)


def test_changed_code_is_refused_or_kept_knowingly(start, tmp_path, monkeypatch):
    """A method of a user's own is edited between two sittings: a comment changes nothing, a sign does."""
    from unigrpo import methods

    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text("from unigrpo.methods.grpo import *\n\nSIGN = 1\n")
    with pytest.raises(Killed):
        train(start, out, rl={"method": "mine"}, reward=at_rollout(2, die))
    assert "unigrpo.methods.mine" in notes(out)["pieces"][0]["code"]

    def edit(text):
        file.write_text(text)
        code_identity.hash_of.cache_clear()
        code_identity._tree.cache_clear()

    edit('"""A docstring."""\nfrom unigrpo.methods.grpo import *\n\nSIGN = 1  # a comment\n')
    with pytest.raises(Killed):
        train(start, out, rl={"method": "mine"}, reward=at_rollout(1, die))
    assert notes(out)["step"] == 3
    edit("from unigrpo.methods.grpo import *\n\nSIGN = -1\n")
    before = content(out)
    with pytest.raises(UserError) as refusal:
        train(start, out, rl={"method": "mine"})
    ways = "start anew with state=anew, or continue knowingly with code=keep"
    assert str(refusal.value) == f"{out}/state: written at rollout 3 of 4 with other code (mine): {ways}"
    assert content(out) == before
    train(start, out, rl={"method": "mine"}, words={"keep_code": True})
    pieces = record(out)["pieces"]
    assert [(p["from"], p["to"]) for p in pieces] == [(0, 2), (2, 3), (3, 4)]
    hashes = [p["code"]["unigrpo.methods.mine"] for p in pieces]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all({"torch", "numpy", "python"} <= p["versions"].keys() for p in pieces)
    assert pieces[0]["layout"]["micro_batch"] == 5


# ---- going on, and being finished ----------------------------------------------------------------------------------

LONGER = {
    "average": {"average": "judged", "ema_decay": 0.5, "warmup": 5},
    "adapters": {"lora_rank": 2, "average": "judged", "ema_decay": 0.5},
    "reference": {"method": "gardo", "gardo_share": 0.3, "epoch_convention": "repeat", "reference_every": 1},
}


@pytest.mark.parametrize("rl", LONGER.values(), ids=LONGER)
def test_a_finished_run_that_goes_on_is_one_that_was_long_from_the_start(start, tmp_path, rl, monkeypatch):
    monkeypatch.setattr(reinforcement_run, "COLLAPSE", 0.0)  # gold of an untrained model is noise
    long, short = tmp_path / "long", tmp_path / "short"
    train(start, long, rl=rl | {"rollouts": 4})
    train(start, short, rl=rl | {"rollouts": 2})
    assert not (short / "state" / "previous.safetensors").exists()
    train(start, short, rl=rl | {"rollouts": 4})
    assert weights(short) == weights(long) and rows(short) == rows(long)
    assert (
        load_file(short / "state" / "state.safetensors").keys()
        == load_file(long / "state" / "state.safetensors").keys()
    )
    assert record(short)["updates"] == record(long)["updates"] and record(short)["config"]["rl"]["rollouts"] == 4


def test_a_reference_that_stays_is_not_kept_twice(calm):
    assert {name.partition("/")[0] for name in load_file(calm / "state" / "state.safetensors")} == {
        "model",
        "optimizer",
    }


def test_a_finished_run_is_left_alone(start, calm, capsys):
    before = content(calm)
    train(start, calm)
    assert "tiny/3 is finished already" in capsys.readouterr().out and content(calm) == before
    for change, words in (
        ({"rl": {"rollouts": 3}}, "/state: written at rollout 4 of 4, 3 are asked for: start anew with state=anew"),
        (
            {"rl": {"lr_text": 2e-3}},
            "/run.json: finished with other settings (rl.lr_text 0.001, now 0.002): start anew",
        ),
    ):
        with pytest.raises(UserError) as refusal:
            train(start, calm, **change)
        assert str(refusal.value).startswith(f"{calm}{words}") and content(calm) == before


def test_lost_weights_are_written_again_from_the_state(start, calm, tmp_path):
    out = shutil.copytree(calm, tmp_path / "out")
    (out / "model.safetensors").write_bytes(b"noise")
    train(start, out)
    assert weights(out) == weights(calm) and rows(out) == rows(calm)


def test_without_its_state_a_finished_run_cannot_go_on(start, calm, tmp_path):
    out = tmp_path / "out"
    train(start, out, rl={"keep_state": False, "rollouts": 2})
    assert not (out / "state").exists()
    with pytest.raises(UserError, match="finished with 2, without a state to go on: start anew with state=anew"):
        train(start, out)


def test_a_collapsed_run_is_not_lengthened(start, tmp_path, monkeypatch):
    def collapsing(*_):
        raise Collapse("the images are not finite")

    monkeypatch.setattr(loop, "score", collapsing)
    train(start, tmp_path / "out")
    assert record(tmp_path / "out")["collapsed"] and not (tmp_path / "out" / "state").exists()
    with pytest.raises(UserError, match=r"run.json: collapsed \(rollout 0: .*\): start anew with state=anew"):
        train(start, tmp_path / "out", rl={"rollouts": 5})


def test_a_state_outlives_the_fall_of_its_parent(start, copy):
    cfg = tiny.run_config("rl")
    before = content(copy)
    with pytest.raises(UserError, match="/state: written before its parent sft collapsed: start anew with state=anew$"):
        reinforcement_run.pass_on(cfg, copy, start / "init", "its parent sft collapsed")
    assert content(copy) == before
    reinforcement_run.pass_on(cfg, copy, start / "init", "its parent sft collapsed", anew=True)
    assert record(copy)["not_trained"] and not (copy / "state").exists()
    assert (copy / "metrics.jsonl").read_text() == ""


def test_a_method_with_a_schedule_is_not_lengthened(start, tmp_path, monkeypatch):
    from unigrpo import methods

    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    (tmp_path / "falling.py").write_text(textwrap.dedent("""
        import dataclasses

        from unigrpo.methods import grpo
        from unigrpo.methods.grpo import *

        FACTS = dataclasses.replace(grpo.FACTS, schedule=True)
    """))  # fmt: skip
    train(start, tmp_path / "out", rl={"method": "falling", "rollouts": 1})
    with pytest.raises(UserError, match="rl.rollouts 1, now 2, and the method has a schedule"):
        train(start, tmp_path / "out", rl={"method": "falling", "rollouts": 2})


def test_fine_tuning_is_not_lengthened(start, tmp_path):
    def teach(steps):
        AcceleratorState._reset_state(reset_partial_state=True)
        s = SupervisedConfig(steps=steps, batch_size=8, warmup=2, validate_every=6, checkpoint_every=2)
        supervised_run.train(tiny.run_config("sft", supervised=s), tmp_path / "out", start / "init")

    teach(2)
    with pytest.raises(UserError, match="supervised.steps 2, now 3, and the learning rate falls over all steps"):
        teach(3)


# ---- signals ----------------------------------------------------------------------------------------------------


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=str)
def test_a_signal_in_a_rollout_leaves_the_state_before_it(start, calm, tmp_path, capsys, number):
    """Also where the process has inherited that Ctrl-C is ignored."""
    out, inherited = tmp_path / "out", signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as end:
            train(start, out, rl={"checkpoint_every": 9}, reward=at_rollout(2, lambda: send(number)))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert end.value.code == 128 + number and notes(out)["step"] == 2
    assert "tiny/3 stopped at rollout 2 of 4; the same command continues\n" in capsys.readouterr().out
    train(start, out, rl={"checkpoint_every": 9})
    assert weights(out) == weights(calm) and rows(out) == rows(calm)
    assert rows(out, "validation") == rows(calm, "validation")


@pytest.mark.parametrize("rollout", [0, 1, 3])
def test_a_signal_in_an_update_lets_the_rollout_end(start, calm, tmp_path, monkeypatch, rollout):
    """After the second and the fourth a validation is due, which the next sitting makes."""
    real, calls, out = loop.update, [], tmp_path / "out"

    def update(*given):
        calls.append(given)
        if len(calls) == 2 * rollout + 1:
            send()
        return real(*given)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(SystemExit):
        train(start, out)
    assert notes(out)["step"] == rollout + 1 and notes(out)["validated"] == (rollout == 0)
    train(start, out)
    assert weights(out) == weights(calm) and rows(out) == rows(calm)
    assert rows(out, "validation") == rows(calm, "validation")


def test_a_signal_before_anything_is_learned_leaves_nothing(start, tmp_path):
    with pytest.raises(SystemExit):
        train(start, tmp_path / "out", reward=at_rollout(0, send))
    assert not (tmp_path / "out" / "state").exists()


def test_fine_tuning_stops_after_its_step(start, tmp_path, monkeypatch):
    s = SupervisedConfig(steps=6, batch_size=8, warmup=2, validate_every=6, checkpoint_every=9)
    cfg, real, calls = tiny.run_config("sft", supervised=s), supervised_run.learn, []

    def learn(student, step):
        if step == 3 and not calls:
            calls.append(send())
        return real(student, step)

    monkeypatch.setattr(supervised_run, "learn", learn)
    for out in ("out", "calm"):
        if out == "out":
            with pytest.raises(SystemExit):
                supervised_run.train(cfg, tmp_path / out, start / "init")
            assert notes(tmp_path / out)["step"] == 4
        supervised_run.train(cfg, tmp_path / out, start / "init")
    assert weights(tmp_path / "out") == weights(tmp_path / "calm")


def test_a_second_signal_ends_at_once_but_not_the_echo_of_the_first(monkeypatch):
    ends = []
    monkeypatch.setattr(sitting.os, "_exit", ends.append)
    with sitting.stoppable() as seen:
        monkeypatch.setattr(sitting, "ONE_ACT", 1e9)
        send(signal.SIGINT)
        send(signal.SIGTERM)  # by a launcher that was interrupted too
        assert seen == [signal.SIGINT] and not ends
        monkeypatch.setattr(sitting, "ONE_ACT", -1.0)
        send(signal.SIGTERM)
        assert ends == [128 + signal.SIGTERM]


def test_a_state_is_written_by_the_clock_too(start, tmp_path):
    rl = {"checkpoint_every": 99, "checkpoint_minutes": 1e-9}
    with pytest.raises(Killed):
        train(start, tmp_path / "out", rl=rl, reward=at_rollout(2, die))
    assert notes(tmp_path / "out")["step"] == 2


# ---- weights of validations ------------------------------------------------------------------------------------


@pytest.fixture
def judged(monkeypatch):
    """Gold of the validations, one after the other, whatever was painted."""
    real, golds = reinforcement_run.validate, [0.2, 0.5, 0.5, 0.3, 0.6]

    def validate(*given, **words):
        return dataclasses.replace(found := real(*given, **words), means=found.means | {"gold": golds.pop(0)})

    monkeypatch.setattr(reinforcement_run, "validate", validate)


@pytest.mark.parametrize("keep, kept", [("best", [2]), ("all", [0, 2, 4, 6]), ("none", [])])
def test_validations_keep_their_weights(start, tmp_path, judged, keep, kept):
    """The first of the best; with a validation after each of three rollouts of two updates."""
    out = tmp_path / "runs" / "tiny" / "seed3"
    train(start, out, rl={"rollouts": 3, "validate_every": 1, "keep_weights": keep})
    assert sorted(int(path.stem) for path in (out / "validation").glob("*.safetensors")) == kept
    assert record(out)["best_update"] == 2
    if keep == "all":
        last = (out / "validation" / "000006.safetensors").read_bytes()
        assert last == weights(out) and (out / "validation" / "000002.safetensors").read_bytes() != last
        assert (out / "validation" / "000000.safetensors").read_bytes() == weights(start / "init")
    if keep == "best":
        for at in ("best", "2"):
            export.export(out, tmp_path / at, at)
            assert weights(tmp_path / at) == (out / "validation" / "000002.safetensors").read_bytes()
            told = json.loads((tmp_path / at / "run.json").read_text())
            assert (told["update"], told["weights"]) == (2, digest(tmp_path / at / "model.safetensors"))
            assert told["weights"] in (tmp_path / at / "README.md").read_text()
            checkpoint.load_model(tmp_path / at)
    else:
        wanted = re.escape(f"(rl.keep_weights): {', '.join(map(str, kept)) or 'none'}")
        for at in ("5", "first"):
            with pytest.raises(UserError, match=f"^--at {at}: expected an update whose weights were kept {wanted}$"):
                export.export(out, tmp_path / "made", at)


def test_kept_adapters_are_exported_in_the_weights_of_the_parent(start, tmp_path):
    out, rl = tmp_path / "runs" / "tiny" / "seed3", {"rollouts": 2, "lora_rank": 2, "keep_weights": "all"}
    train(start, out, rl=rl)
    assert (out / "validation" / "000004.safetensors").stat().st_size < (out / "model.safetensors").stat().st_size / 4
    with pytest.raises(UserError, match="runs/sft: expected the parent that the adapters in "):
        export.export(out, tmp_path / "made", "4")
    shutil.copytree(start / "init", tmp_path / "runs" / "sft" / "seed0")
    export.export(out, tmp_path / "made", "4")
    assert weights(tmp_path / "made") == weights(out)


def test_the_best_is_known_after_a_stop(start, tmp_path, judged):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        train(start, out, rl={"validate_every": 1}, reward=at_rollout(1, send))
    train(start, out, rl={"validate_every": 1})
    assert [path.stem for path in (out / "validation").glob("*.safetensors")] == ["000008"]
    assert record(out)["best_update"] == 8


# ---- one owner, one record -------------------------------------------------------------------------------------


def test_a_second_trainer_says_who_is_at_work(start, copy):
    before = content(copy)
    with sitting.alone(copy):
        owner = json.loads((copy / ".lock").read_text())
        with pytest.raises(UserError) as refusal:
            train(start, copy)
    assert str(refusal.value) == f"{copy}: is being trained by another process ({json.dumps(owner)})"
    assert owner["pid"] == os.getpid() and content(copy) == before
    train(start, copy)


@pytest.mark.parametrize("step", [1, 0], ids=["doubled", "falling"])
def test_rows_of_two_trainings_are_refused(start, copy, step):
    path = copy / "metrics.jsonl"
    lines = path.read_text().splitlines()
    doubled = next(n for n, line in enumerate(lines) if json.loads(line).get("rollout") == 1)
    row = next(line for line in lines if json.loads(line)["kind"] == "train" and json.loads(line)["rollout"] == step)
    lines.insert(doubled + 1, row)
    path.write_text("\n".join(lines) + "\n")
    where = f"{path}, line {doubled + 2}: expected a later step than 1, found {step}"
    with pytest.raises(UserError) as refusal:
        train(start, copy)
    assert str(refusal.value).startswith(where)
    runs = copy.parent / "results" / "runs" / "tiny"
    runs.mkdir(parents=True)
    shutil.copytree(copy, runs / "seed3")
    with pytest.raises(UserError, match="expected a later step than 1"):
        Folder(copy.parent / "results").metrics("tiny")
