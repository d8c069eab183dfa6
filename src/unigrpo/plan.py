"""What a run needs, before anything is loaded: ``python -m unigrpo.plan --scale paper --gpus 8 --gpu-memory 80``.

Parameters, memory by kind and phase, model evaluations, FLOPs and hours, from the formulas of ``sizes`` and the counts
of ``cost``, for the layout that the scale asks for: processes, sharding, precision, adapters, activation checkpointing,
and how much is rolled out and trained on at once. Where that does not fit, the exit code is 1, and settings are changed
one after the other until it does. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unigrpo import cli, cost, pair_plan, sizes
from unigrpo.config import RunConfig, check_processes
from unigrpo.provenance import ROOT
from unigrpo.resolve import load_study, resolve
from unigrpo.types import UserError

GUIDANCE = 2.0  # of validation: any scale above 1 doubles its evaluations
RESERVED = 0.08  # share of a device that the runtime and fragmentation take
TFLOPS = {"no": 40, "bf16": 300}  # assumed of a device: about a third of what the makers state
REWARD_PARAMETERS = 200_000_000  # a two-tower reward of the usual size
KINDS = ("weights", "gathered", "reference", "gradients", "optimiser", "activations", "KV cache", "latents", "reward")


@dataclass(frozen=True)
class Setup:
    """How a run is laid out. Each of the ``gpus`` has its share of the episodes. ``part``: episodes that one rolls out
    at once; ``micro``: episodes of a backward pass; ``split``: weights, gradients and optimiser state are divided among
    the devices; ``half``: it computes in bf16; ``rank``: of the adapters that are trained, 0 for the weights."""

    gpus: int
    part: int
    micro: int
    checkpointing: bool = False
    split: bool = False
    half: bool = False
    rank: int = 0

    @property
    def number(self) -> int:
        """Bytes of a number that is computed with. Where the weights are split they are bf16 too, otherwise autocast
        keeps some in fp32, and all are counted so."""
        return sizes.FLOAT // 2 if self.half and self.split else sizes.FLOAT


def as_it_is(cfg: RunConfig, gpus: int) -> Setup:
    """The layout that the configuration asks for, on ``gpus`` devices."""
    rl, half = cfg.rl, cfg.precision == "bf16"
    own = rl.prompts_per_rollout * rl.group_size // gpus
    micro = min(rl.micro_batch, own // rl.epochs if rl.epoch_convention == "halves" else own)
    part = min(rl.rollout_batch or own, own)
    return Setup(gpus, part, micro, cfg.activation_checkpointing, cfg.sharding and gpus > 1, half, rl.lora_rank)


def memory(cfg: RunConfig, setup: Setup) -> dict[str, dict[str, int]]:
    """Bytes on one device by kind, in each phase: ``rollout`` and ``update``."""
    net, rl = sizes.network(cfg), cfg.rl
    held = sizes.parameters(net)
    everything, trained = sum(held.values()), sum(held[part] for part in rl.train)
    added, copies = 0, 2 if rl.method == "nft" else 1
    everything -= net.codec  # it is fp32 and whole whatever the network is
    frozen = copies * everything
    if setup.rank:  # a frozen copy shares what is below adapters, and the reference has none
        added = trained = sizes.adapters(net, setup.rank, rl.train)
        frozen = (copies - 1) * added
    devices, whole, gathered = setup.gpus if setup.split else 1, 0, 0
    if setup.split:  # for a rollout all of it; in an update a layer and the next, what is outside of layers, gradients
        two = 2 * (2 * net.expert_layer)
        whole, gathered = everything * setup.number, (2 * two + everything - net.layers * two // 2) * setup.number
    cast = trained * sizes.FLOAT // 2 if setup.half and not setup.split else 0  # autocast's copies
    b = sizes.batch(cfg, setup.micro)
    episodes = rl.prompts_per_rollout * rl.group_size // setup.gpus
    part = min(setup.part, episodes)
    width = setup.number / sizes.FLOAT
    latents = b.tokens * net.token_dim * sizes.FLOAT
    pixels = 3 * cfg.model.image_size**2 * sizes.FLOAT
    text = "text" in rl.train or rl.gradient_through_context
    standing = {
        "weights": (everything + added) * sizes.FLOAT // devices + net.codec * sizes.FLOAT,
        "reference": frozen * sizes.FLOAT // devices + (0 if setup.rank else copies * net.codec * sizes.FLOAT),
        "optimiser": 2 * trained * sizes.FLOAT // devices,
        # the window's states and noise, and what old and reference weights say of them
        "latents": episodes * latents * max(b.steps, 1) * 7,
        "reward": reward(cfg) + episodes * pixels,
    }
    block = b.tokens + 2
    rollout = {
        "gathered": whole + cast,
        "activations": int(width * sizes.evaluation(net, part, block)) + decoding(cfg),
        # a block joins a copy of the context
        "KV cache": int(width * sizes.cache(net, part, 2 * (b.prompt + b.trace) + block)),
        "gradients": 0,
    }
    update = {
        "gathered": gathered + cast,
        "activations": int(width * sizes.activations(net, b, text, setup.checkpointing)) + logits(net, b, text),
        "KV cache": int(width * sizes.cache(net, b.episodes, (b.prompt + b.trace) * (1 + b.steps))),
        "gradients": trained * sizes.FLOAT // devices,
    }
    return {name: standing | phase for name, phase in (("rollout", rollout), ("update", update))}


def logits(net: sizes.Network, b: sizes.Batch, text: bool) -> int:
    """Bytes of a trace's logits and their gradient, beside the log-probabilities that autograd keeps."""
    return 2 * b.episodes * b.trace * net.vocabulary * sizes.FLOAT if text else 0


