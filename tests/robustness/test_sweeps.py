"""The machinery of the two robustness sweeps on small inputs; the sweeps themselves are run by hand."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from benchmarks import kill_sweep, mutate_sweep, mutations
from unigrpo.core.errors import UserError

CARD = {"a": 1, "b": [0.5, {"c": "text"}], "d": {"e": True}}
TENSORS = {"w": torch.ones(2, 3), "n": torch.tensor(3)}


def draw(mutation, data, n=60):
    """n mutations of the same data by n generators."""
    return [mutation(data, np.random.default_rng(i)) for i in range(n)]


# ---- mutations ---------------------------------------------------------------------------------------------


def test_every_place_of_a_value_is_found():
    assert mutations.paths(CARD) == [("a",), ("b",), ("b", 0), ("b", 1), ("b", 1, "c"), ("d",), ("d", "e")]


def test_values_change_in_one_named_place_and_the_original_stays():
    before = json.dumps(CARD)
    seen = draw(mutations.mutate_value, CARD)
    assert json.dumps(CARD) == before
    assert {what.split()[0] for _, what in seen} == {"near", "odd", "remove", "rename", "add"}
    for value, what in seen:
        changed = [key for key in CARD if json.dumps(value.get(key)) != json.dumps(CARD[key])]
        assert set(changed) <= {what.split()[1].split(".")[0]}


def test_the_generator_decides():
    data = json.dumps(CARD).encode()
    for mutation in (mutations.mutate_json, mutations.mutate_text, mutations.mutate_bytes):
        assert draw(mutation, data) == draw(mutation, data)
        assert len({changed for changed, _ in draw(mutation, data)}) > 10


def test_one_line_is_damaged_and_named():
    data = b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    for changed, what in draw(mutations.mutate_json_lines, data):
        number = int(what.split()[1].rstrip(":"))
        others = [line for i, line in enumerate(changed.splitlines(), 1) if i != number]
        assert others == [line for i, line in enumerate(data.splitlines(), 1) if i != number]


def test_weights_stay_readable_and_say_when_they_are_not_finite():
    data = save(TENSORS, {"step": "1"})
    kinds = set()
    for changed, what in draw(mutations.mutate_weights, data):
        tensors = load(changed)
        finite = all(t.isfinite().all() for t in tensors.values())
        assert finite == (mutations.NOT_FINITE not in what)
        assert mutations._header(changed)["__metadata__"] == {"step": "1"}
        kinds.add(what.partition(": ")[2])
    assert {"lost", "renamed", "added", mutations.NOT_FINITE, "empty", "half precision"} <= kinds


def test_a_header_keeps_its_length():
    for changed, _ in draw(mutations.mutate_header, save(TENSORS)):
        assert isinstance(mutations._header(changed), dict)


# ---- outcomes ----------------------------------------------------------------------------------------------


def refuse(message):
    def use():
        raise UserError(message)

    return use


def end(code):
    def use():
        raise SystemExit(code)

    return use


OUTCOMES = {
    "works": (lambda: print("done"), "near a", "accepted"),
    "weights": (lambda: None, f"w: {mutations.NOT_FINITE}", "swallowed"),
    "named": (refuse("init/model.json: layers: expected 2"), "near a", "refused"),
    "other file": (refuse("reward/model.safetensors: tensor w is missing"), "near a", "refused"),
    "unnamed": (refuse("layers: expected 2"), "near a", "unplaced"),
    "long": (refuse("model.json: layers\nmodel.json: heads"), "near a", "refused"),  # an error is one line by itself
    "error": (lambda: {}["layers"], "near a", "crashed"),
    "exit": (end(1), "near a", "crashed"),
}


@pytest.mark.parametrize("use, what, outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_outcomes_are_told_apart(use, what, outcome, capsys):
    assert mutate_sweep.judge("init/model.json", what, use)[0] == outcome
    assert capsys.readouterr() == ("", "")


def test_who_is_still_at_work_has_accepted(monkeypatch):
    monkeypatch.setattr(mutate_sweep, "LIMIT", 0.05)
    assert mutate_sweep.judge("a.json", "near a", lambda: time.sleep(60)) == ("accepted", "")


def test_a_crash_is_told_with_its_place():
    _, message = mutate_sweep.judge("a.json", "near a", lambda: {}["layers"])
    assert message.startswith("KeyError: 'layers' (test_sweeps.py:")


def test_a_short_sweep_puts_everything_back_and_counts_every_case(monkeypatch):
    quick = [s for s in mutate_sweep.SUBJECTS if s.kind in ("catalogue", "scale", "prompts")]
    monkeypatch.setattr(mutate_sweep, "SUBJECTS", quick)
    home = Path.cwd()
    result = mutate_sweep.sweep(12, 0)
    assert Path.cwd() == home and result["findings"] == []
    assert sum(sum(count.values()) for count in result["outcomes"].values()) == 12
    assert "| catalogue |" in mutate_sweep.table(result)


def test_a_case_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text('{"a": 1}')

    def use():
        Path("new").mkdir()
        (Path("new") / ".x.tmp").write_text("half")
        raise UserError("a.json: no")

    subject = mutate_sweep.Subject("card", "a.json", (mutations.mutate_json,), use)
    _, outcome, _ = mutate_sweep.run_case(subject, np.random.default_rng(0))
    assert outcome == "unfinished file"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and Path("a.json").read_text() == '{"a": 1}'


# ---- kills -------------------------------------------------------------------------------------------------


def test_the_plan_hits_each_kind_of_file_by_each_signal_and_each_victim():
    planned = kill_sweep.plan()
    assert len(planned) >= 60
    for hit in ("state", "weights", "record", "scores", "table", "restart"):
        of_kind = [kill for kill in planned if kill.hit == hit]
        assert {kill.target for kill in of_kind} == {"step", "snakemake", "wrapper", "all"} and len(of_kind) >= 12
        assert {(kill.target, kill.signal) for kill in of_kind} >= {
            (target, number)
            for target in ("step", "snakemake", "all")
            for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
        }
        assert len({(kill.phase, kill.pattern) for kill in of_kind}) >= 3


WRITES = """
import subprocess
from pathlib import Path
from unigrpo.core.files import read_text, write_text

