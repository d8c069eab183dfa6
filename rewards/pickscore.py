"""PickScore (Kirstain et al., arXiv 2305.01569): cosine of a CLIP-H tuned on human choices, times its scale."""

from unigrpo.core.settings import Count, Device, Published
from unigrpo.study.facts import RewardFacts

WEIGHTS = "yuvalkirstain/PickScore_v1"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
FACTS = RewardFacts(
    what="PickScore v1: scaled cosine of a CLIP-H tuned on human choices",
    weights=WEIGHTS,
    licence="MIT (code; the model's card names none)",
    range=(-100.0, 100.0),  # CLIP's scale is at most 100; images score about 15 to 25
    input_size=224,
    differentiable=True,
    most_tokens=77,
)


def build(
    weights: Published = WEIGHTS, tokenizer: Published = TOKENIZER, batch_size: Count = 64, device: Device = "auto"
):
    """``weights``: hub id or folder. Raises UserError."""
    from rewards._support.published_weights import cutting, in_batches, load_clip

    model = load_clip("pickscore", weights, device, tokenizer)

    def score(images, prompts):
        scale = model.model.logit_scale.exp()  # by which the model was trained to multiply cosines
        return scale * model.similarity(images, [p.text for p in prompts])

    return in_batches(score, batch_size, cutting("pickscore", model.most, model.tokenizer))
