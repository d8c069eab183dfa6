"""The adapters of ``LlmDit`` in the layouts of the two libraries, which then need nothing of ours.

``language_model/`` is what ``peft.PeftModel.from_pretrained`` reads, ``pytorch_lora_weights.safetensors`` what the
``load_lora_weights`` of a diffusers pipeline does.
"""

from pathlib import Path

from unigrpo.models.lora import lora_config
from unigrpo.models.torchvision_compat import ensure_torchvision

ensure_torchvision()  # the libraries below import it

from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig

from unigrpo.core.files import accessing, read_json
from unigrpo.core.tensor_files import read_tensors, write_tensors

ATTENTION = [  # the transformer's linear maps with adapters: those of the attention, of text and image
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
]


def settings(rank: int) -> tuple[LoraConfig, LoraConfig]:
    """Those of the language model, which has adapters in all linear maps but the last, and of the transformer."""
    text = lora_config(rank, task_type="CAUSAL_LM", target_modules="all-linear")
    return text, lora_config(rank, target_modules=ATTENTION)


def convert(folder: Path, out: Path) -> None:
    """Write the adapters of a run's ``folder`` into ``out``. Raises UserError."""
    card = read_json(folder / "model.json", "lora_rank", "language_model")
    parts: dict[str, dict] = {"llm": {}, "transformer": {}}
    for name, tensor in read_tensors(folder / "model.safetensors").items():
        room, _, rest = name.partition(".")
        parts[room][rest.replace(".default.", ".")] = tensor
    text, image = settings(card["lora_rank"])
    text.base_model_name_or_path = card["language_model"]
    with accessing(out, "written"):
        text.save_pretrained(out / "language_model")
    named = {f"base_model.model.{name}": tensor for name, tensor in parts["llm"].items()}
    write_tensors(out / "language_model" / "adapter_model.safetensors", named, {"format": "pt"})
    with accessing(out, "written"):
        StableDiffusion3Pipeline.save_lora_weights(
            out, transformer_lora_layers=parts["transformer"], transformer_lora_adapter_metadata=image.to_dict()
        )
