"""Code identity, on small packages: what counts as the same code, and which modules a process works with."""

import subprocess
import sys
import textwrap

import pytest

from unigrpo.core import code_identity

BEFORE = '''
"""A module."""
import math


class A:
    """A class."""

    def f(self, x):
        """A function."""
        return -x * 2.0  # a comment
'''
SAME = {
    "comment": ("# a comment", "# another"),
    "docstring of the module": ('"""A module."""', ""),
    "docstring of a class": ('"""A class."""', '"""Another,\n    of two lines."""'),
    "docstring of a function": ('        """A function."""\n', ""),
    "formatting": ("-x * 2.0", "(\n            -x\n            * 2.0\n        )"),
    "blank lines": ("\n\n\n", "\n"),
}
OTHER = {
    "sign": ("-x", "x"),
    "constant": ("2.0", "2.5"),
    "kind of a constant": ("2.0", "2"),
    "name": ("def f", "def g"),
    "import": ("import math", "import cmath as math"),
    "operation": ("* 2.0", "/ 2.0"),
    "text that is no docstring": ("return -x", "'a text'\n        return -x"),
    "not Python": ("return -x", "retur -x"),
}


def hash_of(folder, text):
    path = folder / f"{len(list(folder.iterdir()))}.py"
    path.write_text(text)
    return code_identity.hash_of(path)


@pytest.mark.parametrize("old, new", SAME.values(), ids=SAME)
def test_what_a_reader_alone_sees_is_no_part_of_it(tmp_path, old, new):
    assert old in BEFORE and hash_of(tmp_path, BEFORE) == hash_of(tmp_path, BEFORE.replace(old, new))


@pytest.mark.parametrize("old, new", OTHER.values(), ids=OTHER)
def test_what_python_sees_is(tmp_path, old, new):
    assert old in BEFORE and hash_of(tmp_path, BEFORE) != hash_of(tmp_path, BEFORE.replace(old, new))


FILES = {
    "gifts/__init__.py": "",
    "gifts/mine.py": "from unigrpo.core import lazy\nimport helper\nFACTS = 1\ndef build(): return helper.value",
    "gifts/copies.py": "from gifts.mine import FACTS, build",
    "gifts/other.py": "import unused\nFACTS = 1\nbuild = unused.value",
    "helper.py": "from deeper import value",
    "deeper.py": "value = 1",
    "unused.py": "value = 2",
}


@pytest.mark.parametrize(
    "used, reached",
    [
        ("mine", {"gifts.mine", "helper", "deeper"}),
        ("copies", {"gifts.copies", "gifts.mine", "helper", "deeper"}),
        ("other", {"gifts.other", "unused"}),
    ],
)
def test_a_plugin_counts_where_it_is_used_with_all_that_it_imports(tmp_path, root, used, reached):
    """All are loaded for their facts. A file that re-exports another reaches that one, whichever was loaded first."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    script = f"""
    from unigrpo.core import code_identity, registry
    door = registry.Door("gifts", "gift", object)
    with registry.declarations():
        [door.load(name) for name in door.names()]
    door.load({used!r})
    print(*(name for name in code_identity.loaded(["gifts"]) if name != "gifts"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PYTHONPATH": f"{tmp_path}:{root / 'src'}", "PATH": ""},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert set(done.stdout.split()) == reached, done.stderr
