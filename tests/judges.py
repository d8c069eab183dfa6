"""Checkpoints of judges for tests: the libraries' own classes at tiny sizes, random weights, saved as published."""

from __future__ import annotations

from pathlib import Path

import torch

from unigrpo import compat

compat.ensure_torchvision()

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ;"
)
SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = ["yes", "Yes", "no", "No", "two", "2", "three", "3", "ten", "1", "0"]
WORDS += ["is", "there", "a", "red", "circle", "in", "the", "image", "?", "how", "many", ";"]


def save_vlm(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-VL of a few thousand parameters whose tokens are words and whose answers depend on image and question."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    names = ["<unk>", "<pad>", *SPECIAL, *dict.fromkeys(WORDS)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=SPECIAL
    )
    start, end, image, video = (names.index(name) for name in SPECIAL)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(names),
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    parts = Qwen2VLImageProcessor(size=size), fast, Qwen2VLVideoProcessor()
    Qwen2VLProcessor(*parts, chat_template=CHAT).save_pretrained(folder)
    return folder
