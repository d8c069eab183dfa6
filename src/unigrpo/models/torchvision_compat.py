"""Lets torchvision import beside a torch build without its compiled operators (CPU torch, CUDA torchvision).

transformers and open_clip import torchvision for transforms that need no compiled operator. Where torchvision imports
natively this changes nothing; where its meta registrations fail because an operator is missing, that one registration
is skipped and the import repeated.
"""

from __future__ import annotations

import importlib
import sys


def ensure_torchvision() -> None:
    """Import torchvision, skipping registrations of operators that this build lacks. Absent torchvision is fine."""
    try:
        importlib.import_module("torchvision")
        return
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    original = torch.library.register_fake

    def register_fake(op, *args, **kwargs):
        if not (isinstance(op, str) and op.startswith("torchvision::")):
            return original(op, *args, **kwargs)

        def decorate(fn):
            try:
                return original(op, *args, **kwargs)(fn)
            except RuntimeError:  # the operator does not exist in this build
                return fn

        return decorate

    torch.library.register_fake = register_fake
    try:
        importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = original
