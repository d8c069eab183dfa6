"""``LlmDit`` without numbers and weights, for plans: two releases, from the configuration files of their folders, or
as they are known here for two ids of the hub."""

from pathlib import Path

from unigrpo.models.backbones.llm_dit.pair_files import KINDS, PARTS, INSTRUCTION, assembled  # isort: skip

from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import AutoConfig, AutoModelForCausalLM, CLIPTextConfig, Qwen2Config, T5Config

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_text
from unigrpo.core.tensor_files import shapes_only
from unigrpo.models.backbones.llm_dit.pair import LlmDit
from unigrpo.models.counting import Counting
from unigrpo.study.config import RunConfig

QWEN = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
CLIP_L = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
CLIP_G = {"num_hidden_layers": 32, "num_attention_heads": 20, "hidden_size": 1280, "intermediate_size": 5120}
T5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64, "vocab_size": 32_128}
KNOWN: dict[str, dict] = {
    "Qwen/Qwen2.5-1.5B-Instruct": QWEN,
    "stabilityai/stable-diffusion-3.5-medium": {
        "transformer": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        "vae": {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "text_encoder": CLIP_L | {"projection_dim": 768},
        "text_encoder_2": CLIP_G | {"projection_dim": 1280, "hidden_act": "gelu"},
        "text_encoder_3": T5 | {"feed_forward_proj": "gated-gelu"},
    },
}
CONFIGS = {"text_encoder": CLIPTextConfig, "text_encoder_2": CLIPTextConfig, "text_encoder_3": T5Config}


def skeleton(cfg: RunConfig, base: RunConfig) -> LlmDit:
    """The model of a run on the releases that ``base`` names. Raises UserError for one that is neither a folder nor
    known here."""
    words, kind = Counting(), KINDS[cfg.precision]
    config, cards = _language_model(base.language_model), _pipeline(base.released)
    with shapes_only():
        llm = AutoModelForCausalLM.from_config(config).to(kind)
        parts = dict.fromkeys(PARTS)
        for name, card in cards.items():
            cls, _ = PARTS[name]
            module = cls(CONFIGS[name](**card)) if name in CONFIGS else cls.from_config(card)
            parts[name] = module if name == "vae" else module.to(kind)
        tokenizers = dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3"), words)
        painter = StableDiffusion3Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **tokenizers, **parts)
        instruction = read_text(Path(__file__).with_name(INSTRUCTION))
        return assembled(llm, words, painter, cfg.rl.lora_rank, cfg.model.image_size, instruction, cfg.rl)


def _language_model(source: str):
    if Path(source).is_dir():
        return AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    return Qwen2Config(**_known(source, "hidden_size"))


def _pipeline(source: str) -> dict[str, dict]:
    if not Path(source).is_dir():
        return _known(source, "transformer")
    places = {name: Path(source) / name / "config.json" for name in PARTS}
    return {name: read_json(place) for name, place in places.items() if place.exists()}


def _known(source: str, key: str) -> dict:
    name = source.partition("@")[0]
    if key not in KNOWN.get(name, {}):
        names = ", ".join(name for name, sizes in KNOWN.items() if key in sizes)
        raise UserError(f"{source}: its sizes are not known, expected {names}, or the folder of a release")
    return KNOWN[name]
