"""BAGEL, as released."""

from unigrpo.study.facts import BackboneFacts

FACTS = BackboneFacts(released=True, weights="ema.safetensors", tokenizer="tokenizer.json", prompt_tokens=200)
