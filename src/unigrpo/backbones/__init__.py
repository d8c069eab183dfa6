"""Unified models: one network that writes text and paints images."""

from unigrpo.compat import ensure_torchvision

ensure_torchvision()  # transformers imports torchvision
