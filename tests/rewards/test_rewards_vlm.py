"""P(yes): a small vision-language model with random weights, saved as a published one, through the real loader."""

import pytest
import torch
from PIL import Image

from rewards._support import pixels
from tests._support import published
from tests._support.published import PROMPTS, images
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.judges import reward as rewards
from unigrpo.judges.local import LocalVlm

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL = [f"<|{name}|>" for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import pre_tokenizers
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    folder = tmp_path_factory.mktemp("vlm")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("y", "e"), ("ye", "s"), ("Y", "e"), ("Ye", "s"), ("Ġ", "yes"), ("n", "o")]
    vocab = {token: i for i, token in enumerate([*letters, *("".join(m) for m in merges), *SPECIAL])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, additional_special_tokens=SPECIAL[1:])
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    parts = Qwen2VLImageProcessor(size=size), tokenizer, Qwen2VLVideoProcessor()
    Qwen2VLProcessor(*parts, chat_template=TEMPLATE).save_pretrained(folder)
    text = {
        "vocab_size": len(vocab),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        "bos_token_id": None,
        "eos_token_id": vocab["<|im_end|>"],
    }
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2}
    tokens = {"image": "image_pad", "video": "video_pad"} | {name: name for name in ("vision_start", "vision_end")}
    ids = {f"{name}_token_id": vocab[f"<|{token}|>"] for name, token in tokens.items()}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
        for p in model.parameters():
            p.data += 0.15 * torch.randn(p.shape)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(folder):
    return rewards.load("vlm_yes", weights=str(folder), device="cpu", answered=0)


def test_it_is_the_models_softmax_on_an_image_file(folder, reward):
    """One by one, from files, without padding; the forms of yes that are one token are summed."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor, model = (c.from_pretrained(folder) for c in (AutoProcessor, AutoModelForImageTextToText))
    vocab = processor.tokenizer.get_vocab()
    yes = [vocab["yes"], vocab["Yes"], vocab["Ġyes"]]
    pictures, expected = images(3, 56), []
    for file, prompt in zip(pixels.to_uint8(pictures), PROMPTS, strict=True):
        asked = f'Does this image match the prompt "{prompt.text}"? Answer with yes or no.'
        text = f"<|im_start|>user:<|vision_start|><|image_pad|><|vision_end|>{asked}<|im_end|><|im_start|>assistant:"
        inputs = processor(text=[text], images=[Image.fromarray(file)], return_tensors="pt")
        with torch.no_grad():
            expected.append(model.eval()(**inputs).logits[0, -1].softmax(-1)[yes].sum())
    expected = torch.stack(expected)
    assert torch.allclose(reward(pictures, PROMPTS), expected, atol=1e-6)
    assert expected.std() > 1e-5 and 0 < expected.min() < expected.max() < 1


def test_it_sees_the_image_and_reads_the_prompt(reward):
    one = images(3, 56)[:1].expand(3, -1, -1, -1)
    assert len(set(reward(one, PROMPTS).tolist())) == 3
    assert len(set(reward(images(3, 56), [PROMPTS[0]] * 3).tolist())) == 3


def test_it_is_differentiable_through_the_processor(reward):
    assert reward.differentiable
    x = (0.2 + 0.6 * images(1, 84)).requires_grad_()  # resized to 56
    reward(x, PROMPTS[:1]).sum().backward()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [reward(x + sign * 1e-2 * direction, PROMPTS[:1]).item() for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-2
    assert (x.grad * direction).sum().item() == pytest.approx(slope, rel=0.1) and abs(slope) > 1e-6


@pytest.mark.parametrize("odd", ["a poster of <|image_pad|>", "a cat<|im_end|>"])
def test_a_prompt_with_a_token_of_the_models_own_is_its_samples_failure(reward, odd):
    prompts = [PROMPTS[0], Prompt("p/odd", odd, "x", {}), PROMPTS[2]]
    with pytest.raises(rewards.Unscored, match="p/odd.*holds '<|im.*a token of the model's own") as caught:
        reward(images(3, 56), prompts)
    assert list(caught.value.problems) == [1]
    assert caught.value.scores["reward"][[0, 2]].tolist() == pytest.approx(
        reward(images(3, 56), PROMPTS)[[0, 2]].tolist()
    )


def test_a_model_that_does_not_answer_is_found_when_it_is_loaded(folder):
    with pytest.raises(UserError, match="^reward vlm_yes: .*'Is this image red.*only .* % of its first token"):
        rewards.load("vlm_yes", weights=str(folder), device="cpu")


def test_a_processor_that_stops_the_gradient_is_found_out(folder, monkeypatch):
    """ReFL refuses the reward then."""
    honest = LocalVlm._inputs

    def stopping(self, *arguments, **options):
        read = honest(self, *arguments, **options)
        read["pixel_values"] = read["pixel_values"].detach()
        return read

    monkeypatch.setattr(LocalVlm, "_inputs", stopping)
    assert not rewards.load("vlm_yes", weights=str(folder), device="cpu", answered=0).differentiable


def test_forms_that_are_no_single_token_do_not_count(folder):
    model = LocalVlm(folder, "cpu", answered=0)
    vocab = model.processor.tokenizer.get_vocab()
    assert sorted(model.check("yes")) == sorted(vocab[t] for t in ("yes", "Yes", "Ġyes"))
    assert model.check("no") == [vocab["no"]]
    with pytest.raises(UserError, match="answer 'seventeen': is no single token"):
        model.check("seventeen")


def test_a_model_without_a_token_for_yes_is_found_when_it_is_loaded(folder, monkeypatch):
    monkeypatch.setattr("unigrpo.judges.local.written", lambda answer: ("seventeen",))
    with pytest.raises(UserError, match="^reward vlm_yes: .*answer 'yes': is no single token"):
        rewards.load("vlm_yes", weights=str(folder), device="cpu", answered=0)


@pytest.mark.parametrize("changes, said", [
    ({"question": "is it good?"}, "question: expected a text that holds {prompt}"),
    ({"dtype": "float99"}, "dtype: expected 'auto', 'float32', 'bfloat16' or 'float16', got 'float99'"),
])  # fmt: skip
def test_bad_options_are_named(folder, changes, said):
    with pytest.raises(UserError, match=f"^reward vlm_yes: {said}"):
        rewards.load("vlm_yes", weights=str(folder), device="cpu", **changes)


def test_the_files_of_another_model_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a vision-language model|has no chat template"):
        rewards.load("vlm_yes", weights=str(published.clip(tmp_path)), device="cpu")
