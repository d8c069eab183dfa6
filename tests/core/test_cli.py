"""What command lines share: help in one style, errors as one message, files whole or absent, locks that die."""

import argparse
import importlib
import os
import re
import subprocess
import sys
import time

import pytest

from tests.test_imports import MODULES
from unigrpo.core import cli, files
from unigrpo.core.errors import UserError


def test_bad_input_is_one_message_and_exit_code_2(capsys):
    def main():
        raise UserError("a.yaml: runs.x: expected y")

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: a.yaml: runs.x: expected y\n"


COMMANDS = [name for name, path in MODULES.items() if "cli.run(main)" in path.read_text()]


def test_everything_that_can_be_run_is_a_command():
    runnable = [name for name, path in MODULES.items() if "__main__" in path.read_text()]
    assert sorted(runnable) == sorted(COMMANDS) and len(COMMANDS) > 15


def options(parser):
    """Every option and argument of a parser and its subcommands, but -h."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options(inner)
        elif not isinstance(action, argparse._HelpAction):
            yield action


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, monkeypatch, capsys):
    """`python -m NAME --help`: how to call it, what it does, each option with its meaning and its default."""
    seen = []
    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(cli.Parser, "parse_args", lambda self, *args: seen.append(self) or original(self, *args))
    command = name.removesuffix(".__main__")
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main()
    told = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and told.startswith(f"usage: python -m {command} [-h]")
    (parser,) = seen
    assert re.fullmatch(r"[A-Z].*\.", parser.description), "a sentence says what it does"
    for action in options(parser):
        assert action.help and not action.help.endswith("."), action.dest
        if action.default not in (None, False) or action.default == 0 and action.type:
            assert "(default " in parser._get_formatter()._expand_help(action), action.dest


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_option_is_one_message(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--no-such-option"])
    with pytest.raises(UserError, match=rf"^[^\n]*; see python -m {name.removesuffix('.__main__')}[^\n]* --help$"):
        importlib.import_module(name).main()


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1.5})
    assert path.read_text() == '{\n  "a": 1.5\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert path.read_text() == '{\n  "a": 1.5\n}\n'
    assert list(path.parent.iterdir()) == [path]


HOLD = """
import sys, time
from unigrpo.core import files
with files.exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(root, path, seconds):
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_makes_others_wait(root, tmp_path, capfd):
    with hold(root, tmp_path / "lock", 1) as holder:
        started = time.monotonic()
        with files.exclusive(tmp_path / "lock"):
            assert time.monotonic() - started > 0.5
        assert holder.wait() == 0
    assert f"another process holds {tmp_path / 'lock'}" in capfd.readouterr().err


def test_a_lock_dies_with_its_holder(root, tmp_path, capfd):
    with hold(root, tmp_path / "lock", 60) as holder:
        holder.kill()
        holder.wait()
        with files.exclusive(tmp_path / "lock"):
            pass
    assert capfd.readouterr().err == ""
