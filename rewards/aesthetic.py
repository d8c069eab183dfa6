"""LAION's aesthetic predictor (improved-aesthetic-predictor, 2022): a head on CLIP ViT-L/14's image embedding, trained
on people's ratings from 1 to 10. It does not see the prompt."""

from unigrpo.core.settings import Count, Device, Published
from unigrpo.study.facts import RewardFacts

WEIGHTS = "trl-lib/ddpo-aesthetic-predictor"
FILE = "aesthetic-model.pth"  # elsewhere called sac+logos+ava1-l14-linearMSE.pth
CLIP = "openai/clip-vit-large-patch14"
FACTS = RewardFacts(
    what="LAION's aesthetic predictor: ratings of images without their prompts",
    weights=WEIGHTS,
    licence="Apache-2.0 (head), MIT (CLIP)",
    range=(-float("inf"), float("inf")),  # linear; images score about 1 to 10
    input_size=224,
    differentiable=True,
)


def build(
    weights: Published = WEIGHTS, clip_weights: Published = CLIP, batch_size: Count = 64, device: Device = "auto"
):
    """``weights``: the head's file, a folder with it, or a hub id; ``clip_weights``: hub id or folder. Raises
    UserError."""
    from rewards._support.published_weights import Head, fill, in_batches, load_clip, placed, read_published
    from unigrpo.core import weights as published

    with placed("aesthetic"):
        path = published.file(weights, FILE)
    tensors = read_published("aesthetic", path)
    model = load_clip("aesthetic", clip_weights, device)
    head = fill(Head(model.model.config.projection_dim), tensors, path, device)

    def score(images, prompts):
        return head(model.embed_images(images))

    return in_batches(score, batch_size)