def decoding(cfg: RunConfig) -> int:
    """Bytes of the autoencoder at full resolution: one picture, three tensors of its widest level there."""
    channels = sizes.BAGEL_DECODER_CHANNELS if cfg.backbone == "bagel" else 0
    return 3 * channels * cfg.model.image_size**2 * sizes.FLOAT


def reward(cfg: RunConfig) -> int:
    """Bytes of the reward's weights: exact for none, an assumption for a learned one at BAGEL's scale."""
    if cfg.rl.reward == "verifier":
        return 0
    r = cfg.reward
    small = 2 * r.layers * 12 * r.width**2 + r.fusion_layers * 12 * r.width**2
    return sizes.FLOAT * (REWARD_PARAMETERS if cfg.backbone == "bagel" else small)


def need(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of the larger phase."""
    return max(sum(phase.values()) for phase in memory(cfg, setup).values())


def remedies(cfg: RunConfig, gpus: int, room: float) -> list[tuple[str, Setup]]:
    """Settings to change, one on top of the other, until the run needs no more than ``room`` bytes or none is left."""
    setup, steps = as_it_is(cfg, gpus), []
    largest = max((m for m in halvings(setup.micro) if need_update(cfg, replace(setup, micro=m)) <= room), default=1)
    tried = [("rl.micro_batch: {micro}", {"micro": largest})]
    tried.append(("activation_checkpointing: true", {"checkpointing": True}))
    if gpus > 1 and cfg.rl.method == "grpo" and not setup.rank:
        tried.append(("sharding: true, processes: {gpus}", {"split": True}))
    for text, change in tried:
        if need(cfg, setup) > room and replace(setup, **change) != setup:
            setup = replace(setup, **change)
            steps.append((text.format(**vars(setup)), setup))
    if need(cfg, setup) > room:
        fitting = [n for n in halvings(setup.part) if need(cfg, replace(setup, part=n)) <= room]
        setup = replace(setup, part=max(fitting, default=1))
        steps.append((f"rl.rollout_batch: {setup.part}", setup))
    return steps


def need_update(cfg: RunConfig, setup: Setup) -> int:
    return sum(memory(cfg, setup)["update"].values())


def halvings(n: int) -> list[int]:
    """n, n // 2, ..., 1."""
    return [n] if n <= 1 else [n, *halvings(n // 2)]


def work(cfg: RunConfig, setup: Setup) -> dict[str, float]:
    """FLOPs of the whole run by phase, and the bytes of weights that writing token by token reads."""
    net, told = sizes.network(cfg), cost.reinforcement(cfg, GUIDANCE)
    b = sizes.batch(cfg, 1)
    context, block = b.prompt + b.trace, b.tokens + 2
    image = sizes.flops(net, block, context + block)
    token = sizes.flops(net, 1, context, head=True)
    backward = 4 if setup.checkpointing else 3
    number = sizes.FLOAT // 2 if setup.half else sizes.FLOAT
    rounds = cfg.rl.rollouts * -(-cfg.rl.prompts_per_rollout * cfg.rl.group_size // setup.gpus // setup.part)
    rounds += -(-told["validation_images"] // cfg.sampling.batch_size)
    text = sizes.parameters(net)["text"] - net.vocabulary * net.hidden
    return {
        "rollout": told["rollout_image_evaluations"] * image + told["rollout_text_tokens_at_most"] * token,
        "replay": told["replay_image_evaluations_at_most"] * image + told["replay_text_tokens_at_most"] * token,
        "update": backward
        * (told["update_image_evaluations_at_most"] * image + told["update_text_tokens_at_most"] * token),
        "validation": (told["validation_image_evaluations"] + told["drift_image_evaluations"]) * image
        + (told["validation_text_tokens_at_most"] + told["drift_text_tokens_at_most"]) * token,
        "bytes read": rounds * b.trace * text * number,
    }


def hours(done: dict[str, float], devices: int, tflops: float, bandwidth: float) -> float:
    """Of a run: computing at ``tflops`` a device, and reading weights at ``bandwidth`` TB/s, one after the other. What
    the devices say to each other is not counted."""
    computing = sum(value for name, value in done.items() if name != "bytes read") / (devices * tflops * 1e12)
    return (computing + done["bytes read"] / (bandwidth * 1e12)) / 3600


def report(cfg: RunConfig, gpus: int, gpu_memory: float, tflops: float, bandwidth: float) -> tuple[list[str], bool]:
    """The lines that the command prints, and whether the run fits as it is."""
    _check_split(cfg, gpus)
    setup, room = as_it_is(cfg, gpus), gpu_memory * 1e9 * (1 - RESERVED)
    held, told = sizes.parameters(sizes.network(cfg)), cost.reinforcement(cfg, GUIDANCE)
    phases, done = memory(cfg, setup), work(cfg, setup)
    net, b = sizes.network(cfg), sizes.batch(cfg, setup.micro)
    text = "text" in cfg.rl.train or cfg.rl.gradient_through_context
    lines = [f"run {cfg.run} at scale {cfg.scale}: {gpus} x {gpu_memory:g} GB, {room / 1e9:.1f} of them usable"]
    lines.append("parameters    " + ", ".join(f"{name} {count:,}" for name, count in held.items()))
    lines.append(f"memory (GB)   {'rollout':>12}{'update':>12}")
    for kind in KINDS:
        lines.append(f"  {kind:<12}" + "".join(f"{phases[name][kind] / 1e9:12.3f}" for name in phases))
    lines.append(f"  {'sum':<12}" + "".join(f"{sum(phase.values()) / 1e9:12.3f}" for phase in phases.values()))
    with_all, again = (sizes.activations(net, b, text, checkpointing) for checkpointing in (False, True))
    kept = f"{with_all / 1e9:.3f} GB kept, {again / 1e9:.3f} GB with checkpointing"
    lines.append(f"activations   of {setup.micro} episodes: {kept}")
    each = told["updates"]
    lines.append(
        f"an update     {told['update_image_evaluations_at_most'] // each:,} image evaluations with gradient,"
        f" {told['replay_image_evaluations_at_most'] // each:,} without,"
        f" {told['rollout_image_evaluations'] // each:,} in its rollout;"
        f" {told['update_text_tokens_at_most'] // each:,} tokens of traces at most"
    )
    flops = ", ".join(f"{name} {value:.2e}" for name, value in done.items() if name != "bytes read")
    training = sum(done[name] for name in ("rollout", "replay", "update"))
    lines.append(f"FLOPs         {flops}; {training / each:.2e} an update")
    time = hours(done, gpus, tflops, bandwidth)
    each_at = f"{gpus} x {tflops:g} TFLOP/s and {bandwidth:g} TB/s"
    lines.append(f"hours         {time:.3g} at {each_at}, an estimate")
    fits = need(cfg, setup) <= room
    if fits:
        return [*lines, f"fits          yes: {need(cfg, setup) / 1e9:.1f} GB"], True
    lines.append(f"fits          no: {need(cfg, setup) / 1e9:.1f} GB on each device")
    lines.append("what would make it fit, each beside those above it:")
    steps = remedies(cfg, gpus, room)
    for text, changed in steps:
        lines.append(f"    {text:<58}{need(cfg, changed) / 1e9:10.1f} GB")
    if not steps or need(cfg, steps[-1][1]) > room:
        lines.append("    and still more: larger devices, or more of them")
    else:
        time = hours(work(cfg, steps[-1][1]), gpus, tflops, bandwidth)
        lines.append(f"    then about {time:.3g} hours")
    return lines, False


def _check_split(cfg: RunConfig, gpus: int) -> None:
    """Raise UserError where the rollout's prompts cannot be split among so many processes."""
    try:
        check_processes(replace(cfg, processes=gpus, sharding=cfg.sharding and gpus > 1))
    except UserError as error:
        raise UserError(f"--gpus {gpus}: {error}") from None


def check_fits(cfg: RunConfig, memory_of_device: int) -> None:
    """Raise UserError where the run needs more than ``memory_of_device`` bytes on each of its devices."""
    needed = need(cfg, as_it_is(cfg, cfg.processes))
    if needed > memory_of_device:
        raise UserError(
            f"scale {cfg.scale}: {cfg.run} needs about {needed / 1e9:.1f} GB on each of {cfg.processes} devices, there"
            f" are {memory_of_device / 1e9:.1f}; see python -m unigrpo.plan --scale {cfg.scale}"
        )


def main() -> None:
    parser = cli.parser("unigrpo.plan", "Tell what a run needs and whether it fits, before anything is loaded.")
    parser.add_argument("--scale", required=True, help="a file of pipelines/scales")
    parser.add_argument("--run", default="unigrpo", help="a run of pipelines/experiments.yaml that is reinforced")
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
    if cfg.stage != "rl":
        raise UserError(f"--run {args.run}: expected a run that is reinforced, this one is supervised")
    if cfg.backbone == "llm_dit":
        base = resolve(study.catalogue, study.scale, study.scale_name, "base", 0)
        lines, fits = pair_plan.report(cfg, base, args.gpu_memory)
    else:
        gpus = cfg.processes if args.gpus is None else args.gpus
        tflops = TFLOPS[cfg.precision] if args.tflops is None else args.tflops
        lines, fits = report(cfg, gpus, args.gpu_memory, tflops, args.bandwidth)
    print("\n".join(lines))
    if not fits:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.run(main)
