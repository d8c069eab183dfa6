"""Rows of judged images."""

from unigrpo.study.facts import STATISTICS


def verdict(row: dict) -> dict:
    """The metrics that its judge gave an image, without the numbers that need none."""
    return {name: value for name, value in row["metrics"].items() if name not in STATISTICS}
