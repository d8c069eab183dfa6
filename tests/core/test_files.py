"""Files whole or absent, locks that die."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unigrpo.core import files, tensor_files
from unigrpo.core.errors import UserError, reading


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


ODD = {  # content of a file of JSON lines -> what is said of it, None where it is read
    "plain": (b'{"a": 1}\n{"a": 2.5}\n', None),
    "byte-order mark and carriage returns": (b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2.5}\r\n', None),
    "no end of the last line": (b'{"a": 1}\n{"a": 2.5}', None),
    "empty": (b"", ": is empty, expected one JSON object a line"),
    "blank line": (b'{"a": 1}\n\n{"a": 2}\n', ", line 2: not valid JSON (Expecting value)"),
    "list": (b'{"a": 1}\n[1]\n', ", line 2: expected a JSON object, found list"),
    "key twice": (b'{"a": 1}\n{"b": {"a": 1, "a": 2}}\n', ", line 2: cannot be read ('a' is given twice)"),
    "NaN": (b'{"a": NaN}\n', ", line 1: cannot be read (NaN is no finite number)"),
    "endless": (b'{"a": [-Infinity]}\n', ", line 1: cannot be read (-Infinity is no finite number)"),
    "overflow": (b'{"a": 1e999}\n', ", line 1: cannot be read (1e999 is no finite number)"),
    "long number": (b'{"a": ' + b"9" * 4301 + b"}\n", f", line 1: cannot be read ({'9' * 40} is no finite number)"),
    "half a character": (b'{"a": "\\ud83d"}\n', ", line 1: cannot be read ('utf-8' codec can't encode character"),
    "nested": (b'{"a": ' + b"[" * 21 + b"]" * 21 + b"}\n", ", line 1: expected at most 20 levels of nesting"),
    "nested too deep for the parser": (
        b'{"a": ' + b"[" * 10**5,
        ", line 1: cannot be read (too many levels of nesting)",
    ),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), ": cannot be read ('utf-8' codec can't decode byte 0xff"),
}


@pytest.mark.parametrize("content, message", ODD.values(), ids=ODD)
def test_json_lines_are_read_or_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    if message is None:
        assert list(files.read_jsonl(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 2", {"a": 2.5})]
        return
    with pytest.raises(UserError) as refusal:
        list(files.read_jsonl(path))
    assert str(refusal.value).startswith(f"{path}{message}")


def test_the_line_of_an_error_in_a_longer_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{\n"a": 1,\n"b": x}')
    with pytest.raises(UserError, match="a.json, line 3: not valid JSON"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [files.read_text, files.digest], ids=["text", "digest"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "NUL", "nothing"])
def test_what_is_no_file_is_refused_unread(kind, read, tmp_path):
    path = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(path)  # which would be waited for
    elif kind == "folder":
        path.mkdir()
    path = {"device": "/dev/zero", "NUL": f"{path}\0"}.get(kind, path)
    with pytest.raises(UserError, match="cannot be read") as refusal:
        read(path)
    assert "\0" not in str(refusal.value)


def test_a_text_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 10)
    (tmp_path / "a").write_text("x" * 10)
    (tmp_path / "b").write_text("x" * 11)
    assert files.read_text(tmp_path / "a") == "x" * 10
    with pytest.raises(UserError, match="b: expected at most 10 bytes"):
        files.read_text(tmp_path / "b")


def test_whatever_a_library_raises_is_one_line_with_its_cause():
    cause = LookupError("two\nlines\x1b[31m")
    with pytest.raises(UserError) as refusal, reading("a.bin, item 3", "a picture"):
        raise cause
    assert str(refusal.value) == "a.bin, item 3: cannot be read (two lines\\x1b[31m), expected a picture"
    assert refusal.value.__cause__ is cause
    with pytest.raises(KeyboardInterrupt), reading("a.bin", "a picture"):
        raise KeyboardInterrupt
