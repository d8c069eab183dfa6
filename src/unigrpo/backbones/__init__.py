"""Unified models: one network that writes text and paints images."""
