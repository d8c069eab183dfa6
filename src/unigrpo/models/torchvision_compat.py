"""Lets torchvision import beside a torch build without its compiled operators (CPU torch, CUDA torchvision).

transformers and open_clip import torchvision for transforms that need no compiled operator. Where torchvision imports
natively this changes nothing; else the operators that it registers something for are declared first.
"""

import importlib
import sys

OPERATORS = "nms", "qnms"
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision() -> None:
    """Import torchvision, whichever operators this build lacks. Absent torchvision is fine."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in OPERATORS:
            torch.library.define(f"torchvision::{operator}", SCHEMA)
        importlib.import_module("torchvision")
