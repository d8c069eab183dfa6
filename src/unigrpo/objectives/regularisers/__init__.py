"""Distances to the reference, one file each: ``rl.regulariser`` names one, ``none`` is no regulariser.

A file declares ``FACTS`` and ``Settings`` (its weight), and ``distance(new, reference, rl) -> (B, S)`` of two replays
of the same images, under the policy and under the reference.
"""
