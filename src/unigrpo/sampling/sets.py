"""All evaluation sets of one run, made by all processes and written by the main one.

A set is benchmark x mode x guidance: an entry of the catalogue, with thinking (``think``) or without (``direct``), at
guidance 1 (``unguided``) or as chosen on validation prompts for the mode (``tuned``).
Each set's protocol.json says everything that a number made from it depends on. A run that was not trained has no sets;
a ceiling (``unigrpo.sampling.ceilings``) has those of the run that it bounds.
"""

import shutil
from pathlib import Path

from unigrpo.core import distributed
from unigrpo.core.files import digest, write_json
from unigrpo.core.settings import replace, require
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling import ceilings, sample_folder
from unigrpo.sampling.engine import Decoding, sample_guided
from unigrpo.study import provenance, resolve, standing
from unigrpo.study.benchmark_entry import Benchmark, of_group
from unigrpo.study.config import RunConfig
from unigrpo.world.prompts import prompt_hash

SEED = 2  # of evaluation noise of replicate 0; k more of replicate k: all runs alike, so that differences are paired
MODES = ("think", "direct")


def decodings(tuned: Decoding) -> dict[str, Decoding]:
    """Guidance name -> decoding, of a mode whose choice is ``tuned``; they differ in guidance alone."""
    return {"unguided": replace(tuned, guidance=1.0), "tuned": tuned}


def protocol(cfg: RunConfig, benchmark: Benchmark, name: str, decoding: Decoding, weights: str, record: dict) -> dict:
    """Everything that the numbers of a set depend on."""
    s, prompts = cfg.sampling, benchmark.pool()
    return {
        "version": benchmark.version,
        "prompt_hash": prompt_hash(prompts),
        "prompts": len(prompts),
        "mode": "think" if decoding.thinking else "direct",
        "guidance_name": name,
        "guidance": decoding.guidance,
        **{name: getattr(s, name) for name in ("renorm", "steps", "grid", "shift")},
        "temperature": decoding.temperature,
        "resolution": cfg.model.image_size,
        "images_per_prompt": benchmark.images or s.images_per_prompt,
        "seed": SEED + cfg.seed,
        "ema": record["ema"],
        "checkpoint": weights,
        "ceiling": cfg.ceiling,
    }


def sample_sets(
    model: UnifiedModel,
    cfg: RunConfig,
    run: Path,
    chosen: dict[str, Decoding],
    modes: list[str],
    out: Path,
    group: str | None = None,
) -> None:
    """Write every set of the run in the folder ``run``, evaluated in ``modes``, below ``out``; done.json lists them.
    ``chosen`` has each mode's decoding; the benchmarks are those of ``group``."""
    weights = digest(provenance.weights_file(run))
    record = provenance.read_record(run)
    require("ema" in record, f"{run / 'run.json'}: ema", "whether the weights are an average")
    written, seed = [], SEED + cfg.seed
    for old in out.glob("*/manifest.jsonl") if distributed.is_main() else ():
        shutil.rmtree(old.parent)
    for mode in [] if record.get("not_trained") else modes:
        for benchmark, entry in of_group(resolve.benchmarks(), group).items():
            jobs = entry.jobs(cfg.sampling.images_per_prompt)
            named, progress = decodings(chosen[mode]), f"{cfg.run}/{cfg.seed} {benchmark} {mode}"
            if cfg.ceiling == "painter":
                texts = [run / out.name / f"{benchmark}.{mode}.{name}" for name in named]
                samples = [ceilings.painted(folder, jobs, cfg.model.image_size, seed) for folder in texts]
                samples = samples if distributed.is_main() else None
            else:
                given = ceilings.perfect_traces(jobs, seed) if cfg.ceiling else None
                samples = sample_guided(model, jobs, cfg.sampling, [*named.values()], seed, progress, given)
            for (name, decoding), made in zip(named.items(), samples or (), strict=samples is not None):
                described = {"benchmark": benchmark} | protocol(cfg, entry, name, decoding, weights, record)
                described["model_evaluations"] = made.model_evaluations
                folder = f"{benchmark}.{described['mode']}.{name}"
                sample_folder.write(out / folder, jobs, made, described)
                written.append(folder)
    if distributed.is_main():
        digests = {folder: standing.content(out / folder) for folder in written}
        write_json(out / "done.json", {"sets": written, "digests": digests})
        if cfg.ceiling and group is None:
            facts = {"ema": record["ema"], "collapsed": False}
            write_json(out.parent / "run.json", provenance.record(cfg, device="none", wall_seconds=0.0, **facts))
