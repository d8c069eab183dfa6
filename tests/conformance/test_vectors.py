"""Our maths and our backbone against stored vectors: ``pytest tests/conformance --vectors DIR`` checks any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import families
from unigrpo.core.errors import UserError

STORED = Path(__file__).parents[1] / "vectors"


def pytest_generate_tests(metafunc):
    try:
        found = families.find(metafunc.config.getoption("--vectors") or STORED)
    except UserError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    metafunc.parametrize(("path", "read"), found, ids=[path.name for path, _ in found])


def test_the_vectors_of_a_file(path, read, record_property):
    try:
        tallies, others = families.run(path, read)
        report = list(families.lines(tallies, others))
        failed = any(tally.failures for tally in tallies.values())
    except UserError as error:
        report, failed = [str(error)], True
    record_property("report", report)
    if failed:
        pytest.fail("\n".join(report), pytrace=False)
