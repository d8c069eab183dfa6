"""A short run of any method."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests._support import tiny
from unigrpo.core.files import read_jsonl
from unigrpo.sampling.engine import Decoding
from unigrpo.study.config import RLConfig
from unigrpo.training import reinforcement_run


def brightness(images: Tensor, prompts: list) -> Tensor:
    return images.mean((1, 2, 3))


def train(folder: Path, rl: RLConfig, reward=brightness) -> tuple[list[dict], dict[str, Tensor]]:
    """The record's rows and the weights of a run with these settings."""
    if not (folder / "init").exists():
        tiny.model().save(folder / "init", {})
    shutil.rmtree(folder / rl.method, ignore_errors=True)
    out, cfg = folder / rl.method, tiny.run_config("rl", rl=rl)
    decoding = Decoding(False, 1.0, 1.0)
    reinforcement_run.train(cfg, out, folder / "init", reward, decoding)
    assert json.loads((out / "run.json").read_text())["updates"] == rl.rollouts * rl.epochs
    rows = [row for _, row in read_jsonl(out / "metrics.jsonl") if row["kind"] == "train"]
    return rows, load_file(out / "model.safetensors")
