"""Human Preference Score v2.1 (Wu et al., arXiv 2306.09341): cosine of an open_clip ViT-H/14 tuned on human choices.

The published file is a training checkpoint whose ``state_dict`` has open_clip's names.
"""

from typing import Literal

from unigrpo.core.settings import Count, Device, Published
from unigrpo.study.facts import RewardFacts

WEIGHTS = "xswu/HPSv2"
FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
ARCHITECTURE = "ViT-H-14"
FACTS = RewardFacts(
    what="Human Preference Score v2.1: cosine of a CLIP-H tuned on human choices",
    weights=WEIGHTS,
    licence="Apache-2.0",
    range=(-1.0, 1.0),  # images score about 0.2 to 0.35
    input_size=224,
    differentiable=True,
    most_tokens=77,
)


def build(
    weights: Published = WEIGHTS,
    version: Literal["2.0", "2.1"] = "2.1",
    architecture: str = ARCHITECTURE,
    batch_size: Count = 64,
    device: Device = "auto",
):
    """``weights``: the published file, a folder with it, or a hub id; ``architecture``: a model of open_clip. Raises
    UserError."""
    from unigrpo.models import torchvision_compat

    torchvision_compat.ensure_torchvision()  # open_clip imports it
    import open_clip
    from torch.nn.functional import normalize

    from rewards._support.pixels import clip_input, letterboxed
    from rewards._support.published_weights import fill, in_batches, placed, read_published
    from unigrpo.core import weights as published
    from unigrpo.core.errors import UserError

    if architecture not in open_clip.list_models():
        raise UserError(f"reward hps: architecture: expected a model of open_clip, got {architecture!r}")
    with placed("hps"):
        path = published.file(weights, FILES[version])
    tensors = read_published("hps", path)
    model = fill(open_clip.create_model(architecture, load_weights=False), tensors, path, device)
    tokenizer, place = open_clip.get_tokenizer(architecture), published.pick_device(device)
    side = model.visual.image_size
    side = side[0] if isinstance(side, tuple) else side

    def score(images, prompts):
        seen = normalize(model.encode_image(clip_input(images.to(place), side, letterboxed)), dim=-1)
        asked = normalize(model.encode_text(tokenizer([p.text for p in prompts]).to(place)), dim=-1)
        return (seen * asked).sum(-1)

    most = tokenizer.context_length
    end = tokenizer(["a " * most], most + 1)[0, most]  # what stands last where a text is cut

    def cut(texts):
        return {f"{most} tokens that hps reads": int((tokenizer(list(texts), most + 1)[:, most] == end).sum())}

    return in_batches(score, batch_size, cut)
