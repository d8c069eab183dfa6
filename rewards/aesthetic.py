"""LAION's aesthetic predictor (improved-aesthetic-predictor, 2022): a head on CLIP ViT-L/14's image embedding, trained
on people's ratings from 1 to 10. It does not see the prompt."""

from __future__ import annotations

from rewards import clip
from rewards.heads import Head
from rewards.weights import fill, in_batches, placed, read_published
from unigrpo.core import weights as published

WHAT = "LAION's aesthetic predictor: ratings of images without their prompts"
WEIGHTS = "trl-lib/ddpo-aesthetic-predictor"
LICENCE = "Apache-2.0 (head), MIT (CLIP)"
RANGE = (-float("inf"), float("inf"))  # linear; images score about 1 to 10
INPUT_SIZE = 224
DIFFERENTIABLE = True

FILE = "aesthetic-model.pth"  # elsewhere called sac+logos+ava1-l14-linearMSE.pth
CLIP = "openai/clip-vit-large-patch14"


def build(weights: str = WEIGHTS, clip_weights: str = CLIP, batch_size: int = 64, device: str = "auto"):
    """``weights``: the head's file, a folder with it, or a hub id; ``clip_weights``: hub id or folder. Raises
    UserError."""
    with placed("aesthetic"):
        path = published.file(weights, FILE)
    tensors = read_published("aesthetic", path)
    model = clip.load("aesthetic", clip_weights, device)
    head = fill(Head(model.model.config.projection_dim), tensors, path, device)

    def score(images, prompts):
        return head(model.embed_images(images))

    return in_batches(score, batch_size)
