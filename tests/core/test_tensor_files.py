"""Modules without memory: the shapes of the real ones, nothing drawn, nothing loaded."""

import subprocess
import sys

import torch

from tests._support import tiny
from unigrpo.core.tensor_files import shapes_only


def test_a_model_without_memory_has_the_shapes_of_a_real_one():
    real, drawn = tiny.model(), torch.get_rng_state()
    with shapes_only():
        empty = type(real.mot)(real.mot.config)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    shapes = {name: (t.shape, t.dtype) for name, t in real.mot.state_dict().items()}
    assert {name: (t.shape, t.dtype) for name, t in empty.state_dict().items()} == shapes


def test_loading_a_model_imports_no_compiler(root):
    code = "import sys, unigrpo; unigrpo.load('../assets/base'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root / "src").returncode == 0
