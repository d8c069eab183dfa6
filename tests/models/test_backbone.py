"""The backbone beyond the stored vectors: batching, caching, sampling and initialisation."""

from __future__ import annotations

import pytest
import torch

from tests._support import tiny
from tests.conformance import bagel_vectors
from unigrpo.core.errors import UserError
from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.base import States, Trace
from unigrpo.models.mot import MoT
from unigrpo.models.mot_layers import patchify, unpatchify
from unigrpo.models.mot_model import PatchCodec
from unigrpo.world import render, scenes

PROMPTS = [
    "a photo of a circle",
    "a photo of a red cross left of a blue star and two green rings",
    "a photo of two hearts",
]
TRACES = ["<think> red circle center </think>", None, "<think> blue heart upper-left , red heart center </think>"]


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def test_a_ragged_batch_equals_one_by_one(model):
    """Padding of prompts and traces changes neither log-probs nor velocities."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *model.latent_shape, generator=generator)
    t = torch.tensor([0.9, 0.4, 0.7])
    ids, trace = model.prompt_ids(PROMPTS), model.trace_from_texts(TRACES)
    with torch.no_grad():
        hidden, context = model.encode(ids, trace)
        logp, _ = model.text_logp(hidden, trace, 1.0)
        v = model.velocity(context, x, t)
        for i in range(3):
            own = model.trace_from_texts([TRACES[i]])
            hidden, context = model.encode([ids[i]], own)
            assert torch.allclose(model.velocity(context, x[i : i + 1], t[i : i + 1])[0], v[i], atol=1e-5)
            n = int(own.mask.sum())
            if n:
                alone, _ = model.text_logp(hidden, own, 1.0)
                assert torch.allclose(alone[0, :n], logp[i, :n], atol=1e-5)
            assert (logp[i, n:] == 0).all()


def test_cached_generation_equals_full_recomputation(model):
    """Greedy tokens with cached keys and values are the arg-max of an uncached forward over the same text."""
    with torch.no_grad():
        trace, _ = model.think(model.prompt_ids(PROMPTS), 6, None, 0.0)
        hidden, _ = model.encode(model.prompt_ids(PROMPTS), trace)
        for i in range(3):
            n = int(trace.mask[i].sum())
            predicted = model.mot.logits(hidden[i, :n]).argmax(-1)
            assert torch.equal(predicted, trace.tokens[i, :n])


def test_sampling_follows_the_policy(model):
    """First tokens drawn by inverse transform occur as often as softmax(logits / T) says (chi-square)."""
    ids, n, temperature = model.prompt_ids(PROMPTS[:1]), 20000, 1.7
    uniforms = torch.rand(n, 1, generator=torch.Generator().manual_seed(1))
    tokens = model.think(ids * n, 1, uniforms, temperature)[0].tokens[:, 0]
    with torch.no_grad():
        every = Trace(
            torch.arange(model.mot.config.vocab_size)[:, None], torch.ones(model.mot.config.vocab_size, 1).bool()
        )
        hidden, _ = model.encode(ids * len(every.tokens), every)
        logp, _ = model.text_logp(hidden, every, temperature)
    expected = logp[:, 0].exp() * n
    assert expected.sum().item() == pytest.approx(n, rel=1e-4)
    observed = torch.bincount(tokens, minlength=len(expected)).float()
    chi2 = ((observed - expected).square() / expected.clamp_min(1e-9)).sum().item()
    assert chi2 < 2 * len(expected)  # the mean is the number of words


def test_temperature_reaches_the_log_probs(model):
    ids, trace = model.prompt_ids(PROMPTS[:1]), model.trace_from_texts(TRACES[:1])
    with torch.no_grad():
        hidden, _ = model.encode(ids, trace)
        logits = model.mot.logits(hidden[0, 0])
        logp, entropy = model.text_logp(hidden, trace, 2.0)
    reference = (logits / 2).log_softmax(-1)
    assert logp[0, 0].item() == pytest.approx(reference[trace.tokens[0, 0]].item(), abs=1e-6)
    assert entropy[0, 0].item() == pytest.approx(-(reference.exp() * reference).sum().item(), abs=1e-5)


def test_an_empty_context_is_what_dropping_leaves(model):
    x, t = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(2)), torch.tensor([0.8, 0.3])
    with torch.no_grad():
        _, context = model.encode(model.prompt_ids(PROMPTS[:2]), None)
        kept = model.velocity(context, x, t)
        states = States(x[:, None], t[:, None])
        ids, first = model.prompt_ids(PROMPTS[:2]), torch.tensor([True, False])
        found = model.replay(ids, [states], ("full",), through=True, dropped=first)
        dropped = found[0]["full"][:, 0]
        empty = model.velocity(model.empty_context(2), x, t)
    assert torch.allclose(dropped[0], empty[0], atol=1e-6) and torch.allclose(dropped[1], kept[1], atol=1e-6)
    assert not torch.allclose(kept[0], empty[0], atol=1e-3)  # the text matters


def test_every_place_is_told_apart_at_initialisation(model):
    """The known pitfall: position vectors must not drown in the projected latents."""
    table = model.mot.latent_pos_embed.pos_embed
    distances = torch.pdist(table)
    assert distances.min() > 0.6 * (2 * table.shape[1]) ** 0.5
    latents = model.mot.vae2llm(
        torch.randn(200, model.mot.config.token_dim, generator=torch.Generator().manual_seed(3))
    )
    assert table.std() > 0.7 * latents.std()


def test_experts_are_disjoint_and_complete(model):
    experts = model.mot.expert_parameters()
    ids = [id(p) for part in experts.values() for p in part]
    trainable = [p for p in model.mot.parameters() if p.requires_grad]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in trainable}
    image = {id(p) for p in experts["image"]}
    for name, p in model.mot.named_parameters():
        if "moe_gen" in name or name.startswith(("vae2llm", "llm2vae", "time_embedder")):
            assert id(p) in image


def test_training_sampling_and_conformance_use_one_class(model):
    """BAGEL's network only adds the reading of pictures."""
    own = {name for name in vars(MultimodalMoT) if not name.startswith("__")}
    assert isinstance(model.mot, MoT) and issubclass(bagel_vectors.MultimodalMoT, MoT) and not own & set(dir(MoT))


