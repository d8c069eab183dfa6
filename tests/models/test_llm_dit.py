"""A language model and a diffusion transformer as one policy: what each of the two libraries says of the same input,
one update of every kind, adapters saved and loaded, and everything that is wrong with a release named."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

from tests._support.tiny import DEFAULTS
from unigrpo.core.settings import replace
from unigrpo.study.config import rl_config

from tests._support import released_pair, tiny  # isort: skip  # before the libraries: it lets torchvision import

import peft
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.episodes.rollout import Draw, replay
from unigrpo.models import checkpoint
from unigrpo.models.backbones.llm_dit import pair_files
from unigrpo.models.backbones.llm_dit.pair import Conditioning, LlmDit
from unigrpo.models.base import Trace
from unigrpo.models.mot_layers import patchify, unpatchify
from unigrpo.objectives import flow
from unigrpo.objectives.advantages import group_advantages
from unigrpo.sampling.engine import Decoding
from unigrpo.sampling.painting import Guidance, paint
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig, SamplingConfig, SupervisedConfig, check_together
from unigrpo.study.facts import METHODS
from unigrpo.tools import describe, export
from unigrpo.training import launch, learner, loop, reinforcement_run, supervised_run, task
from unigrpo.world import prompts as world_prompts

RL = replace(tiny.RL, lora_rank=2, epochs=1, micro_batch=12, steps=4, window_range=(0, 3))
SAMPLING = SamplingConfig(steps=2, images_per_prompt=1, max_trace_tokens=4)
PROMPTS = ["a photo of a red circle", "a star", "a photo of two blue squares left of a green ring"]


def config(folder: Path, stage: str = "rl", **changes) -> RunConfig:
    origin = {
        "source": "released",
        "released": str(folder / "pipeline"),
        "language_model": str(folder / "language_model"),
    }
    settings = {"backbone": "llm_dit", "model": released_pair.MODEL, "rl": RL, "sampling": SAMPLING}
    return tiny.run_config(stage, **settings | (origin if stage == "base" else {}) | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return released_pair.write(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def base(folder) -> Path:
    """A run's folder with adapters that change the output: trained ones, as far as the tests can tell."""
    pair_files.adopt(config(folder, "base"), folder / "base", {"run": "base"})
    model = checkpoint.load_model(folder / "base")
    with torch.no_grad():
        for p in (q for part in model.expert_parameters().values() for q in part):
            p += 0.3 * torch.randn(p.shape, generator=seeding.generator(1, "adapters", p.numel()))
    model.save(folder / "moved", {"run": "base"})
    return folder / "moved"


@pytest.fixture(scope="module")
def loaded(base) -> LlmDit:
    return checkpoint.load_model(base, expected=released_pair.MODEL)


@pytest.fixture
def model(loaded) -> LlmDit:
    """Its adapters are the test's own, the released weights are not."""
    return copy.deepcopy(loaded)


def uniforms(rows: int, tokens: int = 5) -> torch.Tensor:
    return torch.rand(rows, tokens, generator=seeding.generator(2, "uniforms"))


def noise(model: LlmDit, rows: int) -> torch.Tensor:
    return torch.randn(rows, *model.latent_shape, generator=seeding.generator(2, "noise"))


@torch.no_grad()
def outputs(model: LlmDit) -> list[torch.Tensor]:
    """Traces, their log-probabilities, a velocity after them, and the images that they paint."""
    asked = model.prompt_ids(PROMPTS)
    trace, context = model.think(asked, 5, uniforms(3), 1.0)
    seen = {"full": context, "empty": model.empty_context(3)}
    final, _ = paint(model, seen, noise(model, 3), torch.tensor([1.0, 0.6, 0.0]), Guidance(2.0))
    logp, _ = model.text_logp(model.encode(asked, trace)[0], trace, 1.0)
    return [trace.tokens, logp, model.velocity(context, noise(model, 3), torch.tensor([0.7] * 3)), model.decode(final)]


