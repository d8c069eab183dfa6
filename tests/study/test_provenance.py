"""run.json tells which code, which versions and which machine made a result."""

import os
import subprocess

import torch

from unigrpo.core.files import read_jsonl, workers
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig


def tree(folder, **files):
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_source_hash_follows_content_and_names_only(tmp_path):
    one = provenance.source_hash(tree(tmp_path / "one", src__a="x = 1", evals__b="y = 2"))
    same = tree(tmp_path / "same", src__a="x = 1", evals__b="y = 2", tests__c="z = 3")
    os.utime(same / "src" / "a.py", (0, 0))
    assert provenance.source_hash(same) == one
    others = [
        tree(tmp_path / "edited", src__a="x = 2", evals__b="y = 2"),
        tree(tmp_path / "renamed", src__c="x = 1", evals__b="y = 2"),
        tree(tmp_path / "moved", src__a="x = 1", rewards__b="y = 2"),
        tree(tmp_path / "added", src__a="x = 1", evals__b="y = 2", src__c=""),
    ]
    assert len({provenance.source_hash(other) for other in others} | {one}) == 5


def test_commit_names_the_checkout_and_its_changes(tmp_path):
    def git(*command):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True)
        return done.stdout.decode().strip()

    assert provenance.commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    assert provenance.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert provenance.commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inner").mkdir()
    assert provenance.commit(tmp_path / "inner") is None


def test_record_holds_the_run_and_the_stages_own_facts():
    config = RunConfig(
        backbone="world", run="a", label="A", stage="sft", scale="cpu", seed=2, init="base", evaluate=("yes",)
    )
    record = provenance.record(config, device="cpu", wall_seconds=1.234, images=7, collapsed=False)
    expected = {"run": "a", "seed": 2, "scale": "cpu", "parent": "base", "device": "cpu", "threads": 1}
    expected |= {"wall_seconds": 1.2, "images": 7, "collapsed": False}
    assert expected.items() <= record.items()
    assert record["versions"]["torch"] == torch.__version__
    assert 10 < record["peak_memory_mb"] < 1e6


def test_a_step_is_at_work_until_its_record_is_complete(tmp_path):
    """Else a workflow that stops would end it before its record says that it has ended."""
    record, seen = tmp_path / "sft.sft.0.jsonl", []

    def made():
        seen.extend(workers(tmp_path))
        return {"settings": {}}

    with provenance.recorded(record, "train", made):
        pass
    assert seen == [("sft.sft.0", os.getpid())] and workers(tmp_path) == []
    assert [row["made"] for _, row in read_jsonl(record)] == [{"settings": {}}]
