"""CLIPScore (Hessel et al., arXiv 2104.08718, equation 1): 2.5 max(cos, 0) of the embeddings of image and prompt."""

from unigrpo.core.settings import Count, Device, Published
from unigrpo.study.facts import RewardFacts

WEIGHTS = "openai/clip-vit-base-patch32"
PREFIX = "A photo depicts "  # the paper's, before every caption
SCALE = 2.5
FACTS = RewardFacts(
    what="CLIPScore: 2.5 max(cos, 0) of image and prompt",
    weights=WEIGHTS,
    licence="MIT",
    range=(0.0, 2.5),
    input_size=224,
    differentiable=True,
    most_tokens=77,
)


def build(
    weights: Published = WEIGHTS,
    tokenizer: Published = WEIGHTS,
    prefix: str = PREFIX,
    batch_size: Count = 64,
    device: Device = "auto",
):
    """Any CLIP of transformers can be given as ``weights``: hub id or folder. Raises UserError."""
    from rewards._support.published_weights import cutting, in_batches, load_clip

    model = load_clip("clip_score", weights, device, tokenizer)

    def score(images, prompts):
        return SCALE * model.similarity(images, [prefix + p.text for p in prompts]).clamp(min=0)

    return in_batches(score, batch_size, cutting("clip_score", model.most, model.tokenizer, prefix))
