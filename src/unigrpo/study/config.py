"""What a run is: frozen dataclasses, validated at the edge. Imports neither torch nor anything heavy.

A resolved run configuration is one JSON file. ``from_dict`` rejects unknown keys, wrong types and settings that
cannot work, each with a message that names the key; ``to_dict`` is its inverse.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json

LENGTH_BUCKETS = 2  # parts of a supervised step, texts of similar length together
METHODS = sorted(path.stem for path in (Path(__file__).parents[1] / "methods").glob("[a-z]*.py"))


def require(condition: bool, key: str, expected: str) -> None:
    """Raise :class:`UserError` naming ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{key}: expected {expected}")


def require_ranges(config, section: str, *, positive: str = "", not_negative: str = "") -> None:
    """Raise :class:`UserError` naming the first of these fields that is 0 or less, or less than 0."""
    for name in positive.split():
        require(getattr(config, name) > 0, f"{section}.{name}", f"more than 0, got {getattr(config, name)}")
    for name in not_negative.split():
        require(getattr(config, name) >= 0, f"{section}.{name}", f"0 or more, got {getattr(config, name)}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the Mixture-of-Transformers (same class from the tiny model to BAGEL-7B)."""

    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    image_size: int = 48  # pixels a side
    latent_channels: int = 24  # channels of the codec's latent
    latent_downsample: int = 8  # pixels per latent cell, so the latent is image_size / latent_downsample a side
    latent_patch: int = 2  # latent cells per token side
    max_latent_size: int = 4  # side of the position table, in tokens

    def __post_init__(self):
        require_ranges(self, "model", positive=" ".join(f.name for f in dataclasses.fields(self)))
        require(self.hidden_size % self.heads == 0, "model.hidden_size", "a multiple of model.heads")
        require(self.heads % self.kv_heads == 0, "model.heads", "a multiple of model.kv_heads")
        stride = self.latent_downsample * self.latent_patch
        require(self.image_size % stride == 0, "model.image_size", f"a multiple of {stride} (downsample x patch)")
        require(
            self.tokens_per_side <= self.max_latent_size,
            "model.max_latent_size",
            "at least the tokens a side",
        )

    @property
    def tokens_per_side(self) -> int:
        return self.image_size // (self.latent_downsample * self.latent_patch)


@dataclass(frozen=True)
class SupervisedConfig:
    """Supervised stages (base, SFT): flow-matching loss on images + cross-entropy on traces."""

    steps: int = 4000
    batch_size: int = 64  # examples a step
    lr: float = 1.5e-3  # peak; cosine to a tenth after `warmup` steps
    warmup: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    timestep_shift: float = 2.0  # of the training times (logit-normal)
    ce_weight: float = 0.3  # weight of the text loss against the flow loss
    condition_dropout: float = 0.1  # share of examples whose whole context is dropped (for guidance)
    no_thinking: float = 0.5  # share of examples without a trace
    wrong_traces: float = 0.0  # share of the other traces that contradict their prompt at random
    habitual_errors: float = 0.0  # share of traces that follow a wrong habit where one is triggered (text headroom)
    painter_habits: float = 0.0  # share of images painted by the painter's habits (image headroom, guided too)
    paint_noise: float = 0.0  # share of images that differ from their trace in one fact (image headroom, unguided)
    validate_every: int = 1000  # steps
    checkpoint_every: int = 500  # steps

    def __post_init__(self):
        imperfections = ("wrong_traces", "habitual_errors", "painter_habits", "paint_noise")
        for name in ("condition_dropout", "no_thinking", *imperfections):
            require(0 <= getattr(self, name) <= 1, f"supervised.{name}", "a share in [0, 1]")
        positive = "steps batch_size lr clip_norm timestep_shift validate_every checkpoint_every"
        require_ranges(self, "supervised", positive=positive, not_negative="warmup weight_decay ce_weight")
        require(0 < self.ema_decay < 1, "supervised.ema_decay", "a decay in (0, 1)")


@dataclass(frozen=True)
class SamplingConfig:
    """How images are sampled at evaluation."""

    steps: int = 20  # denoising grid, read by `grid`
    grid: Literal["points", "steps"] = "steps"  # BAGEL counts grid points (N points = N-1 evaluations)
    shift: float = 3.0  # timestep shift, t' = s t / (1 + (s-1) t)
    renorm: Literal["none", "global", "channel"] = "none"  # of the guided velocity
    max_trace_tokens: int = 24
    images_per_prompt: int = 4
    batch_size: int = 160  # images sampled together
    guidance_grid: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.5)  # tried on validation prompts
    temperature_grid: tuple[float, ...] = (1.0, 0.7, 0.3)

    def __post_init__(self):
        require(self.steps >= 2, "sampling.steps", "a whole number >= 2")
        require_ranges(self, "sampling", positive="shift max_trace_tokens images_per_prompt batch_size")
        require(min(self.guidance_grid, default=0) >= 1, "sampling.guidance_grid", "one or more scales >= 1")
        require(min(self.temperature_grid, default=0) > 0, "sampling.temperature_grid", "one or more temperatures > 0")


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement of the reasoning and / or the denoising part (paper, Table 3). The text's update is GRPO; the
    image's is ``method``."""

    method: str = "grpo"  # update rule of the image part: a file of src/unigrpo/methods
    train: tuple[Literal["text", "image"], ...] = ("text", "image")
    thinking: bool = True  # write traces during training
    rollouts: int = 60
    prompts_per_rollout: int = 12
    group_size: int = 12  # episodes (one trace and one image each) per prompt
    epochs: int = 2  # optimiser steps per rollout
    epoch_convention: Literal["halves", "repeat"] = "halves"  # disjoint parts of the rollout, or all of it each time
    micro_batch: int = 144  # episodes per backward pass
    rollout_batch: int = 0  # episodes that a process thinks and paints at once, the same ones; 0 = all of its own
    steps: int = 10  # denoising grid in training
    grid: Literal["points", "steps"] = "steps"
    shift: float = 3.0
    guidance: float = 1.0  # classifier-free guidance in training; 1 = none, the paper's choice
    transition: Literal["sde", "cps", "dance"] = "sde"  # kind of the stochastic steps
    noise_level: float = 0.8  # a of sigma_t = a sqrt(t / (1 - t)); what it means in the other kinds: flow.transition
    window: Literal["contiguous", "scattered", "progressive"] = "contiguous"
    window_rollouts: int = 10  # rollouts before a progressive window moves on by its size
    window_size: int = 3
    window_range: tuple[int, int] = (0, 5)  # the window lies inside these steps
    same_noise: bool = True  # the group shares its initial noise
    temperature: float = 1.0
    ratio: Literal["plain", "ratio_norm"] = "ratio_norm"
    text_reduction: Literal["grpo", "dr_grpo", "dapo"] = "grpo"  # of the token losses: text_losses.reduce_tokens
    kl_text: float = 0.0  # weight of the text's KL to the starting checkpoint (k3 estimator)
    clip_text: float = 0.02
    clip_image: float = 1.5e-4
    advantage_eps: float = 1e-4
    advantage_ddof: int = 0
    image_weight: float = 1.0  # lambda of J = J_text + lambda J_flow
    lora_rank: int = 0  # of the adapters that are trained in the weights' place; 0 = the weights themselves
    image_scale: float = 1.0  # factor on the image loss, whose log-ratios are means over latent elements
    regulariser: Literal["none", "latent_kl", "velocity_mse"] = "velocity_mse"
    velocity_mse_weight: float = 1.0
    latent_kl_weight: float = 20.0
    context_gradient: Literal["auto", "full", "stage_boundary"] = "auto"  # auto: full where both parts train
    lr_text: float = 3e-4  # reasoning (understanding) expert
    lr_image: float = 2e-4  # denoising (generation) expert
    clip_norm: float = 1.0  # per expert
    matching_samples: int = 8  # fpo, nft: (time, noise) pairs per finished image
    matching_weight: Literal["uniform", "noise", "t", "t2", "huber", "ghuber"] = "noise"  # fpo: of a pair's loss
    matching_ratio: Literal["mean", "each"] = "mean"  # fpo: one ratio per image, or one per pair
    matching_clip: float = 0.05  # fpo: clip range of that ratio
    nft_beta: float = 1.0  # nft: how far the implicit positive and negative velocities lie from the old one
    nft_decay_rate: float = 1e-3  # nft: the old weights keep the share min(rate x updates, largest) after a rollout
    nft_decay_largest: float = 0.5
    data_weight: float = 1.0  # ddrl: of the flow-matching loss on SFT's data
    gardo_share: float = 0.1  # gardo: of a rollout's samples that count as uncertain and are penalised
    reference_every: int = 10  # gardo: rollouts after which the reference becomes the policy
    reward: str = "learned"  # name of a file in rewards/
    reward_options: dict = field(default_factory=dict)  # what its `build` is called with
    verifier_mix: float = 0.0  # share of verifier reward mixed into the reward; 0 = the reward alone
    prompt_file: str | None = None  # prompts to train on, one JSON object a line; none = the world's
    validate_every: int = 10  # rollouts
    validation_images: int = 1  # per validation prompt
    checkpoint_every: int = 10  # rollouts

    def __post_init__(self):
        require(len(self.train) > 0 and len(set(self.train)) == len(self.train), "rl.train", "text, image or both")
        require(self.group_size >= 2, "rl.group_size", "at least 2: a group of one has no relative advantage")
        counts = "rollouts prompts_per_rollout epochs micro_batch validate_every validation_images checkpoint_every"
        counts += " window_rollouts"
        numbers = "shift noise_level temperature clip_text clip_image lr_text lr_image clip_norm"
        numbers += " matching_samples matching_clip nft_beta data_weight reference_every"
        weights = "advantage_eps advantage_ddof image_weight image_scale velocity_mse_weight latent_kl_weight kl_text"
        weights += " nft_decay_rate rollout_batch lora_rank"
        require_ranges(self, "rl", positive=f"{counts} {numbers}", not_negative=weights)
        require(self.advantage_ddof < self.group_size, "rl.advantage_ddof", "less than rl.group_size")
        require(
            self.transition != "cps" or self.noise_level <= 1,
            "rl.noise_level",
            "at most 1 for transition: cps, where 1 replaces all of the noise",
        )
        lo, hi = self.window_range
        require(self.window_size >= 1, "rl.window_size", "at least 1: an empty window trains nothing")
        n = self.n_steps
        require(
            0 <= lo < hi <= n - 1,
            "rl.window_range",
            f"0 <= start < end <= {n - 1} (the last of {n} steps is not stochastic)",
        )
        require(self.window_size <= hi - lo, "rl.window_size", f"at most {hi - lo}, the width of rl.window_range")
        require(self.guidance >= 1, "rl.guidance", "a scale >= 1")
        require(0 <= self.verifier_mix <= 1, "rl.verifier_mix", "a share in [0, 1]")
        require("text" not in self.train or self.thinking, "rl.thinking", "true where text is trained")
        if self.epoch_convention == "halves":
            require(
                self.prompts_per_rollout % self.epochs == 0,
                "rl.prompts_per_rollout",
                "a multiple of rl.epochs for `halves`",
            )
        require(0 <= self.nft_decay_largest < 1, "rl.nft_decay_largest", "a share in [0, 1)")
        require(0 < self.gardo_share <= 1, "rl.gardo_share", "a share in (0, 1]")
        self._check_method()

    def _check_method(self):
        """What a method cannot work with. Only GRPO and what is made of it has the stochastic window, hence its noise
        and densities."""
        near = difflib.get_close_matches(self.method, METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        require(self.method in METHODS, "rl.method", f"one of {', '.join(METHODS)}, got {self.method!r}{hint}")
        if self.method == "grpo":
            return
        name = self.method
        require("image" in self.train, "rl.train", f"image among the parts: {name} is an update of the image part")
        if name == "ddrl":
            require(self.regulariser == "none", "rl.regulariser", "none for ddrl: its loss on data takes the place")
            require(
                self.prompt_file is None, "rl.prompt_file", "none for ddrl: its data are made for the world's prompts"
            )
        if name == "gardo":
            require(self.regulariser == "velocity_mse", "rl.regulariser", "velocity_mse for gardo, which gates it")
        if name in ("ddrl", "gardo"):
            return
        require(not self.same_noise, "rl.same_noise", f"false for {name}: a group would paint one image")
        require(self.regulariser != "latent_kl", "rl.regulariser", f"velocity_mse or none for {name}: it has no SDE")
        if name in ("refl", "nft"):
            require(self.train == ("image",), "rl.train", f"[image] for {name}, which trains no text")
        if name in ("fpo", "nft"):
            require(self.guidance == 1, "rl.guidance", f"1 for {name}, whose flow-matching loss is not guided")
        if name == "refl":
            require(self.verifier_mix == 0, "rl.verifier_mix", "0 for refl: the verifier has no gradient")

    @property
    def n_steps(self) -> int:
        return self.steps - 1 if self.grid == "points" else self.steps

    @property
    def needs_reference(self) -> bool:
        """Whether anything holds the policy near the checkpoint that it started from."""
        return ("image" in self.train and self.regulariser != "none") or ("text" in self.train and self.kl_text > 0)

    @property
    def gradient_through_context(self) -> bool:
        if self.context_gradient == "auto":
            return set(self.train) == {"text", "image"}
        return self.context_gradient == "full"


@dataclass(frozen=True)
class RewardConfig:
    """The learned reward: open_clip towers with a fusion head, trained on renders and SFT samples."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    fusion_layers: int = 2
    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    facts_weight: float = 1.0  # of the verdict on each stated fact, beside the verdict on the whole
    cells_weight: float = 1.0  # of reading class and colour of every cell of a render
    samples: int = 4000  # SFT images with inspector labels
    sample_share: float = 0.5  # of a batch

    def __post_init__(self):
        sizes = "width layers heads fusion_layers steps batch_size lr samples"
        require_ranges(self, "reward", positive=sizes, not_negative="facts_weight cells_weight")
        require(self.width % self.heads == 0, "reward.width", "a multiple of reward.heads")
        both = 0 < round(self.sample_share * self.batch_size) < self.batch_size
        require(both, "reward.sample_share", "a share that leaves samples and renders in a batch")


@dataclass(frozen=True)
class RewardPart:
    """One reward of a weighted sum: it adds weight * (score - centre) / spread."""

    weight: float
    reward: str | None = None  # name of a file in rewards/; none = the part's own name
    centre: float = 0.0
    spread: float = 1.0
    options: dict = field(default_factory=dict)  # what its `build` is called with


TAKEN_NAMES = ("mean", "std")  # a part is recorded as reward_<name>; these columns are the sum's


def reward_parts(parts: object, where: str) -> dict[str, RewardPart]:
    """The parts of a weighted sum by name, from ``rl.reward_options.parts``. Raises UserError naming the key."""
    require(isinstance(parts, dict) and len(parts) > 0, where, "a mapping of one or more parts, name: {weight: ...}")
    for name in parts:
        usable = str(name).isidentifier() and name not in TAKEN_NAMES
        require(usable, f"{where}.{name}", f"a name of letters, digits and _, none of {', '.join(TAKEN_NAMES)}")
    made = {name: from_dict(RewardPart, part, f"{where}.{name}") for name, part in parts.items()}
    for name, part in made.items():
        require(part.spread > 0, f"{where}.{name}.spread", f"more than 0, got {part.spread}")
    return made


@dataclass(frozen=True)
class RunConfig:
    """One run at one seed, fully resolved."""

    run: str
    label: str
    stage: Literal["base", "sft", "rl"]
    scale: str
    seed: int
    init: str | None  # parent run
    evaluate: tuple[Literal["yes", "no"], ...]  # thinking modes at evaluation
    backbone: Literal["world", "bagel", "llm_dit"] = "world"
    source: Literal["train", "shipped", "released"] = "train"  # of the base: trained, in this repository, or ...
    released: str | None = None  # ... a local folder or hub id of published weights; for llm_dit the pipeline's
    language_model: str | None = None  # llm_dit: the same of the language model
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto = CUDA where there is one
    precision: Literal["no", "bf16"] = "no"
    threads: int = 1
    processes: int = 1  # of SFT and reinforcement: one a device, each with its share of the examples or prompts
    sharding: bool = False  # weights, gradients and optimiser state split among the processes (FSDP)
    activation_checkpointing: bool = False  # layers are computed again in the backward pass, not kept
    model: ModelConfig = field(default_factory=ModelConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    weak_reward: RewardConfig = field(default_factory=RewardConfig)  # of `rl.reward: weak`

    def __post_init__(self):
        require(self.stage == "base" or self.init is not None, "init", "a parent run (only the base has none)")
        require(
            (self.source == "released") == (self.released is not None),
            "released",
            "a folder or hub id for, and only for, source: released",
        )
        if self.stage == "base":
            adopted = self.backbone != "world"
            require(
                adopted == (self.source == "released"),
                "base.source",
                "released for, and only for, backbone: bagel and llm_dit, which are not trained from nothing",
            )
            require(
                (self.backbone == "llm_dit") == (self.language_model is not None),
                "base.language_model",
                "a folder or hub id for, and only for, backbone: llm_dit",
            )
        self._check_adapters()
        require(self.seed >= 0, "seed", "a whole number >= 0")
        require(self.threads >= 1, "threads", "a whole number >= 1")
        require(self.processes >= 1, "processes", "a whole number >= 1")
        if self.stage != "base":
            alone = self.sharding and self.processes == 1
            require(not alone, "sharding", "false for processes: 1, which has nobody to share with")
        if self.stage == "rl":
            self._check_layout()

    @property
    def launched(self) -> int:
        """The processes that make this run: a base has one, whatever its scale says."""
        return 1 if self.stage == "base" else self.processes

    def _check_layout(self):
        """What cannot be split, or trained as adapters."""
        rl = self.rl
        if self.sharding:
            require(rl.lora_rank == 0, "rl.lora_rank", f"0 with sharding, got {rl.lora_rank}")
        if rl.lora_rank and self.backbone != "llm_dit":  # whose copies share no more than frozen weights
            require(rl.method != "gardo", "rl.lora_rank", "0 for gardo, whose reference becomes the policy")

    def _check_adapters(self):
        """``llm_dit`` trains adapters alone, and its painter reads text."""
        if self.backbone != "llm_dit":
            return
        require(not self.sharding, "sharding", "false for backbone: llm_dit, whose released weights are not trained")
        require(not self.activation_checkpointing, "activation_checkpointing", "false for backbone: llm_dit")
        require(self.rl.lora_rank > 0, "rl.lora_rank", "more than 0 for backbone: llm_dit, which trains adapters alone")
        require(
            self.rl.context_gradient != "full",
            "rl.context_gradient",
            "stage_boundary or auto for backbone: llm_dit: its image part reads the trace as text, through which no"
            " gradient flows",
        )


def check_processes(cfg: RunConfig) -> None:
    """Raise UserError where the prompts of a rollout, or the examples of a supervised step, cannot be split equally
    among the processes of a run: not a property of a scale or of a run's line, but of the two together."""
    rl, n = cfg.rl, cfg.processes
    if cfg.stage != "rl":
        size, least = cfg.supervised.batch_size, LENGTH_BUCKETS * n
        wanted = f"a multiple of {LENGTH_BUCKETS} x processes = {least}, got {size}"
        return require(cfg.launched == 1 or size % least == 0, "supervised.batch_size", wanted)
    prompts = rl.prompts_per_rollout
    require(n <= prompts, "processes", f"at most rl.prompts_per_rollout = {prompts}, got {n}")
    if n > 1 and rl.epoch_convention == "halves":
        each = f"rl.prompts_per_rollout / rl.epochs = {prompts} / {rl.epochs}"
        require(prompts // rl.epochs % n == 0, "processes", f"a divisor of {each}, got {n}")
    require(prompts % n == 0, "processes", f"a divisor of rl.prompts_per_rollout = {prompts}, got {n}")


def to_dict(config) -> dict:
    """Plain JSON-able dict of a config dataclass."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls, data: dict, where: str = ""):
    """Build dataclass ``cls`` from ``data``; every error names ``where`` + key. Raises UserError."""
    if not isinstance(data, dict):
        raise UserError(f"{where or cls.__name__}: expected a mapping, got {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known keys: {', '.join(fields)}"
            raise UserError(f"{prefix}{key}: unknown key{hint}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{prefix}{missing[0]}: missing, expected {_name(hints[missing[0]])}")
    return cls(**{key: _coerce(hints[key], value, prefix + key) for key, value in data.items()})


def load(path: str | Path) -> RunConfig:
    """Read a resolved run configuration; errors name the file."""
    data = read_json(path)
    try:
        return from_dict(RunConfig, data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _name(hint) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def _coerce(hint, value, key: str):
    """Check ``value`` against a type hint; ints pass as floats, lists become tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, key)
    if origin is Literal:
        require(
            value in args and not (isinstance(value, bool) and True not in args),
            key,
            f"{_name(hint)}, got {value!r}",
        )
        return value
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, key)
    if origin is tuple:
        require(isinstance(value, list | tuple), key, f"a list, got {value!r}")
        if args[-1] is Ellipsis:
            return tuple(_coerce(args[0], v, f"{key}[{i}]") for i, v in enumerate(value))
        require(len(value) == len(args), key, f"{len(args)} values, got {len(value)}")
        return tuple(_coerce(a, v, f"{key}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        require(math.isfinite(value), key, f"a finite number, got {value}")
        return float(value)
    ok = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(ok, key, f"{_name(hint)}, got {value!r}")
    return value
