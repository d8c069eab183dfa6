"""The machinery of the two robustness sweeps on small inputs; the sweeps themselves are run by hand."""

from __future__ import annotations

import json
import os
import time
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
    "long": (refuse("model.json: layers\nmodel.json: heads"), "near a", "several lines"),
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


def test_moments_are_drawn_once_and_for_all():
    drawn = list(kill_sweep.moments(0, 50, 8.0))
    assert drawn == list(kill_sweep.moments(0, 50, 8.0)) and drawn != list(kill_sweep.moments(1, 50, 8.0))
    assert drawn[:5] == list(kill_sweep.moments(0, 5, 8.0))
    assert 0 <= min(drawn) < 2 and 6 < max(drawn) < 8


def write_results(folder, scores="a,b\n", table="| a |\n", weights=b"w"):
    for name, content in {
        "scores.csv": scores.encode(),
        "tables/table1.md": table.encode(),
        "runs/sft/seed0/model.safetensors": weights,
        "runs/sft/seed0/run.json": os.urandom(8),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return kill_sweep.fingerprints(folder)


def test_results_are_compared_byte_for_byte(tmp_path):
    calm = write_results(tmp_path / "calm")
    assert list(calm) == ["scores.csv", "tables/table1.md", "runs/sft/seed0/model.safetensors"]
    assert kill_sweep.differences(calm, write_results(tmp_path / "same")) == []
    other = write_results(tmp_path / "other", scores="a,b", weights=b"v")
    assert kill_sweep.differences(calm, other) == ["runs/sft/seed0/model.safetensors", "scores.csv"]
    (tmp_path / "other/tables/table1.md").rename(tmp_path / "other/tables/table2.md")
    found = kill_sweep.differences(calm, kill_sweep.fingerprints(tmp_path / "other"))
    assert {"tables/table1.md", "tables/table2.md"} <= set(found)


def test_the_rule_named_last_is_told():
    log = "Building DAG of jobs...\nlocalrule config:\n    input: x\n\nrule sft:\n    output: y\nsaid rule table: no\n"
    assert kill_sweep.last_rule(log) == "sft"
    assert kill_sweep.last_rule("Building DAG of jobs...\n") == "starting"


PROGRAM = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_kill_ends_the_children_too(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", PROGRAM))
    assert kill_sweep.attempt(tmp_path, tmp_path / "log", 1.0) is False
    child = Path("/proc") / (tmp_path / "log").read_text().strip()
    assert not child.exists() or "(zombie)" in (child / "status").read_text()


def test_an_end_of_its_own_is_a_finish_or_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", "pass"))
    assert kill_sweep.attempt(tmp_path, tmp_path / "log", 30.0) is True
    monkeypatch.setattr(kill_sweep, "COMMAND", ("-c", "raise SystemExit('no base')"))
    with pytest.raises(UserError, match=r"ended with exit code 1:\nno base"):
        kill_sweep.attempt(tmp_path, tmp_path / "log", 30.0)


def test_the_summary_counts_differences():
    kills = [{"seconds": 1.0, "rule": "sft"}, {"seconds": 2.0, "rule": "train"}, {"seconds": 3.0, "rule": "sft"}]
    ended = [{"kills": 2, "differences": []}, {"kills": 1, "differences": ["scores.csv"]}]
    said = kill_sweep.summary({"kills": kills, "reproductions": ended, "compared": 14})
    assert said == "3 kills in 2 rules, 2 reproductions of 14 compared files each: 1 with differences"


def test_tables_are_compared_without_their_wall_seconds():
    csv = 'run,label,wall_seconds,gold\na,"A, b",{},0.5\n'
    md = "| run | wall seconds | gold |\n|:--|:--|:--|\n| a | {} | {} |\n\n* Note.\n"
    assert kill_sweep.timeless(csv.format(12)) == kill_sweep.timeless(csv.format(31))
    assert kill_sweep.timeless(csv.format(12)) != kill_sweep.timeless(csv.format(12).replace("0.5", "0.6"))
    assert kill_sweep.timeless(md.format(12, 0.5)) == kill_sweep.timeless(md.format("7,031", 0.5))
    assert kill_sweep.timeless(md.format(12, 0.5)) != kill_sweep.timeless(md.format(12, 0.6))
    assert kill_sweep.timeless("run,gold\na,0.5\n") == "run,gold\na,0.5\n"
