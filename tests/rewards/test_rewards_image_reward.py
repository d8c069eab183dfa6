"""ImageReward: a small checkpoint in the published layout, made from transformers' BLIP, through the real loader."""

import json
import re

import pytest
import torch

from rewards._support import pixels
from tests._support import published
from tests._support.published import PROMPTS, images
from unigrpo.core.errors import UserError
from unigrpo.judges import reward as rewards

WIDTH, TEXT, LAYERS = 64, 32, 2  # image encoder, text encoder
VISION = (  # transformers' names of the image encoder -> the published ones
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding", "patch_embed.proj"),
    (r"encoder\.layers\.(\d+)\.self_attn\.projection", r"blocks.\1.attn.proj"),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv", r"blocks.\1.attn.qkv"),
    (r"encoder\.layers\.(\d+)\.layer_norm(\d)", r"blocks.\1.norm\2"),
    (r"encoder\.layers\.(\d+)\.mlp", r"blocks.\1.mlp"),
    (r"post_layernorm", "norm"),
)


@pytest.fixture(scope="module")
def blip():
    from transformers import BlipConfig, BlipForImageTextRetrieval

    text = {
        "vocab_size": 12 + len(published.WORDS),
        "hidden_size": TEXT,
        "encoder_hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "is_decoder": True,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision)).eval()
        for p in model.parameters():
            p.data += 0.1 * torch.randn(p.shape)
    return model


@pytest.fixture(scope="module")
def published_files(blip, tmp_path_factory):
    """A folder as the hub's: ImageReward.pt and med_config.json; with the tokenizer in a folder inside."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("image_reward")
    tensors = {}
    for name, value in blip.vision_model.state_dict().items():
        for theirs, ours in VISION:
            name = re.sub(theirs, ours, name)
        tensors[f"blip.visual_encoder.{name}"] = value
    for name, value in blip.text_encoder.state_dict().items():
        if not name.startswith("pooler"):
            tensors[f"blip.text_encoder.{name}"] = value
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]  # with what is not used of them
    tensors["blip.text_proj.weight"] = torch.zeros(8, TEXT)
    tensors |= {f"mlp.{name}": value for name, value in published.head(TEXT).items()}
    torch.save(tensors, folder / "ImageReward.pt")
    config = blip.config.text_config
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings"
    card = {name: getattr(config, name) for name in names.split()}
    card |= {"layer_norm_eps": config.layer_norm_eps, "hidden_act": "gelu", "model_type": "bert"}
    (folder / "med_config.json").write_text(json.dumps(card))
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *published.WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocab)}).save_pretrained(folder / "bert")
    return folder


def options(folder, **changes):
    return {"weights": str(folder), "tokenizer": str(folder / "bert"), "device": "cpu"} | changes


def test_the_score_is_that_of_blip_and_the_head(blip, published_files):
    from transformers import AutoTokenizer

    reward = rewards.load("image_reward", **options(published_files, batch_size=2))
    words = AutoTokenizer.from_pretrained(published_files / "bert")([p.text for p in PROMPTS], padding=True)
    expected = []
    with torch.no_grad():
        seen = blip.vision_model(pixel_values=pixels.clip_input(images(), 32)).last_hidden_state
        for one, ids, mask in zip(seen, words["input_ids"], words["attention_mask"], strict=True):
            read = blip.text_encoder(
                input_ids=torch.tensor([ids[: sum(mask)]]), encoder_hidden_states=one[None], is_decoder=False
            )
            expected.append(published.apply_head(published.head(TEXT), read.last_hidden_state[:, 0]))
    expected = (torch.cat(expected) - 0.16717362830052426) / 1.0333394966054072
    assert torch.allclose(reward(images(), PROMPTS), expected, atol=1e-4)
    assert expected.std() > 0.01


def test_prompts_of_more_than_35_tokens_are_counted(published_files):
    """33 words stand between the first token and the last."""
    reward = rewards.load("image_reward", **options(published_files))
    texts = [" ".join(["red", "cat", "dog"] * 20), *(" ".join(["cat"] * n) for n in (32, 33, 34, 35))]
    assert reward.cut(texts) == {"35 tokens that image_reward reads": 3} and reward.cut(texts[1:3]) == {}


def test_it_has_a_gradient(published_files):
    x = (0.05 + 0.9 * images(1)).requires_grad_()
    reward = rewards.load("image_reward", **options(published_files))
    reward(x, PROMPTS[:1]).sum().backward()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [reward(x.detach() + sign * 1e-2 * direction, PROMPTS[:1]).item() for sign in (1, -1)]
    assert (x.grad * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05)


def test_the_file_alone_with_its_config_elsewhere(published_files, tmp_path):
    whole = rewards.load("image_reward", **options(published_files))(images(), PROMPTS)
    (tmp_path / "mine.pt").write_bytes((published_files / "ImageReward.pt").read_bytes())
    with pytest.raises(UserError, match=r"med_config\.json"):
        rewards.load("image_reward", **options(published_files, weights=str(tmp_path / "mine.pt")))
    apart = options(published_files, weights=str(tmp_path / "mine.pt"), config=str(published_files))
    assert torch.equal(rewards.load("image_reward", **apart)(images(), PROMPTS), whole)


def test_foreign_files_are_named(published_files, tmp_path):
    tensors = torch.load(published_files / "ImageReward.pt", weights_only=True)
    card = json.loads((published_files / "med_config.json").read_text())

    def said(tensors, card):
        torch.save(tensors, tmp_path / "ImageReward.pt")
        (tmp_path / "med_config.json").write_text(json.dumps(card))
        with pytest.raises(UserError) as error:
            rewards.load("image_reward", **options(published_files, weights=str(tmp_path)))
        return str(error.value)

    assert "expected the tensors of ImageReward" in said({"a": torch.zeros(1)}, card)
    lacking = {k: v for k, v in tensors.items() if k != "blip.visual_encoder.blocks.1.norm1.bias"}
    assert "tensor blip.visual_encoder.blocks.1.norm1.bias is missing" in said(lacking, card)
    assert "unexpected tensor blip.extra" in said(tensors | {"blip.extra": torch.zeros(1)}, card)
    assert "'hidden_size' is missing" in said(tensors, {k: v for k, v in card.items() if k != "hidden_size"})
    assert "expected shape" in said(tensors, card | {"intermediate_size": 50})
