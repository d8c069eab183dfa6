"""The installed command and the package, from a folder that is not the checkout: rewards and evaluations are found."""

import os
import shutil
import subprocess
import sys

import pytest

CALL = "import sys; from unigrpo.__main__ import main; sys.argv = ['unigrpo', *sys.argv[1:]]; main()"
PYTHON = """
import sys, numpy as np, unigrpo
from PIL import Image
from unigrpo.tools.api import Painting, as_prompt
painting = Painting(as_prompt("a photo of a ring"), None, Image.fromarray(np.zeros((48, 48, 3), np.uint8)))
print(sorted(painting.judge()), sorted(painting.judge("jpeg")))
"""


def call(root, folder, code, *words):
    """The process's result; only the package itself is on its path."""
    variables = os.environ | {"PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan --scale cpu", "fits          yes"),  # reads the facts of rewards
        ("prompts geneval", '"tag": "color_attr"'),
        ("judge mean_reward --help", "--images"),
    ],
)
def test_the_command_finds_what_is_not_installed(root, tmp_path, words, said):
    done = call(root, tmp_path, CALL, *words.split())
    assert (done.returncode, done.stderr) == (0, "") and said in done.stdout


def test_what_it_refuses_is_one_line(root, tmp_path):
    done = call(root, tmp_path, CALL, "judge", "geneval", "--images", "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere: ") and done.stderr.count("\n") == 1


def test_the_package_judges_by_a_reward(root, tmp_path):
    done = call(root, tmp_path, PYTHON)
    assert done.returncode == 0, done.stderr
    assert "'gold'" in done.stdout and "['jpeg']" in done.stdout


def test_without_a_checkout_one_line_says_so(root, tmp_path):
    """A copy of the package alone, as a wheel would install it."""
    shutil.copytree(root / "src/unigrpo", tmp_path / "site/unigrpo", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; sys.path = [sys.argv.pop(1), *(p for p in sys.path if not p.endswith('src'))]\n"
    done = call(root, tmp_path, code + CALL, str(tmp_path / "site"), "judge", "geneval", "--images", "x")
    assert done.returncode == 2
    assert done.stderr == "error: evals.benchmarks: not found, expected a checkout of the project\n"
