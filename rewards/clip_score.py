"""CLIPScore (Hessel et al., arXiv 2104.08718, equation 1): 2.5 max(cos, 0) of the embeddings of image and prompt."""

from __future__ import annotations

from rewards import clip
from rewards.weights import in_batches

WHAT = "CLIPScore: 2.5 max(cos, 0) of image and prompt"
WEIGHTS = "openai/clip-vit-base-patch32"
LICENCE = "MIT"
RANGE = (0.0, 2.5)
INPUT_SIZE = 224
DIFFERENTIABLE = True

PREFIX = "A photo depicts "  # the paper's, before every caption
SCALE = 2.5


def build(
    weights: str = WEIGHTS,
    tokenizer: str = WEIGHTS,
    prefix: str = PREFIX,
    batch_size: int = 64,
    device: str = "auto",
):
    """Any CLIP of transformers can be given as ``weights``: hub id or folder. Raises UserError."""
    model = clip.load_matcher("clip_score", weights, tokenizer, device)

    def score(images, prompts):
        return SCALE * model.similarity(images, [prefix + p.text for p in prompts]).clamp(min=0)

    return in_batches(score, batch_size)
