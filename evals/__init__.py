"""Evaluations: of a run's images (``run``), of any images by a benchmark (``images``), by several rewards (``cross``)."""
