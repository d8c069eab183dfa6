"""BAGEL's release: every tensor has its place, loading is strict, and what is loaded thinks, paints and learns."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests._support import release, tiny
from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import digest
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import Draw
from unigrpo.methods import grpo
from unigrpo.models import checkpoint
from unigrpo.models.backbones.bagel import bagel_backbone, bagel_files
from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.backbones.bagel.vae import Autoencoder, VaeConfig
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.mot import MoTConfig
from unigrpo.models.mot_layers import sincos_table
from unigrpo.objectives.advantages import group_advantages
from unigrpo.sampling import sets
from unigrpo.sampling.engine import Decoding
from unigrpo.sampling.painting import Guidance, paint
from unigrpo.study import provenance
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.study.config import ModelConfig, SupervisedConfig
from unigrpo.tools import describe
from unigrpo.training import launch, learner, loop, reinforcement_run, supervised_run, task
from unigrpo.world import prompts as world_prompts

TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return release.write(tmp_path_factory.mktemp("release"))


@pytest.fixture
def copied(folder, tmp_path):
    """A release of one's own to damage."""
    return release.write(tmp_path / "release")


def rewrite(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def outputs(model: bagel_backbone.Bagel) -> list[torch.Tensor]:
    """A trace, a velocity after it, and the image that it paints."""
    ids = model.prompt_ids(["a photo of a red circle"])
    trace, context = model.think(ids, 4, None, 0.0)
    x = torch.randn(1, *model.latent_shape, generator=seeding.generator(0, "x"))
    with torch.no_grad():
        seen = {"full": context, "empty": model.empty_context(1)}
        final, _ = paint(model, seen, x, torch.tensor([1.0, 0.6, 0.0]), Guidance(2.0, renorm="global"))
        return [trace.tokens, model.velocity(context, x, torch.tensor([0.7])), model.decode(final)]


# ---------------------------------------------------------------------------------------------------- sizes
def test_the_published_network_is_accounted_for():
    """1,223 tensors and 14,607,260,128 numbers: bf16, that is the size of the published file."""
    config = MoTConfig(152064, 3584, 18944, 28, 28, 4, 16, 2, 64, 151644, 151645, 151652, 151653)
    with torch.device("meta"):
        own = MultimodalMoT(config, VitConfig(1152, 4304, 26, 16, 14, 70)).state_dict()
        codec = Autoencoder(VaeConfig((128, 256, 512, 512), 2, 16), 2).official()
    assert len(own) == 1223 and sum(t.numel() for t in own.values()) == 14_607_260_128
    assert sum(t.numel() for name, t in own.items() if "_moe_gen" in name) == 6_525_628_928
    assert len(codec) == 244 and sum(t.numel() for t in codec.values()) == 83_819_683
    for name, shape in {
        "language_model.lm_head.weight": (152064, 3584),
        "language_model.model.layers.27.mlp_moe_gen.down_proj.weight": (3584, 18944),
        "language_model.model.layers.0.self_attn.k_proj_moe_gen.bias": (512,),
        "vae2llm.weight": (3584, 64),
        "time_embedder.mlp.2.weight": (3584, 3584),
        "latent_pos_embed.pos_embed": (4096, 3584),
        "vit_model.vision_model.embeddings.patch_embedding.weight": (1152, 588),
        "vit_model.vision_model.encoder.layers.25.mlp.fc1.weight": (4304, 1152),
        "vit_pos_embed.pos_embed": (4900, 3584),
    }.items():
        assert tuple(own[name].shape) == shape, name
    assert tuple(codec["decoder.mid.attn_1.q.weight"].shape) == (512, 512, 1, 1)


def test_sizes_of_the_published_autoencoder_are_read_off_its_tensors():
    published = VaeConfig((128, 256, 512, 512), 2, 16)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in Autoencoder(published, 2).official().items()}
    assert bagel_files.sizes_of(shapes) == published


