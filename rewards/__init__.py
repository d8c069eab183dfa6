"""Rewards: one file each, found by its name (docs/rewards.md). What they share is in ``_support``."""
