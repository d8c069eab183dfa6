"""A full disk and a read-only folder are reported as what they are: one line with path and reason, nothing left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests._support import tiny
from unigrpo.core import files, tensor_files
from unigrpo.core.errors import UserError
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Samples
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.world.prompts import prompt_set


@contextlib.contextmanager
def room_for(size: int):
    """Writing beyond ``size`` bytes of a file fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def write_samples(folder: Path) -> None:
    images = np.zeros((4, 48, 48, 3), dtype=np.uint8)
    sample_folder.write(folder, [(p, 0) for p in prompt_set("val")[:4]], Samples(images, [None] * 4, 0), {"seed": 0})


def write_picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    with files.replacing(path) as temporary:
        Image.fromarray(noise).save(temporary, format="png")


WRITERS = {
    "text": (lambda folder: files.write_text(folder / "a.json", "x" * 9000), "a.json"),
    "weights": (lambda folder: tensor_files.write_tensors(folder / "m.safetensors", {"w": torch.ones(9999)}), "m.saf"),
    "model": (lambda folder: tiny.model().save(folder, {}), "tokenizer"),
    "images": (write_samples, "images.npy"),
    "picture": (lambda folder: write_picture(folder / "a.png"), "a.png"),
}


@pytest.mark.parametrize("write, name", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_named(tmp_path, write, name):
    with room_for(100), pytest.raises(UserError) as refusal:
        write(tmp_path / "new")
    said = str(refusal.value)
    assert said.startswith(f"{tmp_path / 'new' / name}") and "cannot be written (" in said and "\n" not in said
    assert [path.name for path in (tmp_path / "new").rglob(".*.tmp")] == []


def test_a_log_on_a_full_disk_is_named(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", "step", 0)
    with room_for(100), pytest.raises(UserError, match="metrics.jsonl: cannot be written "):
        log.write(step=1, text="x" * 200)


@pytest.mark.parametrize("write, name", WRITERS.values(), ids=WRITERS)
def test_a_read_only_place_is_named(tmp_path, monkeypatch, write, name):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "new"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError) as refusal:
        write(tmp_path / "new")
    assert str(refusal.value).startswith(f"{tmp_path / 'new' / name}")
    assert "Read-only file system" in str(refusal.value)


def test_the_lock_in_a_read_only_place_is_named(tmp_path):
    (tmp_path / "results").write_text("a file where a folder is needed")
    with (
        pytest.raises(UserError, match=r"results/.lock: cannot be written "),
        files.exclusive(tmp_path / "results/.lock"),
    ):
        pass


UNCAUGHT = """
import errno, os
from unigrpo.core.errors import in_one_line
def main():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/x.png")
in_one_line(main)
"""


def test_what_the_system_refuses_elsewhere_is_one_line_too(root):
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    process = subprocess.run([sys.executable, "-c", UNCAUGHT], env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "error: [Errno 28] No space left on device: 'results/x.png'\n"
