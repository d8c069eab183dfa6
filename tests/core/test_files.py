"""Files whole or absent, locks that die."""

import os
import subprocess
import sys
import time

import pytest

from unigrpo.core import files


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
