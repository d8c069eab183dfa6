"""Choose guidance and text temperature once, on the SFT model and validation prompts: ``python -m unigrpo.tune``.

Every row of every table is then evaluated with this choice (and, beside it, at guidance 1), so that no method gains by
turning a knob that the others did not have. Guidance is chosen first, at the first temperature of the grid; then the
temperature, at that guidance; each by the gold score with thinking.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unigrpo import checkpoint, config
from unigrpo.cli import run
from unigrpo.files import write_json
from unigrpo.sampler import Decoding
from unigrpo.setup import accelerate_for
from unigrpo.validate import validate

PER_PROMPT = 4  # images per validation prompt and setting


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="unigrpo.tune", description="Choose guidance and temperature on validation prompts."
    )
    parser.add_argument("--config", type=Path, required=True, help="resolved configuration of the SFT run (JSON)")
    parser.add_argument("--run", type=Path, required=True, help="folder of the SFT run")
    parser.add_argument("--out", type=Path, required=True, help="decoding.json to write")
    args = parser.parse_args()
    cfg = config.load(args.config)
    model = checkpoint.load_model(args.run, accelerate_for(cfg).device, cfg.model).eval()
    s = cfg.sampling
    tried: dict[tuple[float, float], dict] = {}

    def gold(guidance: float, temperature: float) -> float:
        key = (guidance, temperature)
        if key not in tried:
            tried[key] = validate(model, cfg, Decoding(True, guidance, temperature), per_prompt=PER_PROMPT)
            print(f"guidance {guidance:g} temperature {temperature:g}: " + _line(tried[key]), flush=True)
        return tried[key]["gold"]

    guidance = max(s.guidance_grid, key=lambda g: gold(g, s.temperature_grid[0]))
    temperature = max(s.temperature_grid, key=lambda t: gold(guidance, t))
    direct = {g: validate(model, cfg, Decoding(False, g, 1.0), per_prompt=PER_PROMPT) for g in sorted({1.0, guidance})}
    for g, scores in direct.items():
        print(f"no thinking, guidance {g:g}: " + _line(scores), flush=True)
    grid = [{"thinking": True, "guidance": g, "temperature": t, **scores} for (g, t), scores in tried.items()]
    grid += [{"thinking": False, "guidance": g, **scores} for g, scores in direct.items()]
    chosen_on = f"{cfg.run}, validation prompts, {PER_PROMPT} images each, by gold with thinking"
    write_json(args.out, {"guidance": guidance, "temperature": temperature, "chosen_on": chosen_on, "grid": grid})


def _line(scores: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items())


if __name__ == "__main__":
    run(main)
