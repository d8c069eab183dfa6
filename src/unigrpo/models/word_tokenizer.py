"""Word-level tokenizer of the synthetic world, as a saved fast tokenizer of transformers."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|im_start|>", "<|im_end|>"  # frame every text piece, as in BAGEL
START_OF_IMAGE, END_OF_IMAGE = "<|vision_start|>", "<|vision_end|>"
UNKNOWN = "<unk>"


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One id per word; words are separated by white space."""
    special = [BOS, EOS, START_OF_IMAGE, END_OF_IMAGE, UNKNOWN]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS, unk_token=UNKNOWN
    )
