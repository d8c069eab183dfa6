"""The rounds of the tests: the short one (`-m "not slow"`) holds most of them, and some of every room."""

import json
import subprocess
import sys

import pytest

LEAST = 0.85  # of all tests are in the short round
COLLECT = """
import json, sys
import pytest

class Marks:
    def pytest_collection_finish(self, session):
        found = [(item.nodeid, [mark.name for mark in item.iter_markers()]) for item in session.items]
        open(sys.argv[1], "w").write(json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests"], plugins=[Marks()]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def marks(root, tmp_path_factory):
    """Test -> names of its marks."""
    file = tmp_path_factory.mktemp("collection") / "marks.json"
    done = subprocess.run([sys.executable, "-c", COLLECT, str(file)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return dict(json.loads(file.read_text()))


def test_the_short_round_holds_most_tests_and_some_of_every_room(root, marks):
    short = [test for test, names in marks.items() if "slow" not in names and "long" not in names]
    assert LEAST * len(marks) <= len(short) < len(marks)
    rooms = {file.parent.relative_to(root).as_posix() for file in (root / "tests").rglob("test_*.py")}
    assert rooms and rooms == {test.split("::")[0].rpartition("/")[0] for test in short}


def test_the_long_round_is_not_part_of_the_others(root, marks):
    """A test of the mark `long` is `slow` too, so that the expression of the short round leaves it out."""
    long = [names for names in marks.values() if "long" in names]
    assert long and all("slow" in names for names in long)
    assert '-m "not long"' in (root / "Makefile").read_text()
    assert "test-slow" not in (root / ".ci/run").read_text()
