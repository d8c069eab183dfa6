"""What all tests share: one thread (as at scale cpu) and the place of the checkout."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--vectors", type=Path, help="folder of vector files that tests/conformance checks")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A folder with what a tiny run starts from."""
    from tests._support import tiny

    folder = tmp_path_factory.mktemp("start")
    tiny.write_start(folder)
    return folder
