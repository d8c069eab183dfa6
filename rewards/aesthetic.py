"""LAION's aesthetic predictor (improved-aesthetic-predictor, 2022): a head on CLIP ViT-L/14's image embedding, trained
on people's ratings from 1 to 10. It does not see the prompt."""

from __future__ import annotations

from rewards import clip
from rewards.heads import Head
from rewards.weights import fetch_file, fill, in_batches, read_published

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
    path = fetch_file("aesthetic", weights, FILE)
    tensors = read_published("aesthetic", path)
    tower = clip.load_vision("aesthetic", clip_weights, device)
    width = tower.config.projection_dim
    head = fill(Head(width), tensors, path, device)

    def score(images, prompts):
        return head(clip.embed(tower.vision_model, tower.visual_projection, images).float())

    return in_batches(score, batch_size)