# ---------------------------------------------------------------------------------------------------- two libraries
def test_text_is_the_language_models_own(model):
    """Every token is what inverting the distribution of transformers' forward pass gives, on that row alone, without
    padding or cache, whatever the release's settings of generation say; and its log-probability is that of the pass."""
    asked, draws = model.prompt_ids(PROMPTS), uniforms(3)
    trace, _ = model.think(asked, 5, draws, 0.8)
    logp, entropy = model.text_logp(model.encode(asked, trace)[0], trace, 0.8)
    assert trace.mask.any(1).all()
    for row, question in enumerate(asked):
        ids = list(question.ids)
        for k in range(int(trace.mask[row].sum())):
            with torch.no_grad():
                p = (model.llm(input_ids=torch.tensor([ids])).logits[0, -1] / 0.8).softmax(-1)
            token = int((p.cumsum(0) <= draws[row, k] * p.sum()).sum())
            assert int(trace.tokens[row, k]) == token
            assert logp[row, k].item() == pytest.approx(p[token].log().item(), abs=1e-5)
            assert entropy[row, k].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
            ids.append(token)


def test_greedy_text_is_generates(model):
    asked = model.prompt_ids(PROMPTS[:1])
    trace, _ = model.think(asked, 6, None, 0.0)
    plain = GenerationConfig(do_sample=False, repetition_penalty=1.0, eos_token_id=model.ends, max_new_tokens=6)
    own = model.llm.generate(torch.tensor([asked[0].ids]), generation_config=plain)[0, len(asked[0].ids) :]
    assert own.tolist() == trace.tokens[0].tolist()


def test_an_end_token_ends_a_trace(model):
    """At a temperature that makes all tokens alike a draw is a place in the vocabulary: rows end at their first end
    token, which is scored, and a row that never ends is cut."""
    asked, end = model.prompt_ids(PROMPTS), model.ends[0]
    size = model.llm.config.vocab_size
    draws = torch.full((3, 4), 7.5 / size)
    draws[0, 1] = draws[1, 0] = (end + 0.5) / size
    trace, _ = model.think(asked, 4, draws, 1e6)
    assert trace.mask.tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert trace.tokens[0, :2].tolist() == [7, end] and trace.tokens[2].tolist() == [7] * 4
    logp, _ = model.text_logp(model.encode(asked, trace)[0], trace, 1e6)
    assert torch.allclose(logp[trace.mask], torch.tensor(1 / size).log(), atol=1e-3) and not logp[~trace.mask].any()
    assert model.trace_texts(trace)[1] == ""
    given = model.trace_from_texts(["red", None])
    assert given.tokens[0, -1] == end and given.mask.sum(1).tolist() == [4, 0]


def test_painting_is_the_pipelines(folder, base, model):
    """Our Euler loop and diffusers' own pipeline from the same noise: same latents, same pixels, with and without
    guidance. Its scheduler shifts the times that it is given as our grid shifts its own."""
    (question,) = model.prompt_ids(PROMPTS[:1])
    trace = model.trace_from_texts(["a red circle in the middle"])
    _, context = model.encode([question], trace)
    text = f"{PROMPTS[0]}\na red circle in the middle"
    start = noise(model, 1)
    for guidance in (1.0, 3.5):
        with torch.no_grad():
            seen = {"full": context, "empty": model.empty_context(1)}
            ours, _ = paint(model, seen, start, flow.time_grid(4, 3.0, "steps"), Guidance(guidance))
            theirs = model.pipeline(
                text,
                height=32,
                width=32,
                sigmas=[1.0, 0.75, 0.5, 0.25],
                num_inference_steps=4,
                guidance_scale=guidance,
                latents=unpatchify(start, 2, 4, 4),
                output_type="latent",
            ).images
            pixels = model.pipeline.vae.decode(theirs / 1.5305 + 0.0609).sample
        assert torch.allclose(ours, patchify(theirs, 2), atol=2e-5), guidance
        shown = model.pipeline.image_processor.postprocess(pixels, output_type="pt")
        assert torch.allclose(model.decode(ours), shown, atol=1e-5)
    seen = {"full": model.read_prompts([question])}
    plain, _ = paint(model, seen, start, flow.time_grid(4, 3.0, "steps"), Guidance())
    assert (plain - ours).abs().max() > 0.01  # the trace is read


