"""Checkpoints of judges for tests: the libraries' own classes at tiny sizes, random weights, saved as published."""

from __future__ import annotations

from pathlib import Path

import torch

from unigrpo.models import torchvision_compat

torchvision_compat.ensure_torchvision()

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ;"
)
SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = ["yes", "Yes", "no", "No", "two", "2", "three", "3", "ten", "1", "0"]
WORDS += ["is", "there", "a", "red", "circle", "in", "the", "image", "?", "how", "many", ";"]


def save_vlm(folder: Path, seed: int = 0, kind: str = "qwen2_vl", begins: str = "") -> Path:
    """A Qwen2-VL or Qwen3-VL of a few thousand parameters whose tokens are words and whose answers depend on image and
    question. With ``begins``, the first token of a text, both its tokenizer and its chat template write it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<unk>", "<pad>", *SPECIAL, *dict.fromkeys(WORDS), *([begins] if begins else [])]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        pair = [(begins, names.index(begins))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{begins} $A", special_tokens=pair)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL,
        **({"bos_token": begins} if begins else {}),
    )
    start, end, image, video = (names.index(name) for name in SPECIAL)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {
        "vocab_size": len(names),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": rope,
    }
    vision = {"num_heads": 2, "patch_size": 14}
    if kind == "qwen2_vl":
        name, vision = "Qwen2VL", vision | {"depth": 1, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        sizes = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32}
        name, vision = "Qwen3VL", vision | sizes | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 16, "rope_parameters": rope | {"mrope_interleaved": True}}
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    pictures = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    films = getattr(transformers, f"{name}VideoProcessor")()
    processor = getattr(transformers, f"{name}Processor")(pictures, fast, films, chat_template=begins + CHAT)
    processor.save_pretrained(folder)
    return folder


def save_mask2former(folder: Path, seed: int = 0) -> Path:
    """A Mask2Former with a small Swin backbone and COCO's 80 classes, some under the names that releases give them."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    from evals.instruments.eyes import SYNONYMS
    from unigrpo.world.geneval_verdict import CLASSES

    published = {ours: theirs for theirs, ours in SYNONYMS.items()}
    labels = {i: published.get(name, name) for i, name in enumerate(CLASSES)}
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=16,
        num_attention_heads=2,
        num_queries=12,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(config)
        torch.nn.init.normal_(model.class_predictor.weight, std=1.5)
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 384, "width": 384}).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path, seed: int = 0) -> Path:
    """An OWLv2 that sees 4x4 patches, with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import (
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
        PreTrainedTokenizerFast,
    )

    names = ["<pad>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", model_max_length=40
    )
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=width
        | {"vocab_size": len(names), "max_position_embeddings": 40, "bos_token_id": None, "eos_token_id": None},
        vision_config=width | {"image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Owlv2ForObjectDetection(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), fast).save_pretrained(folder)
    return folder


def save_clip(folder: Path, seed: int = 0) -> Path:
    """An open_clip model of a few thousand parameters with CLIP's own tokenizer, in the layout of the hub."""
    import json

    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        torch.nn.init.normal_(net.token_embedding.weight, std=1.0)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
