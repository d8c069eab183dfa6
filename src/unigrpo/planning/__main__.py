"""The command ``python -m unigrpo.planning``: which kind of run it is, and its plan."""

from __future__ import annotations

from pathlib import Path

from unigrpo.core import cli
from unigrpo.core.errors import UserError
from unigrpo.planning import pair_plan, reinforcement_plan, supervised_plan
from unigrpo.planning.layout import TFLOPS, Device
from unigrpo.study.overview import load_study
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import resolve


def main() -> None:
    parser = cli.parser("unigrpo.planning", "Tell what a run needs and whether it fits, before anything is loaded.")
    parser.add_argument("--scale", required=True, help="a file of pipelines/scales")
    parser.add_argument("--run", default="unigrpo", help="a run of pipelines/experiments.yaml")
    parser.add_argument("--gpus", type=int, help="devices, one process each (default: the scale's processes)")
    parser.add_argument("--gpu-memory", type=float, default=80, help="GB of one of them")
    parser.add_argument(
        "--tflops", type=float, help="10^12 operations a second that one reaches (default: 40 in fp32, 300 in bf16)"
    )
    parser.add_argument("--bandwidth", type=float, default=3, help="TB a second at which one reads its memory")
    args = parser.parse_args()
    for name in ("gpus", "gpu_memory", "tflops", "bandwidth"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < float("inf"):
            parser.error(f"--{name.replace('_', '-')}: expected a number above 0, got {getattr(args, name)}")
    pipelines = Path(ROOT) / "pipelines"
    study = load_study(pipelines / "experiments.yaml", pipelines / "scales", {"scale": args.scale, "run": args.run})
    cfg = resolve(study.catalogue, study.scale, study.scale_name, args.run, 0)
    if cfg.source == "released":
        raise UserError(f"--run {args.run}: expected a run that is trained, this one is released")
    gpus = cfg.launched if args.gpus is None else args.gpus
    device = Device(args.gpu_memory, args.tflops or TFLOPS[cfg.precision], args.bandwidth)
    if cfg.backbone == "llm_dit" and cfg.stage == "rl":
        base = resolve(study.catalogue, study.scale, study.scale_name, "base", 0)
        lines, fits = pair_plan.report(cfg, base, gpus, device)
    elif cfg.backbone == "llm_dit":
        raise UserError(f"--run {args.run}: expected a run that is reinforced for backbone: llm_dit")
    else:
        kind = reinforcement_plan if cfg.stage == "rl" else supervised_plan
        lines, fits = kind.report(cfg, gpus, device)
    print("\n".join(lines))
    if not fits:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.run(main)
