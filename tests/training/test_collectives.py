"""How often a split network is put together and its gradients are summed, counted in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests._support import tiny
from tests._support.collectives import CASES


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_unit_is_gathered_twice_a_slice_and_summed_once_a_step(root, tmp_path, case):
    """Forward and backward. Where passes without gradient precede a rollout's first slice, FSDP fetches the unit that
    they ended with once more."""
    tiny.write_start(tmp_path)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, "-m", "tests._support.collectives", str(tmp_path), case], env=paths, cwd=root,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads((tmp_path / f"{case}.json").read_text())
    assert len(steps) == 2
    for number, step in enumerate(steps):
        gathers, sums = ({k: n for k, n in step.items() if k.startswith(kind)} for kind in ("gather", "reduce"))
        assert {"gather layer 0", "gather layer 1", "gather rest"} <= gathers.keys() and set(sums.values()) == {1}
        assert sum(gathers.values()) <= 2 * step["slices"] * len(gathers) + (number == 0)
        assert step["slices"] == 3
