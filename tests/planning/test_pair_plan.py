"""The plan of a run of adapters: its formulas against what the two libraries' models hold and autograd keeps."""

from __future__ import annotations

from unigrpo.core.settings import replace

from tests._support import released_pair, tiny  # isort: skip  # before the libraries: it lets torchvision import

import pytest
import torch
from diffusers import SD3Transformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tests.planning.test_plan import configured, kept
from unigrpo.core.errors import UserError
from unigrpo.models import checkpoint
from unigrpo.models.backbones.llm_dit import adapters, pair_sizes
from unigrpo.models.backbones.llm_dit.pair_sizes import Painter, Pair, Reasoner
from unigrpo.models.mot_sizes import Batch
from unigrpo.planning import adapters_plan, plan
from unigrpo.training import supervised_run

KINDS = {"no": torch.float32, "bf16": torch.bfloat16}


def with_adapters(module, settings, kind):
    module.to(kind).requires_grad_(False).add_adapter(settings)
    for name, p in module.named_parameters():
        if "lora_" in name:
            p.data = p.data.float()
            p.requires_grad_(True)
    return module


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize(("heads", "layers", "dual", "rank"), [(2, 3, 0, 4), (4, 2, 1, 3)])
def test_activations_of_the_transformer(precision, heads, layers, dual, rank):
    kind = KINDS[precision]
    made = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=layers, attention_head_dim=32,
        num_attention_heads=heads, joint_attention_dim=24, caption_projection_dim=32 * heads,
        pooled_projection_dim=20, pos_embed_max_size=8, dual_attention_layers=tuple(range(dual)), qk_norm="rms_norm",
    )  # fmt: skip
    module = with_adapters(made, adapters.settings(rank)[1], kind)
    p = Painter(32 * heads, heads, layers, dual, 0, 0, 0)
    assert p.adapters(rank) == sum(q.numel() for q in module.parameters() if q.requires_grad)
    x, text, pooled = torch.randn(3, 4, 8, 8), torch.randn(3, 21, 24), torch.randn(3, 20)
    inputs = (x.to(kind), text.to(kind), pooled.to(kind), torch.full((3,), 500.0))
    measured = kept(module, lambda: module(*inputs, return_dict=False)[0].sum())
    planned = pair_sizes.image_activations(p, rank, precision, 3, 16, 21)
    assert planned == pytest.approx(measured, rel=0.05)  # modulations, which do not grow with the tokens, are left out


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize(("heads", "kv_heads", "layers", "rank"), [(4, 2, 3, 4), (6, 2, 2, 5)])
def test_activations_of_the_language_model(precision, heads, kv_heads, layers, rank):
    sizes = {"hidden_size": 16 * heads, "intermediate_size": 96, "num_hidden_layers": layers}
    config = Qwen2Config(vocab_size=50, num_attention_heads=heads, num_key_value_heads=kv_heads, **sizes)
    module = with_adapters(Qwen2ForCausalLM(config), adapters.settings(rank)[0], KINDS[precision])
    r = Reasoner(16 * heads, 96, layers, heads, 16 * heads, 16 * kv_heads, 50, 0)
    assert r.adapters(rank) == sum(q.numel() for q in module.parameters() if q.requires_grad)
    ids, mask = torch.zeros(2, 30, dtype=torch.long), torch.ones(2, 30, dtype=torch.long)
    mask[0, :3] = 0

    def work():
        told = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
        logits = module(input_ids=ids, logits_to_keep=11, **told).logits[:, :-1]
        logits.float().log_softmax(-1).sum()

    measured = kept(module, work)
    assert pair_sizes.text_activations(r, rank, precision, Batch(2, 1, 20, 10, 0, 0)) == pytest.approx(
        measured, rel=0.02
    )


def test_the_releases_that_are_known():
    """Rebuilt from their published configurations, without memory. The transformer's position table, 384 a side, is
    stored with it."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            pos_embed_max_size=2, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip
        clips = [
            CLIPTextModelWithProjection(
                CLIPTextConfig(
                    hidden_size=d, intermediate_size=4 * d, num_hidden_layers=n, num_attention_heads=h, projection_dim=d
                )
            )
            for d, n, h in ((768, 12, 12), (1280, 32, 20))
        ]
        t5 = T5EncoderModel(
            T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
        )
        llm = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
            )
        )  # fmt: skip

    def count(module):
        return sum(p.numel() for p in module.parameters())

    p, r = pair_sizes.KNOWN.values()
    assert p.transformer == count(transformer) + 384**2 * 1536
    assert p.encoders == sum(map(count, [*clips, t5])) and r.numbers == count(llm)


def test_sizes_of_folders(tmp_path):
    """Read off the files; numbers are those of the loaded model."""
    released_pair.write(tmp_path)
    cfg = tiny.run_config(
        "base", backbone="llm_dit", source="released", released=str(tmp_path / "pipeline"), model=released_pair.MODEL,
        language_model=str(tmp_path / "language_model"), rl=replace(tiny.RL, lora_rank=2),
    )  # fmt: skip
    supervised_run.adopt(cfg, tmp_path / "base")
    model = checkpoint.load_model(tmp_path / "base")
    p, r = pair_sizes.painter(cfg.released), pair_sizes.reasoner(cfg.language_model)
    assert (p.width, p.heads, p.layers, p.dual) == (16, 2, 2, 1) and (r.queries, r.kv, r.layers) == (16, 8, 2)
    held = {part: sum(q.numel() for q in parameters) for part, parameters in model.expert_parameters().items()}
    assert {"text": r.adapters(2), "image": p.adapters(2)} == held

    def released(module):
        return sum(q.numel() for name, q in module.named_parameters() if "lora_" not in name)

    table = model.transformer.pos_embed.pos_embed.numel()  # stored, though no parameter
    assert p.transformer == released(model.transformer) + table
    assert p.encoders == released(model.encoders) and p.autoencoder == released(model.vae)
    assert r.numbers == released(model.llm)
    (tmp_path / "language_model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="language_model: no weights, expected .safetensors files"):
        pair_sizes.reasoner(cfg.language_model)
    with pytest.raises(UserError, match=r"some/other: its sizes are not known, expected Qwen/Qwen2\.5-1\.5B-Instruct"):
        pair_sizes.reasoner("some/other")


def test_the_plan_of_the_scale(root):
    """It fits one 80-GB device with room for a reward; what does not fit is given settings that do."""

    def run(**options):
        lines, fits = plan.plan("sd35", **options)
        return fits, "\n".join(lines)

    fits, out = run()
    assert fits and "fits          yes" in out and "stabilityai/stable-diffusion-3.5-medium" in out
    fits, out = run(gpu_memory=40)
    assert not fits and "it would with rl.micro_batch: 1" in out
    assert "it would not with any batch" in run(gpu_memory=10)[1]
    cfg, pair = configured(root, "sd35", "unigrpo"), Pair(*pair_sizes.KNOWN.values())
    parts = [replace(cfg, rl=replace(cfg.rl, train=train)) for train in (("image",), ("text",), ("text", "image"))]
    images, texts, both = (adapters_plan.memory(each, pair)["update"]["activations"] for each in parts)
    assert images + texts == both
