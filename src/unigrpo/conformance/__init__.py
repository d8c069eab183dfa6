"""Conformance: our maths and our backbone against stored vectors, numbers recorded from running other codes.

    python -m unigrpo.conformance DIR [--json]

DIR holds vector files, recognised by name (``sde_steps.json`` + ``.safetensors`` and so on; prefixes and
suffixes are allowed, as in ``b_sde_steps.json``). A *feature* is a file family plus one convention in it,
e.g. ``sde_steps/sde``. One line per feature tells how many cases passed and how far the worst number lies
off; features found in the files but not in IMPLEMENTED are listed as not implemented yet. Exit code 0: every
implemented feature found passes; 1: one fails; 2: DIR has no usable vector files. One module per family turns
a file into cases.
"""

IMPLEMENTED = (
    "sde_steps/sde",
    "sde_steps/sde-no-normalizer",
    "sde_steps/sde-mixed-time",
    "sde_steps/cps",
    "sde_steps/cps-no-normalizer",
    "sde_steps/cps-mixed-time",
    "sde_steps/dance",
    "sde_steps/dance-no-normalizer",
    "ratio_norm/plain",
    "ratio_norm/identity",
    "ratio_norm/latent_kl",
    "ratio_norm/velocity_mse",
    "text_grpo/grpo-token",
    "text_grpo/grpo-token+kl",
    "text_grpo/grpo-sequence",
    "text_grpo/grpo-sequence+kl",
    "text_grpo/bnpo-token",
    "text_grpo/bnpo-token+kl",
    "text_grpo/bnpo-sequence",
    "text_grpo/bnpo-sequence+kl",
    "text_grpo/dr_grpo-token",
    "text_grpo/dr_grpo-token+kl",
    "text_grpo/dr_grpo-sequence",
    "text_grpo/dr_grpo-sequence+kl",
    "text_grpo/dapo-token",
    "text_grpo/dapo-token+kl",
    "text_grpo/dapo-sequence",
    "text_grpo/dapo-sequence+kl",
    "text_grpo/grpo-token+kl+bias-corrected",
    "text_grpo/grpo-token+delta",
    "text_grpo/grpo-token+entropy-bonus",
    "text_grpo/dapo-token+entropy-bonus",
    "text_grpo/bnpo-token+entropy-quantile",
    "text_grpo/cispo-token",
    "text_grpo/sapo-token",
    "extra_algos/advantages",
    "extra_algos/schedules",
    "extra_algos/ema",
    "extra_algos/mixgrpo",
    "extra_algos/fpo",
    "extra_algos/awm",
    "extra_algos/nft",
    "extra_algos/nft_decay",
    "geneval_cases/official",
    "geneval_cases/strict",
    "geneval_filter_cases",
    "bagel_tiny/A",
    "bagel_tiny/B",
    "bagel_tiny/C",
    "bagel_tiny/D-unguided",
    "bagel_tiny/D-text-guided",
    "bagel_tiny/E",
)
