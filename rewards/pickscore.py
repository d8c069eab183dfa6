"""PickScore (Kirstain et al., arXiv 2305.01569): cosine of a CLIP-H tuned on human choices, times its scale."""

from __future__ import annotations

from rewards import clip
from rewards.weights import in_batches

WHAT = "PickScore v1: scaled cosine of a CLIP-H tuned on human choices"
WEIGHTS = "yuvalkirstain/PickScore_v1"
LICENCE = "MIT (code; the model's card names none)"
RANGE = (-100.0, 100.0)  # CLIP's scale is held to 100; images score about 15 to 25
INPUT_SIZE = 224
DIFFERENTIABLE = True

TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def build(weights: str = WEIGHTS, tokenizer: str = TOKENIZER, batch_size: int = 64, device: str = "auto"):
    """``weights``: hub id or folder. Raises UserError."""
    model = clip.load_matcher("pickscore", weights, tokenizer, device)

    def score(images, prompts):
        return model.scale * model.similarity(images, [p.text for p in prompts])

    return in_batches(score, batch_size)
