"""Sentences that several tables need, and what a scale is. Loads nothing: the workflow's captions say the same."""

MISSING = "not available"
WORLD = (
    "This scale is a controlled synthetic world (small images of coloured shapes) that tests the paper's "
    "claims. It is not a rerun of BAGEL-7B: directions compare with the paper's columns, levels do not."
)
SMOKE = "It only shows that every step runs: its models are hardly trained, and its numbers mean nothing."
METRICS = (
    "GenEval is the official verdict (at least what was asked; extra objects are free). Strict wants "
    "exactly what was asked. Gold is the mean of strict and of the share of facts less a penalty for extras. "
    "All three are means of the category means. TA is the mean over images of the share of satisfied facts."
)
INTERVALS = (
    "Brackets are 95 % intervals: bootstrap over seeds and, within categories, over prompts. With one seed "
    "the interval covers prompts only. The number of images counts all seeds."
)
IN_DISTRIBUTION = "Single-object prompts are in-distribution: the same prompts occur in training."
COSTS = (
    "Images, model evaluations and wall seconds are those of training: images and seconds medians over seeds, model "
    "evaluations the mean, counted in rollouts."
)
VALIDATED = (
    "Gold, the judge that training never sees, the reward that a run is trained on (proxy) and artefacts, the share of "
    "an image that fits neither object nor background, are measured on validation prompts at the tuned guidance, "
    "categories weighing equally; last is the last validation that all seeds reached. Brackets are 95 % intervals: "
    "bootstrap over seeds and, within categories, over prompts. With one seed the interval covers prompts only."
)


def scale_note(name: str, world: bool) -> str:
    """What a scale is: its name, whether it is the synthetic ``world``, and what its numbers are worth."""
    return " ".join([f"Scale `{name}`.", *[WORLD] * world, *[SMOKE] * (name == "smoke")])
