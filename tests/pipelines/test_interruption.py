"""A workflow that is stopped or loses its Snakemake: what it says and leaves, and what it does when called again.
Training is faked as in test_workflow.py."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tests.pipelines.test_workflow import CATALOGUE, REPRODUCE, make_checkout, wait_for

LINE = "stopped at rollout 31 of 60; the same command continues"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """A study whose first training is held."""
    folder = make_checkout(root, tmp_path / "checkout")
    (folder / "pipelines/experiments.yaml").write_text(CATALOGUE)
    (folder / "hold").touch()
    monkeypatch.setenv("PYTHONPATH", str(folder / "src"))
    monkeypatch.chdir(folder)
    yield folder
    for process in below(folder):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def rows(folder) -> list[str]:
    """What trainings of the base have recorded so far."""
    path = folder / "results/smoke/runs/base/seed0/metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def below(folder) -> list[psutil.Process]:
    """The living processes at work in the checkout, but this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
    return found


def steps(folder) -> list[psutil.Process]:
    return [process for process in below(folder) if "--record" in process.cmdline() and process.name() != "bash"]


def read_all(terminal: int, shown: bytearray) -> None:
    with suppress(OSError):  # how a terminal says that its last process has ended
        while piece := os.read(terminal, 4096):
            shown.extend(piece)


def finish(folder) -> None:
    """The same command continues, does not start the training anew, and leaves nobody."""
    (folder / "hold").unlink()
    done = subprocess.run(REPRODUCE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "to train: 1 new, 1 continued;" in done.stderr
    assert "state=anew" not in (folder / "words.base").read_text()
    assert (folder / "results/smoke/runs/base/seed0/scores.jsonl").exists() and below(folder) == []
    assert not list((folder / "results/smoke/steps").glob("*.lock"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.long) for n in (signal.SIGUSR1, signal.SIGHUP)),
    ],
)
def test_a_signal_ends_every_step_and_the_workflow_in_one_line(checkout, number):
    with subprocess.Popen(REPRODUCE, **PIPES) as first:
        wait_for(lambda: rows(checkout))
        first.send_signal(number)
        output, _ = first.communicate(timeout=30)
    assert first.returncode == 128 + number and below(checkout) == []
    assert output.splitlines()[-1] == LINE and "Error" not in output and "Traceback" not in output
    assert (checkout / "results/smoke/logs/pretrain.base.0.log").read_text() == LINE + "\n"
    finish(checkout)
    assert rows(checkout) == ["started", "started", "finished"]


@pytest.mark.slow
def test_after_a_kill_ctrl_c_through_make_still_ends_in_one_line(root, checkout):
    shutil.copy(root / "Makefile", checkout)
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    Path(".venv/bin/python").chmod(0o755)
    for name in ("requirements.lock", "torch.lock", "pyproject.toml", ".venv/installed"):
        (checkout / name).touch()
    with subprocess.Popen(REPRODUCE, stderr=subprocess.DEVNULL) as killed:
        wait_for(lambda: rows(checkout))
        for process in [killed, *below(checkout)]:
            process.kill()
    assert any((checkout / ".snakemake/locks").iterdir())
    maker, terminal = pty.fork()
    if maker == 0:
        os.execvp("make", ["make", "run", "RUN=base", "SCALE=smoke"])
    shown = bytearray()
    reader = Thread(target=read_all, args=(terminal, shown))
    reader.start()
    wait_for(lambda: len(rows(checkout)) == 2)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(maker, 0)
    reader.join()
    assert os.WTERMSIG(status) == signal.SIGINT and below(checkout) == []
    assert shown.decode().split("^C")[1] == f"{LINE}\r\n"
    finish(checkout)


@pytest.mark.slow
def test_a_second_signal_ends_a_step_that_does_not_listen(checkout):
    (checkout / "deaf").touch()
    with subprocess.Popen(REPRODUCE, **PIPES) as first:
        wait_for(lambda: rows(checkout))
        while steps(checkout):
            first.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        output, _ = first.communicate(timeout=30)
    assert first.returncode == 128 + signal.SIGTERM and below(checkout) == []
    assert output.splitlines()[-1] == "stopped; the same command continues"
    finish(checkout)


@pytest.mark.slow
def test_a_step_that_outlives_its_snakemake_is_waited_for(checkout):
    with subprocess.Popen(REPRODUCE, stderr=subprocess.DEVNULL):
        wait_for(lambda: rows(checkout))
        (snakemake,) = (process for process in below(checkout) if "snakemake" in process.cmdline())
        snakemake.kill()
    (step,) = steps(checkout)
    said = f"waiting for pretrain.base.0 (process {step.pid}) of an earlier call\n"
    with subprocess.Popen(REPRODUCE, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr.readline() == said
        second.send_signal(signal.SIGINT)
        assert second.stderr.read() == f"pretrain.base.0 goes on; `kill {step.pid}` stops it\n"
    assert second.returncode == 130 and steps(checkout) == [step]
    with subprocess.Popen(REPRODUCE, stderr=subprocess.PIPE, text=True) as third:
        assert third.stderr.readline() == said
        (checkout / "hold").unlink()
        third.communicate(timeout=120)
    assert third.returncode == 0 and rows(checkout) == ["started", "finished"]  # once


@pytest.mark.slow
def test_each_training_says_which_of_all_it_is_and_what_is_left(checkout):
    """By hand: in our results the first took 600 s, the second 60 s."""
    holds = [(checkout / "hold").rename(checkout / "hold.base"), checkout / "hold.sft"]
    holds[1].touch()
    (checkout / "results/reference/smoke").mkdir()
    (checkout / "results/reference/smoke/steps.csv").write_text("step,seconds\npretrain.base.0,600\nsft.sft.0,60\n")
    words, lines = [*REPRODUCE[:4], "sft", *REPRODUCE[5:], "--cores", "1"], []
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as call:
        for line in call.stderr:
            if " is training " in line:
                lines.append(line)
                holds[len(lines) - 1].unlink()
    assert call.returncode == 0 and lines == [
        "pretrain.base.0 is training 1 of 2, about 11 minutes of training left\n",
        "sft.sft.0 is training 2 of 2, about 1 minute of training left\n",
    ]