subprocess.Popen(["sleep", "60"])
write_text("results/.lock", "new")
with Path("line.jsonl").open("a") as file:
    file.write("0123456789")
read_text("results/.lock")
"""
FOUND = {  # by hand: phase, file -> what a kill leaves of the file, and beside it
    ("before", "results/.lock"): ("old", set()),
    ("written", "results/.lock"): ("old", {"..lock.tmp"}),
    ("after", "results/.lock"): ("new", set()),
    ("before", "line.jsonl"): ("first", set()),
    ("torn", "line.jsonl"): ("first01234", set()),
    ("after", "line.jsonl"): ("first0123456789", set()),
    ("read", "results/.lock"): ("new", set()),
}


@pytest.fixture
def calls(root, tmp_path, monkeypatch):
    """Calls of a program that starts a child and writes two files, over what is there."""
    found = kill_sweep.Calls(tmp_path)
    (found.checkout / "results").mkdir(parents=True)
    (found.checkout / "results/.lock").write_text("old")
    (found.checkout / "line.jsonl").write_text("first")
    (found.checkout / "src").symlink_to(root / "src")
    shutil.copy(kill_sweep.HOOK, found.checkout / "sitecustomize.py")
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", WRITES))
    yield found
    found.close()
    assert kill_sweep.at_work(found.checkout) == []


@pytest.mark.parametrize("phase, file", FOUND)
def test_a_kill_hits_the_moment_that_is_armed(calls, phase, file):
    struck = calls.call(kill_sweep.Kill("record", phase, rf"{file}$", "step", signal.SIGKILL))
    assert (struck["file"], struck["phase"], struck["exit_code"]) == (file, phase, -signal.SIGKILL)
    place = calls.checkout / file
    assert (place.read_text(), {path.name for path in place.parent.glob(".*.tmp")}) == FOUND[phase, file]
    assert len(kill_sweep.at_work(calls.checkout)) == 1  # the child


def test_a_kill_of_all_ends_the_children_too(calls):
    struck = calls.call(kill_sweep.Kill("record", "torn", "line", "all", signal.SIGKILL))
    assert struck["exit_code"] == -signal.SIGKILL
    for _ in range(100):  # the system takes a moment
        if kill_sweep.at_work(calls.checkout):
            time.sleep(0.05)
    assert kill_sweep.at_work(calls.checkout) == []


def test_a_signal_that_is_not_answered_in_one_line_is_a_fault(calls):
    struck = calls.call(kill_sweep.Kill("record", "torn", "line", "wrapper", signal.SIGINT))
    assert struck["last_line"] == "KeyboardInterrupt" and struck["faults"] == [
        "says 'Traceback'",
        "1 processes live on",
        "ends in 'KeyboardInterrupt'",
        f"exit code {-signal.SIGINT}",
    ]


def test_a_call_that_comes_to_its_end_is_done_and_one_that_fails_is_an_error(calls, monkeypatch):
    assert calls.call() is None
    assert calls.call(kill_sweep.Kill("scores", "before", "scores", "step", signal.SIGKILL)) is None
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", "raise SystemExit('error: no base')"))
    with pytest.raises(UserError, match=r"ended with exit code 1:.*error: no base"):
        calls.call()


def test_kills_follow_each_other_until_a_moment_has_passed_and_the_next_call_is_noted(calls, monkeypatch):
    first, second, passed = (
        kill_sweep.Kill("record", "torn", pattern, "step", signal.SIGKILL) for pattern in ("line", "jsonl", "other")
    )
    queue = deque([first, second, passed])
    kills = list(kill_sweep.until_done(calls, queue))
    assert [kill["file"] for kill in kills] == ["line.jsonl"] * 2 and list(queue) == [passed]
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", "print('to train: nothing')"))
    assert calls.call() is None
    assert [kill["next_call"] for kill in kills] == [[], []]  # of the very next alone
    assert (calls.checkout / "line.jsonl").read_text() == "first" + "01234" * 2 + "0123456789"


def write_results(folder, scores="a,b\n", weights=b"w", loss=0.5):
    """Results of a call that took a time of its own."""
    seconds = time.monotonic()
    for name, content in {
        "scores.csv": scores,
        "tables/table1.md": f"| a | wall seconds |\n|---|---|\n| 1 | {seconds} |\n",
        "runs/sft/seed0/model.safetensors": weights.decode(),
        "runs/sft/seed0/run.json": json.dumps({"updates": 3, "wall_seconds": seconds, "pieces": [seconds]}),
        "runs/sft/seed0/metrics.jsonl": json.dumps({"loss": loss, "seconds_update": seconds}) + "\n",
        "steps/sft.0.jsonl": f"{seconds}",
        "logs/sft.0.log": f"{seconds}",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return kill_sweep.fingerprints(folder)


def test_results_are_compared_byte_for_byte_without_times(tmp_path):
    calm = write_results(tmp_path / "calm")
    assert len(calm) == 5
    assert kill_sweep.differences(calm, write_results(tmp_path / "same")) == []
    other = write_results(tmp_path / "other", scores="a,b", weights=b"v", loss=0.6)
    changed = ["runs/sft/seed0/metrics.jsonl", "runs/sft/seed0/model.safetensors", "scores.csv"]
    assert kill_sweep.differences(calm, other) == changed
    (tmp_path / "same/tables/table1.md").rename(tmp_path / "same/tables/table2.md")
    (tmp_path / "same/runs/.run.json.tmp").touch()  # a kill must leave no such file
    found = kill_sweep.differences(calm, kill_sweep.fingerprints(tmp_path / "same"))
    assert found == ["runs/.run.json.tmp", "tables/table1.md", "tables/table2.md"]


def test_the_report_names_everything_that_was_wrong():
    kills = [
        {"target": "wrapper", "signal": "SIGINT", "faults": ["exit code 1"], "hit": "state", "seconds_to_end": 2.0},
        {"target": "all", "signal": "SIGKILL", "faults": [], "hit": "state", "seconds_to_end": 0.0},
    ]
    kills[1]["next_call"] = ["waiting for sft.sft.0 (process 7) of an earlier call", "to train: nothing; up to date: 3"]
    result = {"kills": kills, "reproductions": [{"kills": 2, "differences": ["scores.csv"]}], "never": ["a kill"]}
    said = ["kill 1 (wrapper SIGINT): exit code 1", "after 2 kills: scores.csv", "no process came to a kill"]
    assert kill_sweep.wrong(result) == said
    assert kill_sweep.counts(kills) == {
        "hits": {"state": 2},
        "victims": {"wrapper SIGINT": 1, "all SIGKILL": 1},
        "waited_for": 1,
        "seconds_to_stop": {"median": 2.0, "longest": 2.0},
    }


def test_tables_are_compared_without_their_wall_seconds():
    csv = 'run,label,wall_seconds,gold\na,"A, b",{},0.5\n'
    md = "| run | wall seconds | gold |\n|:--|:--|:--|\n| a | {} | {} |\n\n* Note.\n"
    assert kill_sweep.timeless(csv.format(12)) == kill_sweep.timeless(csv.format(31))
    assert kill_sweep.timeless(csv.format(12)) != kill_sweep.timeless(csv.format(12).replace("0.5", "0.6"))
    assert kill_sweep.timeless(md.format(12, 0.5)) == kill_sweep.timeless(md.format("7,031", 0.5))
    assert kill_sweep.timeless(md.format(12, 0.5)) != kill_sweep.timeless(md.format(12, 0.6))
    tex = r"run & \shortstack{wall\\seconds} & gold \\" + "\na & {} & {} \\\\\n"
    html = "<tr>\n  <th>run</th>\n  <th>wall seconds</th>\n  <th>gold</th>\n</tr>\n"
    html += "<tr>\n  <td>a</td>\n  <td>{}</td>\n  <td>{}</td>\n</tr>\n"
    for text in (tex, html):
        first, slower, other = (text.replace("{}", "%s") % cells for cells in ((12, 0.5), (31, 0.5), (12, 0.6)))
        assert kill_sweep.timeless(first) == kill_sweep.timeless(slower) != kill_sweep.timeless(other)
    assert kill_sweep.timeless("run,gold\na,0.5\n") == "run,gold\na,0.5\n"