def test_latents_are_the_autoencoders(model):
    pictures = torch.rand(2, 3, 32, 32, generator=seeding.generator(3, "pictures"))
    with torch.no_grad():
        own = model.vae.encode(2 * pictures - 1).latent_dist.mean
        tokens = model.encode_images(pictures)
    assert tokens.shape == (2, *model.latent_shape)
    assert torch.allclose(unpatchify(tokens, 2, 4, 4) / 1.5305 + 0.0609, own, atol=1e-6)


def test_the_autoencoder_computes_in_fp32_under_autocast(model):
    pictures = torch.rand(1, 3, 32, 32, generator=seeding.generator(4, "pictures"))
    with torch.no_grad():
        tokens = model.encode_images(pictures)
        shown = model.decode(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.encode_images(pictures), tokens) and torch.equal(model.decode(tokens), shown)


def test_a_sample_does_not_depend_on_its_company(model):
    """Prompts and traces of other lengths in the batch pad a row, and change neither its words nor its picture."""
    asked, draws, x = model.prompt_ids(PROMPTS), uniforms(3), noise(model, 3)
    together, context = model.think(asked, 5, draws, 1.0)
    wider = Trace(
        torch.cat([together.tokens, torch.full((3, 4), 9)], 1), torch.cat([together.mask, torch.zeros(3, 4).bool()], 1)
    )
    t = torch.tensor([0.4, 0.9, 0.6])
    with torch.no_grad():
        velocity = model.velocity(context, x, t)
        logp, _ = model.text_logp(model.encode(asked, wider)[0], wider, 1.0)
        for row in range(3):
            alone, own = model.think(asked[row : row + 1], 5, draws[row : row + 1], 1.0)
            length = int(alone.mask.sum())
            assert alone.tokens[0, :length].tolist() == together.tokens[row][together.mask[row]].tolist()
            assert torch.allclose(model.velocity(own, x[row : row + 1], t[row : row + 1])[0], velocity[row], atol=1e-5)
            single, _ = model.text_logp(model.encode(asked[row : row + 1], alone)[0], alone, 1.0)
            assert torch.allclose(single[0, :length], logp[row, :length], atol=1e-5)
            assert not logp[row, length:].any()


def test_contexts_are_rows(model):
    """Choosing and dropping work on rows; the empty text is the pipeline's."""
    asked = model.prompt_ids(PROMPTS)
    context, nothing = model.read_prompts(asked), model.empty_context(3)
    assert torch.equal(context.select([2, 0]).embeds[1], context.embeds[0])
    dropped = context.drop(torch.tensor([True, False, True]))
    assert torch.allclose(dropped.pooled[0], nothing.pooled[0], atol=1e-6) and torch.equal(
        dropped.embeds[1], context.embeds[1]
    )
    own, _, pooled, _ = model.pipeline.encode_prompt("", "", "", model.device, do_classifier_free_guidance=False)
    assert torch.allclose(nothing.embeds[1], own[0], atol=1e-6) and torch.allclose(nothing.pooled[2], pooled[0])
    mixed = model.encode(asked[:2], model.trace_from_texts([None, "red"]))[1]
    assert torch.allclose(mixed.embeds[0], context.embeds[0], atol=1e-6)
    assert (mixed.embeds[1] - context.embeds[1]).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------------- learning
def brightness(images, _):
    return images.mean((1, 2, 3))


