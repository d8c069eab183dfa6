"""Benchmarks on real images: one file each, with a version, and where it asks for one a prompt file of the user's.

A file states TITLE, VERSION and CAVEAT (what is always shown beside its numbers), adds its options to a command line
(``add_options``), and builds its judge from them (``build``).
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from PIL.Image import Image

from evals.pictures import Picture
from unigrpo.core.errors import UserError

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


class Judge(Protocol):
    """``version`` names the benchmark's version, its prompts' hash, and instruments with the hashes of their weights:
    numbers of different versions never share a table."""

    version: str

    def check(self, picture: Picture) -> None:
        """Raise UserError for a picture that cannot be judged, whatever it shows."""

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        """For each of these ``images``, which are of one size: ``metrics`` (numbers by name), ``reason`` (empty where
        nothing is wrong) and what was seen; or why it could not be judged."""

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        """Numbers over the rows of judged images, by name, and the lines that tell them."""


def module(name: str) -> ModuleType:
    """The file of a benchmark."""
    return importlib.import_module(f"evals.benchmarks.{name}")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 ... (default auto, CUDA where there is one)"
    )


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
