"""The two releases behind ``llm_dit`` in miniature: a language model and a Stable Diffusion 3 pipeline, as their
libraries save them. Random weights, images of 32 pixels."""

from __future__ import annotations

from pathlib import Path

import unigrpo.models.backbones.llm_dit.pair  # noqa: F401  # isort: skip  # lets torchvision load for the libraries below

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests._support import release
from unigrpo.models.mot_model import build_tokenizer
from unigrpo.study.config import ModelConfig
from unigrpo.world.prompts import vocabulary

MODEL = ModelConfig(image_size=32, latent_channels=4, latent_downsample=4, latent_patch=2, max_latent_size=8)
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "initializer_range": 0.4,
}


def write_language_model(folder: Path, kind: str = "qwen2") -> Path:
    """``qwen2``: bytes, with a chat template, and settings of generation as releases have them; ``llama``: the world's
    words, without."""
    if kind == "qwen2":
        tokenizer = release.tokenizer()
        tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHAT
        config = Qwen2Config(vocab_size=len(tokenizer) + 3, **SIZES)
        cls = Qwen2ForCausalLM
    else:
        tokenizer = build_tokenizer(vocabulary())
        config, cls = LlamaConfig(vocab_size=len(tokenizer), **SIZES), LlamaForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = cls(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    if kind == "qwen2":
        model.generation_config.update(do_sample=True, repetition_penalty=1.9, top_p=0.1, top_k=3, temperature=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def clip(width: int) -> CLIPTextModelWithProjection:
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 514, "hidden_act": "gelu"}
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=16, projection_dim=width, initializer_range=0.5, **sizes, **ends
        )
    )


def clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    letters = [("▁", -2.0), *((chr(c), -3.0) for c in range(33, 127))]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)


def pipeline(t5: bool = True) -> StableDiffusion3Pipeline:
    """Random weights that are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        for p in transformer.parameters():
            if p.dim() > 1:  # velocities that depend on text and time
                torch.nn.init.normal_(p, 0, p.shape[1:].numel() ** -0.5)
        levels = 3
        vae = AutoencoderKL(
            block_out_channels=(8,) * levels,
            latent_channels=4,
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        )
        encoders = clip(8), clip(12)
        config = T5Config(vocab_size=128, d_model=24, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        third = T5EncoderModel(config) if t5 else None
    return StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae,
        encoders[0],
        clip_tokenizer(),
        encoders[1],
        clip_tokenizer(),
        third,
        t5_tokenizer() if t5 else None,
    )


def write(folder: Path, kind: str = "qwen2", t5: bool = True) -> Path:
    """``language_model`` and ``pipeline`` in ``folder``."""
    write_language_model(folder / "language_model", kind)
    pipeline(t5).save_pretrained(folder / "pipeline")
    return folder