brightness.differentiable = True
KINDS = {
    "unigrpo": {},
    "flow_grpo": {"train": ("image",)},
    "text_grpo": {"train": ("text",), "kl_text": 0.1},
    "refl": {"train": ("image",), "method": "refl", "same_noise": False},
    "unifpo": {"method": "fpo", "same_noise": False, "matching_samples": 2},
    "nft": {"train": ("image",), "method": "nft", "same_noise": False, "matching_samples": 2},
    "guided": {"guidance": 2.0, "context_gradient": "stage_boundary"},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_one_update_moves_the_adapters_it_trains_and_nothing_else(folder, base, model, tmp_path, changes):
    """As ``train`` does it, on two prompts; saved and loaded the model gives the same to the last bit."""
    rl = replace(RL, prompts_per_rollout=2, micro_batch=6, **changes)
    before = {name: p.clone() for name, p in model.named_parameters()}
    nets = learner.networks(config(folder, rl=rl), model, brightness)
    assert nets.reference.llm.lm_head.weight is model.llm.lm_head.weight and nets.reference.vae is model.vae
    optimizer, trained = learner.optimizer_for(model, rl)
    method = METHODS.load(rl.method)
    rollout = method.roll_out(nets, Draw(task.draw_prompts(3, 0, 2), rl, 4, 3, 0))
    score = brightness(rollout.image.images, None).double()
    advantages, _ = group_advantages(score, [i // 3 for i in range(6)], ddof=0, eps=1e-4)
    (slices,) = method.make_slices(nets, rollout, tiny.both(advantages), rl)
    metrics, norms = loop.update(
        tiny.learner(nets, rl, optimizer, trained, launch.accelerate_for(config(folder))), slices, rl
    )
    assert all(norm > 0 for norm in norms.values()) and len(norms) == len(rl.train)
    if "text" in rl.train:  # every ratio is 1 before the first update
        assert metrics["text_loss"] == pytest.approx(0, abs=1e-5) and metrics["text_ratio_mean"] == pytest.approx(1)
    if nets.copies:
        method.follow(nets, rl, 1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    rooms = {"text": "llm.", "image": "transformer."}
    assert moved and all("lora_" in name and name.startswith(tuple(rooms[p] for p in rl.train)) for name in moved)
    assert {name.split(".")[0] + "." for name in moved} == {rooms[p] for p in rl.train}
    assert all(torch.equal(p, before[n]) for n, p in nets.reference.named_parameters())  # it stays behind

    model.save(tmp_path, {"run": "tiny"})
    again = checkpoint.load_model(tmp_path, expected=released_pair.MODEL)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {name for name in before if "lora_" in name}


def test_no_gradient_flows_from_the_image_to_the_language_model(folder, model):
    rl = replace(RL, prompts_per_rollout=2)
    nets = learner.networks(config(folder, rl=rl), model, brightness)
    rollout = METHODS.load("grpo").roll_out(nets, Draw(task.draw_prompts(3, 0, 2), rl, 4, 3, 0))
    assert rl.gradient_through_context  # auto, where both parts train: there is nothing for it to reach
    again = replay(model, rollout, rl)
    parts = model.expert_parameters()
    reached = torch.autograd.grad(
        again.image.velocity.square().mean(), parts["text"] + parts["image"], allow_unused=True
    )
    assert all(g is None for g in reached[: len(parts["text"])])
    assert any(g is not None and g.any() for g in reached[len(parts["text"]) :])
    with pytest.raises(UserError, match=r"rl\.context_gradient: expected stage_boundary or auto for backbone: llm_dit"):
        check_together(config(folder, rl=replace(RL, context_gradient="full")))


def test_fresh_adapters_change_nothing(folder, base):
    """A base gives what the releases give, and another seed draws other adapters."""
    fresh = checkpoint.load_model(folder / "base")
    plain = released_pair.pipeline().transformer
    x, t = noise(fresh, 2), torch.tensor([0.3, 0.8])
    context = fresh.read_prompts(fresh.prompt_ids(PROMPTS[:2]))
    with torch.no_grad():
        own = plain(unpatchify(x, 2, 4, 4), context.embeds, context.pooled, 1000 * t).sample
        assert torch.equal(fresh.velocity(context, x, t), patchify(own, 2))
    pair_files.adopt(config(folder, "base", seed=5), folder / "other", {})
    other = checkpoint.load_model(folder / "other").state_dict()
    differ = {name for name, p in fresh.state_dict().items() if not torch.equal(p, other[name])}
    assert differ == {name for name in other if "lora_A" in name}


@pytest.mark.slow
def test_supervised_and_reinforced_like_every_model(folder, base, tmp_path, monkeypatch):
    """SFT, then RL killed after a rollout and resumed: the same weights as in one go. A training state holds adapters
    alone, however large the releases are."""
    few = world_prompts.prompt_set("val")[:2]
    real = world_prompts.prompt_set
    monkeypatch.setattr(world_prompts, "prompt_set", lambda name: few if name == "val" else real(name))
    short = SupervisedConfig(steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=1)
    supervised_run.train(config(folder, "sft", supervised=short), tmp_path / "sft", folder / "base")
    rl = replace(RL, rollouts=2, prompts_per_rollout=2, group_size=2, micro_batch=4, checkpoint_every=1)
    cfg, decoding = config(folder, rl=rl), Decoding(True, 2.0, 0.7)

    def run(out, reward):
        reinforcement_run.train(cfg, out, tmp_path / "sft", reward, decoding)

    run(tmp_path / "straight", brightness)
    kept = []

    def fails_later(images, prompts):
        if (tmp_path / "resumed" / "state" / "state.safetensors").exists():
            with safe_open(tmp_path / "resumed" / "state" / "state.safetensors", "pt") as file:
                kept.extend(file.keys())
            raise KeyboardInterrupt
        return brightness(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", fails_later)
    assert kept and all("lora_" in name for name in kept if not name.startswith("optimizer/"))
    run(tmp_path / "resumed", brightness)
    start, straight, resumed = (
        checkpoint.load_model(tmp_path / name, expected=released_pair.MODEL).state_dict()
        for name in ("sft", "straight", "resumed")
    )
    assert all(torch.equal(p, resumed[name]) for name, p in straight.items())
    assert any(not torch.equal(p, start[name]) for name, p in straight.items())
    assert json.loads((tmp_path / "straight" / "run.json").read_text())["updates"] == 2


def test_exported_adapters_are_those_of_peft_and_diffusers(folder, base, model, tmp_path):
    """The two libraries load what was exported onto the releases and say the same as the run's own model."""
    shutil.copytree(base, tmp_path / "run")
    facts = {"images": 0, "model_evaluations": 0, "updates": 0, "collapsed": False}
    write_json(tmp_path / "run" / "run.json", provenance.record(config(folder), device="cpu", wall_seconds=0, **facts))
    export.export(tmp_path / "run", tmp_path / "made")
    text = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "language_model"), tmp_path / "made" / "language_model"
    )
    ids = torch.tensor([model.prompt_ids(PROMPTS[:1])[0].ids])
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder / "pipeline")
    pipeline.load_lora_weights(tmp_path / "made")
    context, x, t = model.read_prompts(model.prompt_ids(PROMPTS[:2])), noise(model, 2), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        assert torch.allclose(text(ids).logits, model.llm(ids).logits, atol=1e-6)
        own = pipeline.transformer(unpatchify(x, 2, 4, 4), context.embeds, context.pooled, 1000 * t).sample
        assert torch.allclose(patchify(own, 2), model.velocity(context, x, t), atol=1e-6)
    card = (tmp_path / "made" / "README.md").read_text()
    assert "Adapters of rank 2" in card and str(folder / "pipeline") in card and "license: other" in card
    again = checkpoint.load_model(tmp_path / "made", expected=released_pair.MODEL)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
    told = describe.checkpoint(tmp_path / "made")
    parts = {part: sum(p.numel() for p in ps) for part, ps in model.expert_parameters().items()}
    assert told["parameters"] == parts | {"fixed": 0}
    assert any("adapters of rank 2 for" in line for line in describe.checkpoint_lines(told))


# ---------------------------------------------------------------------------------------------------- other releases
def test_words_without_a_template_and_a_pipeline_without_t5(tmp_path):
    """Another architecture, no chat template, no third encoder, and released weights in bf16 below fp32 adapters."""
    released_pair.write(tmp_path, "llama", t5=False)
    supervised_run.adopt(config(tmp_path, "base", precision="bf16"), tmp_path / "base")
    model = checkpoint.load_model(tmp_path / "base", expected=released_pair.MODEL)
    assert model.dtype == model.llm.lm_head.weight.dtype == torch.bfloat16
    assert model.vae.dtype == torch.float32
    assert {p.dtype for part in model.expert_parameters().values() for p in part} == {torch.float32}
    (question,) = model.prompt_ids(["a photo of a star"])
    assert "chat_template" not in (tmp_path / "base" / "tokenizer" / "tokenizer_config.json").read_text()
    assert model.tokenizer.decode(question.ids).endswith("a photo of a star")
    rl = replace(RL, prompts_per_rollout=2, micro_batch=6)
    nets = learner.networks(config(tmp_path, rl=rl), model, brightness)
    optimizer, trained = learner.optimizer_for(model, rl)
    method = METHODS.load("grpo")
    rollout = method.roll_out(nets, Draw(task.draw_prompts(3, 0, 2), rl, 4, 3, 0))
    (slices,) = method.make_slices(nets, rollout, tiny.both(torch.tensor([1.0, -1, 0] * 2)), rl)
    run = tiny.learner(nets, rl, optimizer, trained, launch.accelerate_for(config(tmp_path)))
    _, norms = loop.update(run, slices, rl)
    assert all(norm > 0 for norm in norms.values()) and rollout.image.images.dtype == torch.float32
    assert json.loads((tmp_path / "base" / "run.json").read_text())["updates"] == 0


# ---------------------------------------------------------------------------------------------------- bad input
def change_json(name, **values):
    def change(place):
        data = json.loads((place / name).read_text()) | values
        (place / name).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return change


def drop_tensor(name, tensor):
    def change(place):
        from safetensors.torch import load_file, save_file

        tensors = load_file(place / name)
        tensors.pop(tensor)
        save_file(tensors, place / name, {"format": "pt"})

    return change


def cut(name):
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:-9])


