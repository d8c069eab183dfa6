"""A BAGEL release in miniature: the files of the published one, random weights, images of 48 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.backbones.bagel.vae import Autoencoder, VaeConfig
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.mot import MoTConfig
from unigrpo.models.mot_model import FRAME
from unigrpo.study.config import ModelConfig

MODEL = ModelConfig(
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=2,
    kv_heads=1,
    image_size=48,
    latent_channels=4,
    latent_downsample=8,
    latent_patch=2,
    max_latent_size=4,
)
VOCABULARY = 272  # a little more than the tokenizer has, as in the published one
LLM = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "bos_token_id": 7,
    "eos_token_id": 8,
    "tie_word_embeddings": False,
    "architectures": ["Qwen2ForCausalLM"],
}
VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,  # the last one is not part of the network
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def tokenizer() -> Qwen2Tokenizer:
    """Bytes, and the special tokens."""
    letters = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    made = Qwen2Tokenizer(vocab=letters, merges=[])
    made.add_special_tokens({"additional_special_tokens": list(FRAME.values())})
    return made


def network(hidden_size: int = 32, layers: int = 2) -> MultimodalMoT:
    ids = dict(bos_id=257, eos_id=258, start_of_image_id=259, end_of_image_id=260)
    config = MoTConfig(VOCABULARY, hidden_size, 48, layers, 2, 1, 4, 2, 4, **ids)
    return MultimodalMoT(config, VitConfig(16, 24, 2, 2, 14, 4))


def autoencoder() -> Autoencoder:
    return Autoencoder(VaeConfig((32, 32, 32, 32), 1, 4), 2)


def write(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The release, with random weights that are the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        tensors, codec = network().state_dict(), autoencoder().official()
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, folder / "ema.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in codec.items()}, folder / "ae.safetensors")
    (folder / "llm_config.json").write_text(json.dumps(LLM))
    (folder / "vit_config.json").write_text(json.dumps(VIT))
    tokenizer().save_pretrained(folder)
    return folder
