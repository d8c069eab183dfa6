"""Backbones, one file or folder each: ``backbone`` of a scale names one."""