def without(name):
    return lambda place: (place / name).unlink()


LLM, PAINTER = "language_model/", "pipeline/"
TRANSFORMER = "pipeline/transformer/diffusion_pytorch_model.safetensors"
DAMAGE = {
    "no language model": (without(LLM + "config.json"), r"language_model/config\.json: not found, expected a causal"),
    "no weights": (without(LLM + "model.safetensors"), r"language_model: cannot be loaded \(.*model\.safetensors"),
    "cut": (cut(LLM + "model.safetensors"), "language_model: cannot be loaded"),
    "no pipeline": (without(PAINTER + "model_index.json"), r"model_index\.json: not found, expected a Stable"),
    "another pipeline": (
        change_json(PAINTER + "model_index.json", _class_name="FluxPipeline"),
        "_class_name: expected StableDiffusion3Pipeline, got 'FluxPipeline'",
    ),
    "no transformer": (without(TRANSFORMER), "pipeline/transformer: cannot be loaded"),
    "missing tensor": (drop_tensor(TRANSFORMER, "proj_out.bias"), r"transformer: tensor proj_out\.bias: missing"),
    "missing llm tensor": (
        drop_tensor(LLM + "model.safetensors", "model.norm.weight"),
        r"language_model: tensor model\.norm\.weight: missing",
    ),
    "no text encoder": (without(PAINTER + "text_encoder_2/config.json"), r"text_encoder_2/config\.json: not found"),
    "no end token": (
        lambda place: [
            change_json(LLM + "tokenizer_config.json", eos_token=None)(place),
            change_json(LLM + "generation_config.json", eos_token_id=None)(place),
        ],
        "no end token, expected one in tokenizer or generation_config.json",
    ),
    "other latents": (
        change_json(PAINTER + "transformer/config.json", in_channels=8),
        r"transformer/config\.json: latent_channels: expected 4, the configuration's model\.latent_channels, got 8",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_wrong_with_a_release_is_named(folder, tmp_path, damage, message):
    place = tmp_path / "pair"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("base", "moved", "other"))
    damage(place)
    with pytest.raises(UserError, match=message) as caught:
        supervised_run.adopt(config(place, "base"), tmp_path / "base")
    assert "\n" not in str(caught.value)


def test_releases_that_changed_under_the_adapters_are_refused(folder, tmp_path):
    place = tmp_path / "pair"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("base", "moved", "other"))
    supervised_run.adopt(config(place, "base"), tmp_path / "base")
    change_json("language_model/config.json", rms_norm_eps=1e-5)(place)
    with pytest.raises(UserError, match=r"model\.json: language_model: .* does not hold the files that this model"):
        checkpoint.load_model(tmp_path / "base")
    shutil.rmtree(place / "pipeline")
    with pytest.raises(UserError, match="no such file or folder, expected a StableDiffusion3Pipeline"):
        checkpoint.load_model(tmp_path / "base")


