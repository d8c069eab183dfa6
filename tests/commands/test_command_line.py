"""What all verbs share: help in one style and in no time, errors as one line, one name each, use on record."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys

import pytest
import typer

from tests._support.command import unigrpo
from unigrpo.__main__ import app
from unigrpo.core import files
from unigrpo.core.errors import UserError

GROUP = typer.main.get_command(app)
VERBS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}


def process(root, *words, **more):
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    command = [sys.executable, "-m", "unigrpo", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **more)


def test_help_takes_no_time(root):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process(root, "--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # 0.15 on an idle machine


def test_help_names_every_verb_in_groups(capsys):
    assert unigrpo("--help") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^. {name} +\S", text, re.MULTILINE) for name in VERBS)
    groups = {command.rich_help_panel for command in VERBS.values()}
    assert len(groups) > 3 and all(f" {group} " in text for group in groups)
    assert text.index(" Start here ") < text.index(" Steps of a study ")
    assert unigrpo("") == 0 and capsys.readouterr().out == text


def test_the_version_is_the_packages(capsys):
    assert unigrpo("--version") == 0
    assert re.fullmatch(r"unigrpo \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_no_verb_has_two_names():
    functions = [command.callback for command in app.registered_commands]
    assert len(set(functions)) == len(functions)
    assert len(VERBS) == len(app.registered_commands) + len(app.registered_groups)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name, capsys):
    """A sentence says what it does, and each option what it means."""
    assert unigrpo(f"{name} --help") == 0
    assert f"Usage: unigrpo {name} " in capsys.readouterr().out
    assert re.match(r"[A-Z][^\n]*\.", VERBS[name].help), "a sentence says what it does"
    for parameter in VERBS[name].params:
        assert parameter.help and (parameter.help.endswith(".") or parameter.name == "help"), parameter.name


@pytest.mark.parametrize("name", VERBS)
def test_a_misspelt_option_is_one_line(name):
    with pytest.raises(UserError, match=rf"^[^\n]*; see unigrpo {name}[^\n]* --help$"):
        unigrpo(f"{name} --no-such-option")


@pytest.mark.parametrize(
    "words, line",
    [
        ("trian", "No such command 'trian'. Did you mean 'train', 'variance'\\?; see unigrpo --help"),
        (
            "sample assets/base x --gird 2",
            "No such option: --gird. Did you mean --grid, --guidance\\?; see unigrpo sample --help",
        ),
        ("sample assets/base x --grid two", "Invalid value for '--grid': .*; see unigrpo sample --help"),
        ("run unigrpo --cores 0", "Invalid value for '--cores': .*1; see unigrpo run --help"),
        ("diff a", "Missing argument 'run_b'; see unigrpo diff --help"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_and_exit_code_2(root, words, line):
    done = process(root, *words.split())
    assert (done.returncode, done.stdout) == (2, "") and re.fullmatch(f"error: {line}\n", done.stderr)


def test_bad_input_is_one_line_and_exit_code_2(root, tmp_path):
    done = process(root, "inspect", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: .*nowhere[^\n]*\n", done.stderr)


def test_the_cause_is_shown_when_asked_for(root, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ' + "9" * 5000 + "}")
    words = ["train", "--config", tmp_path / "config.json", "--out", tmp_path / "new"]
    plain, debug = process(root, *words), process(root, "--debug", *words)
    assert plain.returncode == debug.returncode == 2
    assert plain.stderr.startswith("error: ") and plain.stderr.count("\n") == 1
    assert debug.stderr.endswith(plain.stderr) and "ValueError: " in debug.stderr and "Traceback" in debug.stderr


def test_what_a_call_has_used_is_recorded(root, tmp_path):
    """Processor time as the operating system counts it, of a failed call too; once a call, and once a process."""
    path = tmp_path / "new" / "step.jsonl"
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(root, "--record", path, "diff", "a", "b").returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (line,) = map(json.loads, path.read_text().splitlines())
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert line["step"] == "diff" and 0 < line["cpu_seconds"] <= used + 0.01
        assert line["cpu_seconds"] > used / 2 and line["max_rss_mb"] > 10 and line["seconds"] >= 0


# What names an output, and the least words of each verb that writes: {input} is a folder or file that is read.
READING = {
    "sample": "{input} x",
    "export": "{input}",
    "variance": "{input} --scale smoke --run unigrpo --reward {input}",
    "judge geneval": "--images {input}",
    "score": "--samples {input} --reward {input} --detector {input}",
    "cross": "run={input} --reward weak",
    "convert-images": "--images {input}",
    "collect": "run={input}",
    "table": "table1 --results {input}",
    "figure": "figure1 --results {input}",
    "claims": "--results {input}",
    "compare": "a b --results {input}",
    "reference": "--results {input}",
    "gallery": "--results {input}",
    "gallery ": "--results {input}",
    "train": "--init {input} --run sft --scale smoke",
    "reward-data": "--init {input} --scale smoke",
    "train-reward": "--data {input} --scale smoke",
    "tune": "--model {input} --scale smoke --run sft",
    "sample-sets": "--model {input} --decoding {input} --mode think --scale smoke --run sft",
    "take-images": "--run r --pictures {input}",
    "prompts": "world",
    "train-detector": "",
}
WRITTEN = {"export": "", "convert-images": "--out", "gallery ": "--single"}  # --out elsewhere
SHARED = {
    "table",
    "figure",
    "claims",
    "compare",
    "reference",
    "judge geneval",
    "cross",
}  # whose files stand beside others


def refused(verb, out, given="here", match=""):
    with pytest.raises(UserError, match=match):
        unigrpo(f"{verb.strip()} {READING[verb].format(input=given)} {WRITTEN.get(verb, '--out')} '{out}'")


def outputs(command):
    return {p.opts[0] for p in command.params if p.metavar in ("FILE", "FOLDER")}


def test_every_option_that_names_an_output_is_checked():
    commands = VERBS | {"judge geneval": VERBS["judge"].get_command(None, "geneval")}
    for verb, command in commands.items():
        named = {p.opts[0] for p in command.params if re.search(r"\bto (write|make)\b", p.help, re.IGNORECASE)}
        assert outputs(command) >= named, verb
        assert {WRITTEN.get(v, "--out") or "out" for v in READING if v.strip() == verb} == outputs(command), verb


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of results, by turns the input of every verb, in the current folder."""
    monkeypatch.chdir(tmp_path)
    files.write_text(tmp_path / "here/model.safetensors", "weights")
    files.write_text(tmp_path / "here/inner/notes.txt", "notes")
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path
    assert (tmp_path / "here/model.safetensors").read_text() == "weights"
    assert {p.name for p in tmp_path.rglob("*")} <= {"here", "inner", "model.safetensors", "notes.txt", "pipe", "link"}


