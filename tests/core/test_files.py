"""Files whole or absent, locks that die."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unigrpo.core import files, tensor_files
from unigrpo.core.errors import UserError


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


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_umask_leaves(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        tensor_files.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
        with files.replacing(tmp_path / "b") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT, 0o600))  # as a library's own temporary file
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder"])
def test_what_is_no_regular_file_is_not_replaced(kind, tmp_path):
    path = tmp_path / "taken"
    if kind == "device":
        path = Path("/dev/null")
    make = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "link to a device": lambda: path.symlink_to("/dev/null"),
    }
    make.get(kind, lambda: None)()
    before = path.lstat()
    with pytest.raises(UserError, match=f"^{path}: cannot be written, expected a file, found a"):
        files.write_text(path, "text")
    assert (before.st_mode, before.st_ino) == (path.lstat().st_mode, path.lstat().st_ino)


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    order = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda which: (order.append(os.fstat(which).st_ino), sync(which)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replaced"), move(a, b)))
    files.write_text(tmp_path / "a", "text")
    assert order == [(tmp_path / "a").stat().st_ino, "replaced", tmp_path.stat().st_ino]
    order.clear()
    with files.new_folder(tmp_path / "new") as temporary:
        (temporary / "b").write_text("text")
    made = [path.stat().st_ino for path in (tmp_path / "new" / "b", tmp_path / "new")]
    assert order == [*made, "replaced", tmp_path.stat().st_ino]


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
