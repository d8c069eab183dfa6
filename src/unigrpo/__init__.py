"""A reproduction of UniGRPO: joint reinforcement learning of reasoning and image generation.

``unigrpo.load``, ``unigrpo.judge``: see ``unigrpo.tools.api``.
"""


def __getattr__(name: str):
    if name not in ("load", "judge"):
        raise AttributeError(f"module 'unigrpo' has no attribute {name!r}")
    from unigrpo.tools import api  # takes seconds, because it needs torch

    return getattr(api, name)
