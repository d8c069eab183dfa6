"""A reproduction of UniGRPO: joint reinforcement learning of reasoning and image generation.

``unigrpo.load``, ``unigrpo.judge``: see ``unigrpo.tools.api``. The packages ``rewards`` and ``evals`` are not
installed, because these names belong to others on the index. They are found beside ``src``, whatever the folder that
this is imported from.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
if (CHECKOUT / "rewards").is_dir() and str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))


def __getattr__(name: str):
    if name not in ("load", "judge"):
        raise AttributeError(f"module 'unigrpo' has no attribute {name!r}")
    from unigrpo.tools import api  # takes seconds, because it needs torch

    return getattr(api, name)