def test_patchify_is_inverted_and_channel_fastest():
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = patchify(x, 2)
    assert torch.equal(unpatchify(tokens, 2, 2, 3), x)
    assert torch.equal(tokens[0, 0, :3], x[0, :, 0, 0]) and torch.equal(tokens[0, 0, 3:6], x[0, :, 0, 1])


def test_the_codec_inverts_itself_and_keeps_images_readable():
    rng = torch.Generator().manual_seed(0)
    import numpy as np

    codec = PatchCodec(24, 2, 8)
    draws = np.random.default_rng(0)
    images = render.render([scenes.random_scene(draws, 3) for _ in range(600)])
    kept = codec.fit(images)
    x = torch.from_numpy(images[:50]).permute(0, 3, 1, 2).float() / 255
    latents = codec.encode(x)
    assert latents.shape == (50, 24, 6, 6) and 0.3 < latents.std() < 3
    assert kept > 0.95 and (codec.decode(latents) - x).square().mean().sqrt() < 0.05
    z = 0.1 * torch.randn(2, 24, 6, 6, generator=rng)
    inside = codec.decode(z)
    unclamped = (inside > 0) & (inside < 1)
    assert unclamped.float().mean() > 0.5
    z.requires_grad_(True)
    codec.decode(z).sum().backward()
    assert z.grad.abs().sum() > 0  # differentiable, for reward gradients


@pytest.mark.parametrize(("prompt", "message"), [("", "empty"), ("a photo of a dog", "'dog'")])
def test_bad_prompts_are_refused_by_name(model, prompt, message):
    with pytest.raises(UserError, match=message):
        model.prompt_ids([prompt])


def test_two_heads_start_by_looking_one_and_two_tokens_back():
    """Before training, in the first layer, those heads' average attention peaks at their distance."""
    attention = tiny.model().mot.language_model.model.layers[0].self_attn
    generator, length = torch.Generator().manual_seed(4), 12
    x = torch.randn(200 * length, tiny.MODEL.hidden_size, generator=generator)
    with torch.no_grad():
        rope = tiny.model().mot.rotary(x, torch.arange(length).repeat(200))
        q, k, _ = attention.project(x, rope, "")
        q, k = (heads.unflatten(0, (200, length)).transpose(1, 2) for heads in (q, k))
        k = k.repeat_interleave(attention.heads // attention.kv_heads, 1)
        weights = (q[:, :, -1:] @ k.transpose(2, 3) / attention.head_dim**0.5).softmax(-1).mean(0)[:, 0]
    assert weights[0].argmax() == length - 2 and weights[1].argmax() == length - 3