# ---------------------------------------------------------------------------------------------------- loading
def test_load_think_paint_update_save_load(folder, tmp_path):
    """As ``train`` does it: one UniGRPO update moves both experts and nothing else; saved and loaded it is the same."""
    rl = replace(tiny.RL, epochs=1, micro_batch=12)
    model = checkpoint.load_model(folder, expected=release.MODEL)
    before = {name: p.clone() for name, p in model.named_parameters()}
    nets = learner.networks(tiny.run_config(rl=rl), model, None)
    optimizer, trained = learner.optimizer_for(model, rl)
    drawn = task.draw_prompts(3, 0, rl.prompts_per_rollout)
    rollout = grpo.roll_out(nets, Draw(drawn, rl, 6, 3, 0))
    brightness = rollout.image.images.mean((1, 2, 3)).double()
    advantages, _ = group_advantages(brightness, [i // rl.group_size for i in range(12)], ddof=0, eps=1e-4)
    (slices,) = grpo.make_slices(nets, rollout, tiny.both(advantages), rl)
    metrics, norms = loop.update(
        tiny.learner(nets, rl, optimizer, trained, launch.accelerate_for(tiny.run_config())), slices, rl
    )
    assert metrics["text_loss"] == pytest.approx(0, abs=1e-5) and all(norm > 0 for norm in norms.values())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any("_moe_gen" in name for name in moved) and any("layers.0.mlp.up_proj" in name for name in moved)
    assert not [name for name in moved if name.startswith(("codec", "mot.vit", "mot.connector", "mot.latent_pos"))]

    model.save(tmp_path / "saved", {"run": "tiny"})
    again = checkpoint.load_model(tmp_path / "saved", expected=release.MODEL)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
    with (
        safe_open(folder / "ema.safetensors", "pt") as old,
        safe_open(tmp_path / "saved" / "ema.safetensors", "pt") as new,
    ):
        assert sorted(old.keys()) == sorted(new.keys())
    for name in ("llm_config.json", "vit_config.json"):
        assert json.loads((tmp_path / "saved" / name).read_text()) == json.loads((folder / name).read_text())


def test_half_precision_on_disk_and_in_memory(folder, tmp_path):
    model = bagel_backbone.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.mot.parameters()} == {torch.bfloat16} and model.image_size == 64
    assert model.mot.rotary.frequencies.dtype == next(model.codec.parameters()).dtype == torch.float32
    wide = checkpoint.load_model(folder, expected=release.MODEL)
    wide.save(tmp_path, {}, half=True)  # it came from bf16, so nothing is lost
    own, saved = load_file(folder / "ema.safetensors"), load_file(tmp_path / "ema.safetensors")
    assert all(saved[name].dtype == torch.bfloat16 and torch.equal(saved[name], own[name]) for name in own)
    narrow = checkpoint.load_model(tmp_path)
    assert narrow.image_size == 48 and outputs(narrow)[1].dtype == torch.float32


def test_position_tables_are_computed_where_the_file_lacks_them(copied, monkeypatch):
    monkeypatch.setattr(bagel_files, "TABLE_SIDE", 4)
    given = outputs(bagel_backbone.load(copied, expected=release.MODEL))
    rewrite(copied / "ema.safetensors", lambda tensors: [tensors.pop(name) for name in TABLES])
    model = bagel_backbone.load(copied, expected=release.MODEL)
    assert torch.equal(model.mot.vit_pos_embed.pos_embed, sincos_table(4, 32).bfloat16().float())
    assert all(torch.equal(a, b) for a, b in zip(given, outputs(model), strict=True))


def test_a_network_in_several_files(copied, tmp_path):
    whole = outputs(bagel_backbone.load(copied, expected=release.MODEL))
    tensors = load_file(copied / "ema.safetensors")
    names = sorted(tensors)
    for i, part in enumerate((names[:50], names[50:])):
        save_file({name: tensors[name] for name in part}, copied / f"part{i}.safetensors")
    places = {name: f"part{int(i >= 50)}.safetensors" for i, name in enumerate(names)}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (copied / "ema.safetensors").unlink()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole, outputs(bagel_backbone.load(copied, expected=release.MODEL)), strict=True)
    )
    bagel_backbone.adopt(copied, tmp_path / "run", release.MODEL, {})
    adopted = load_file(tmp_path / "run" / "ema.safetensors")
    assert adopted.keys() == tensors.keys() and all(torch.equal(adopted[n], tensors[n]) for n in names)
    (copied / "part1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part1.safetensors: cannot be read"):
        bagel_backbone.load(copied)