def test_a_place_that_is_none_is_named(folder, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(pair_files.DiffusionPipeline, "download", unreachable)
    with pytest.raises(UserError, match=r"someone/else: no such folder here, and .* cannot be fetched .*no route"):
        pair_files.adopt(config(folder, "base", released="someone/else"), tmp_path, {})
    with pytest.raises(UserError, match=r"nowhere: no such file or folder, expected a causal language model"):
        pair_files.adopt(config(folder, "base", language_model="nowhere"), tmp_path, {})


def test_damaged_cards_and_adapters(base, tmp_path):
    def copied(change):
        shutil.copytree(base, tmp_path, dirs_exist_ok=True)
        change(tmp_path)
        return tmp_path

    name = "llm.model.layers.0.mlp.up_proj.lora_A.default.weight"
    for change, message in (
        (change_json("model.json", pipeline_files=...), "'pipeline_files' is missing"),
        (change_json("model.json", lora_rank=0), r"model\.json: lora_rank: expected more than 0"),
        (change_json("model.json", lora_rank=3), r"model\.safetensors: tensor .*expected shape"),
        (drop_tensor("model.safetensors", name), r"model\.safetensors: tensor llm\.model\.layers\.0.* is missing"),
        (without("model.safetensors"), r"model\.safetensors: cannot be read \(No such file"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoint.load_model(copied(change))
    with pytest.raises(UserError, match=r"image_size: expected 16, the configuration's model\.image_size, got 32"):
        checkpoint.load_model(base, expected=replace(released_pair.MODEL, image_size=16))


def test_impossible_configurations(folder, model):
    for changes, message in (
        ({"rl": replace(RL, lora_rank=0)}, r"rl\.lora_rank: expected more than 0 for backbone: llm_dit"),
        ({"stage": "base", "language_model": None}, r"base\.language_model: expected a folder or hub id"),
        ({"stage": "base", "source": "train", "released": None}, r"base\.source: expected released for backbone"),
    ):
        with pytest.raises(UserError, match=message):
            config(folder, **changes)
    with pytest.raises(UserError, match=r"rl\.lora_rank: expected 2, that of the parent's adapters, got 3"):
        learner.networks(config(folder, rl=replace(RL, lora_rank=3)), model, brightness)
    with pytest.raises(UserError, match="rl.lora_rank: expected at least 0"):
        rl_config(**DEFAULTS, lora_rank=-1)


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(UserError, match="prompt: expected some words"):
        model.prompt_ids(["a star", " "])
    assert isinstance(model.empty_context(2), Conditioning)