@pytest.mark.parametrize("verb", READING)
def test_no_verb_writes_to_an_empty_name_a_special_file_or_its_input(verb, here):
    refused(verb, "", match="expected a path")
    for special in ("pipe", "/dev/null"):
        refused(verb, special, match=f"{special}: (expected|is there already)")
    if verb in SHARED:
        return
    link = here / "link"
    link.symlink_to(here / "here")
    if "{input}" in READING[verb]:
        for same in ("here", "here/../here", link):
            refused(verb, same, match="which would be overwritten|expected a file or")
    if "--single" in WRITTEN.get(verb, "") or outputs(VERBS[verb]) == {"--out"} and "FILE" in metavars(verb):
        refused(verb, "here/model.safetensors", match="is a file of")
    else:
        refused(verb, ".", match="holds")  # a folder of others, in which the input lies
        refused(verb, "here/inner", match="holds other files")


def metavars(verb):
    return {p.metavar for p in VERBS[verb].params}


def test_no_run_is_trained_over_another(here):
    files.write_json(here / "here/run.json", {"run": "unigrpo", "seed": 1, "scale": "smoke"})
    refused("train", "here", given="link", match="holds run unigrpo, seed 1, scale smoke, expected a folder of")
    (here / "here/run.json").unlink()


@pytest.mark.parametrize("path", ["/dev/null", "here/model.safetensors"])
def test_the_record_of_use_takes_no_other_files_place(path, here):
    with pytest.raises(UserError, match=f"--record {path}: is there already"):
        unigrpo(f"--record {path} kinds")
