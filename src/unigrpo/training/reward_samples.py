"""SFT samples for the learned reward.

Samples of training prompts are to be trained on; those of validation prompts measure the reward. As in training,
without guidance and at temperature 1, half with thinking and half without.
"""

from pathlib import Path

import numpy as np

from unigrpo.core import seeding
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Decoding, Samples, sample
from unigrpo.sampling.validation_set import validation_jobs
from unigrpo.study.config import RunConfig
from unigrpo.training.examples import training_prompts
from unigrpo.world.prompts import VERSION

HELD_OUT_PER_PROMPT = 16


def sample_for_reward(model: UnifiedModel, cfg: RunConfig, out: Path) -> None:
    """Write, in the main process, samples of the SFT ``model`` configured by ``cfg`` into the sample folder ``out``."""
    rng = seeding.numpy_generator(cfg.seed, "reward", "prompts")
    jobs = []
    for number in range(cfg.reward.samples):
        category = training_prompts()[rng.integers(len(training_prompts()))]
        jobs.append((category[rng.integers(len(category))], number))
    jobs += validation_jobs(HELD_OUT_PER_PROMPT)
    halves = jobs[::2], jobs[1::2]
    parts = [
        sample(model, half, cfg.sampling, Decoding(number == 1, 1.0, 1.0), cfg.seed, f"reward data {number}/2")
        for number, half in enumerate(halves, 1)
    ]
    if None in parts:
        return
    images, traces = np.concatenate([p.images for p in parts]), [t for p in parts for t in p.traces]
    together = Samples(images, traces, sum(p.model_evaluations for p in parts))
    protocol = {"benchmark": "training", "version": VERSION, "mode": "mixed", "guidance_name": "unguided"}
    protocol |= {"seed": cfg.seed, "guidance": 1.0, "temperature": 1.0, "model_evaluations": together.model_evaluations}
    sample_folder.write(out, halves[0] + halves[1], together, protocol)
