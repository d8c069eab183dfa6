"""A tokenizer without files, for plans: it only counts."""

from types import SimpleNamespace
from zlib import crc32

import torch


class Counting:
    """Four tokens for three words, as of English; equal words are equal tokens, and no token ends a text."""

    unk_token_id = pad_token_id = chat_template = None
    eos_token_id, model_max_length = 1, 77

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids = [crc32(word.encode()) % 1000 + 2 for word in text.split()]
        return [*ids, *ids[: -(-len(ids) // 3)]]

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        return " ".join(["word"] * (len(ids) * 3 // 4))

    def __call__(self, text: str | list[str], padding: str = "", max_length: int = 1, **_) -> SimpleNamespace:
        """ids of a text; or of several (B, max_length), padded or cut."""
        if isinstance(text, str):
            return SimpleNamespace(input_ids=self.encode(text))
        rows = [(self.encode(row) + [self.eos_token_id] * max_length)[:max_length] for row in text]
        return SimpleNamespace(input_ids=torch.tensor(rows))