def test_the_system_prompt_precedes_thinking_only(copied):
    (copied / "system_prompt.txt").write_text("Plan first.")
    model = checkpoint.load_model(copied, expected=release.MODEL)
    ids = model.prompt_ids(["a photo of a dog"])
    assert model.system_ids == model.prompt_ids(["Plan first."])[0]
    trace, thought = model.think(ids * 2, 3, None, 0.0)
    assert thought.rope[0] == len(model.system_ids) + len(ids[0]) + len(trace.tokens[0]) + 2
    assert model.read_prompts(ids).rope[0] == len(ids[0])
    mixed = model.trace_from_texts(["red", None])
    _, context = model.encode(ids * 2, mixed)
    assert context.rope.tolist() == [len(model.system_ids) + len(ids[0]) + 5, len(ids[0])]


def test_loading_holds_about_one_copy(tmp_path):
    """Peak of the process's own memory while 56 MB in bf16 become 112 MB in fp32."""
    folder = release.write(tmp_path / "release")
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in release.network(1024, 4).state_dict().items()}
    tensors = {name: torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, folder / "ema.safetensors")
    numbers = sum(t.numel() for t in tensors.values())
    del tensors
    (folder / "llm_config.json").write_text(json.dumps(release.LLM | {"hidden_size": 1024, "num_hidden_layers": 4}))

    def held() -> int:
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssAnon"))
        return 1024 * int(line.split()[1])

    start, peak, done = held(), [0], threading.Event()

    def watch():
        while not done.wait(0.001):
            peak[0] = max(peak[0], held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model = bagel_backbone.load(folder)
    finally:
        done.set()
        watcher.join()
    assert sum(p.numel() for p in model.mot.parameters()) == numbers > 28e6
    assert peak[0] - start < 1.25 * 4 * numbers


def test_another_scale_and_shift_are_read_used_and_kept(copied, tmp_path):
    """Decoded by hand: z = latent / scale + shift, whatever the two are; saved and adopted they stay."""
    usual = bagel_backbone.load(copied)
    (copied / "model.json").write_text(json.dumps({"codec": {"scale": 0.5, "shift": -0.25}}))
    model = bagel_backbone.load(copied)
    latents, image = torch.randn(1, 4, 4, 4, generator=seeding.generator(0, "z")), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        decoded = model.codec.kl.decode(latents / 0.5 - 0.25).sample
        assert torch.equal(model.codec.pixels(latents), decoded)
        assert not torch.allclose(usual.codec.pixels(latents), decoded, atol=1e-3)
        mean = model.codec.kl.encode(2 * image - 1).latent_dist.mean
        assert torch.equal(model.codec.encode(image), 0.5 * (mean + 0.25))
    model.save(tmp_path / "saved", {})
    bagel_backbone.adopt(copied, tmp_path / "adopted", release.MODEL, {})
    for name in ("saved", "adopted"):
        config = checkpoint.load_model(tmp_path / name).codec.config
        assert (config.scale, config.shift) == (0.5, -0.25)
    assert (usual.codec.config.scale, usual.codec.config.shift) == (0.3611, 0.1159)  # FLUX.1's


# ---------------------------------------------------------------------------------------------------- bad input
def change_json(name, **values):
    def change(folder):
        data = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return change


def change_tensor(name, value, file="ema.safetensors"):
    return lambda folder: rewrite(folder / file, lambda t: t.pop(name) if value is None else t.update({name: value}))


LLM, VIT, NETWORK = "llm_config.json", "vit_config.json", "ema.safetensors"
DAMAGE = {
    "no network": (lambda f: (f / "ema.safetensors").unlink(), r"ema\.safetensors: cannot be read"),
    "no autoencoder": (lambda f: (f / "ae.safetensors").unlink(), r"ae\.safetensors: cannot be read"),
    "no configuration": (lambda f: (f / "vit_config.json").unlink(), r"vit_config\.json: cannot be read"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer, expected tokenizer.json"),
    "cut": (lambda f: (f / "ema.safetensors").write_bytes((f / "ema.safetensors").read_bytes()[:-9]), "a complete"),
    "missing key": (change_json(LLM, num_hidden_layers=...), r"llm_config\.json: num_hidden_layers: missing"),
    "text for a number": (change_json(VIT, patch_size="14"), r"vit_config\.json: patch_size: expected"),
    "another activation": (change_json(LLM, hidden_act="gelu"), "hidden_act: expected 'silu', got 'gelu'"),
    "no norms of queries and keys": (change_json(LLM, qk_norm=False), r"llm_config\.json: qk_norm: expected True"),
    "tied heads": (change_json(LLM, tie_word_embeddings=True), r"json: tie_word_embeddings: expected False"),
    "scale": (change_json("model.json", codec={"scale": 0}), r"model\.json: codec\.scale: expected a number above 0"),
    "shift": (change_json("model.json", codec={"shift": "0"}), r"model\.json: codec\.shift: expected a number"),
    "heads": (change_json(LLM, num_attention_heads=3), "hidden_size: expected an even number a head"),
    "no layers": (change_json(LLM, num_hidden_layers=0), "num_hidden_layers: expected more than 0, got 0"),
    "width": (change_json(LLM, intermediate_size=64), r"expected shape \(.*64.*\) by llm_config"),
    "layers": (change_json(LLM, num_hidden_layers=3), r"tensor language_model\.model\.layers\.2\..*missing"),
    "fewer layers": (change_json(VIT, num_hidden_layers=2), r"layers\.1\..*\(and 15 more\) is unexpected"),
    "vocabulary": (change_json(LLM, vocab_size=200), "the tokenizer has 261 tokens, llm_config.json only 200"),
    "missing tensor": (change_tensor("llm2vae.bias", None), r"tensor llm2vae\.bias is missing"),
    "another model": (change_tensor("vae2llm.weight", None), r"vae2llm\.weight is missing; not a BAGEL network"),
    "unexpected tensor": (change_tensor("lora.weight", torch.ones(2)), r"tensor lora\.weight is unexpected"),
    "shape": (change_tensor("connector.fc2.bias", torch.ones(3)), r"fc2\.bias: expected shape \(32,\).*got \(3,\)"),
    "not square": (change_tensor(TABLES[0], torch.ones(15, 32)), "pos_embed: expected 1 times a square"),
    "quantised": (change_tensor("vae2llm.bias", torch.ones(32, dtype=torch.int8)), r"vae2llm\.bias: .*got I8: quant"),
    "not finite": (change_tensor("vae2llm.bias", torch.full((32,), torch.nan)), r"vae2llm\.bias: expected finite"),
    "autoencoder": (
        change_tensor("decoder.conv_out.bias", None, "ae.safetensors"),
        r"ae\.safetensors: tensor decoder\.conv_out\.bias is missing",
    ),
    "empty autoencoder": (
        lambda f: save_file({"x": torch.ones(1)}, f / "ae.safetensors"),
        r"ae\.safetensors: tensor 'encoder.down.0.block.0.conv1.weight' is missing",
    ),
    "image size": (lambda f: (f / "model.json").write_text('{"image_size": 50}'), "image_size: expected a multiple"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_wrong_is_named(copied, damage, message):
    (copied / "model.json").write_text('{"image_size": 48}')
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load_model(copied)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_is_refused(copied):
    for path in copied.glob("tokenizer*.json"):
        path.write_text(path.read_text().replace("<|vision_start|>", "<|picture|>"))
    with pytest.raises(UserError, match=r"no token <\|vision_start\|>"):
        bagel_backbone.load(copied)


def test_another_architecture_than_configured_is_refused(folder):
    with pytest.raises(UserError, match=r"hidden_size: expected 128, the configuration's model.hidden_size, got 32"):
        checkpoint.load_model(folder, expected=ModelConfig())


def test_a_place_without_a_release_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder, expected a BAGEL release \(llm_config.json"):
        bagel_backbone.load(tmp_path / "nowhere")

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"someone/else: .* cannot be fetched from the hub \(ConnectionError: no route"):
        bagel_backbone.load("someone/else")


# ---------------------------------------------------------------------------------------------------- the workflow
def config(folder, stage, **changes):
    origin = {"source": "released", "released": str(folder)} if stage == "base" else {}
    return tiny.run_config(stage, backbone="bagel", model=release.MODEL, **origin, **changes)


def test_the_base_of_a_scale_is_the_release(folder, tmp_path):
    out = tmp_path / "base"
    supervised_run.adopt(config(folder, "base"), out)
    assert provenance.weights_file(out) == out / "ema.safetensors" and (out / "ema.safetensors").is_symlink()
    assert json.loads((out / "run.json").read_text())["updates"] == 0
    model = checkpoint.load_model(out, expected=release.MODEL)
    assert model.image_size == 48
    told = describe.checkpoint(out)
    assert told["parameters"]["image"] == sum(p.numel() for p in model.mot.expert_parameters()["image"])
    before = (folder / "tokenizer.json").read_bytes()
    model.save(out, {})  # takes the place of the links, not of what they point to
    assert not (out / "tokenizer.json").is_symlink() and (folder / "tokenizer.json").read_bytes() == before
    with pytest.raises(UserError, match="expected another folder"):
        bagel_backbone.adopt(folder, folder, release.MODEL, {})


def test_the_base_needs_a_release():
    with pytest.raises(UserError, match=r"base\.source: expected released for backbone: bagel"):
        tiny.run_config("base", backbone="bagel")


@pytest.mark.slow
def test_supervised_and_reinforced_like_every_model(folder, tmp_path, monkeypatch):
    few = world_prompts.prompt_set("val")[:4]
    short = SupervisedConfig(steps=2, batch_size=4, warmup=1, validate_every=2, checkpoint_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            world_prompts,
            "prompt_set",
            lambda name, real=world_prompts.prompt_set: few if name == "val" else real(name),
        )
        supervised_run.train(config(folder, "sft", supervised=short), tmp_path / "sft", folder)
        rl = replace(tiny.RL, rollouts=2, prompts_per_rollout=2, group_size=2, micro_batch=4)
        cfg = config(folder, "rl", rl=rl)
        decoding = Decoding(True, 2.0, 0.7)

        def brightness(images, _):
            return images.mean((1, 2, 3))

        reinforcement_run.train(cfg, tmp_path / "rl", tmp_path / "sft", brightness, decoding)
    start, end = (checkpoint.load_model(tmp_path / name, expected=release.MODEL) for name in ("sft", "rl"))
    assert not torch.equal(start.mot.vae2llm.weight, end.mot.vae2llm.weight)
    assert torch.equal(start.mot.connector.fc1.weight, end.mot.connector.fc1.weight)
    assert json.loads((tmp_path / "rl" / "run.json").read_text())["updates"] == 4

    monkeypatch.setattr(Benchmark, "jobs", lambda *_: [(prompt, 0) for prompt in few[:2]])
    sets.sample_sets(end.eval(), cfg, tmp_path / "rl", {"think": decoding}, ["think"], tmp_path / "samples")
    protocols = [json.loads(path.read_text()) for path in (tmp_path / "samples").glob("*/protocol.json")]
    assert len(protocols) == 4 and {p["checkpoint"] for p in protocols} == {digest(tmp_path / "rl/ema.safetensors")}
