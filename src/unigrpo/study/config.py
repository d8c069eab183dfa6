"""What a run is: settings in sections, checked when they are read. The section ``rl`` is one flat list: the common
settings and those that the files of its method and of the regularisers declare. Imports no torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, create_model, field_validator, model_validator

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_json
from unigrpo.core.registry import declarations
from unigrpo.core.settings import (
    BOOKKEEPING,
    LENGTHENS,
    MOST,
    AsTuple,
    Count,
    CountOrNone,
    Decides,
    NotNegative,
    Positive,
    Rate,
    Settings,
    Several,
    Share,
    from_dict,
    require,
)
from unigrpo.study.facts import BACKBONES, METHODS, REGULARISERS, BackboneFacts, MethodFacts

SUPERVISED_VALIDATION_IMAGES = 2  # per validation prompt, with thinking and again without
LENGTH_BUCKETS = 2  # parts of a supervised step, texts of similar length together
MOST_EPISODES = 10**10  # of a run
Grid = Literal["points", "steps", "diffusers"]
Guidance = Annotated[float, Field(ge=1)]  # scale of classifier-free guidance; 1 = none
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
Often = Annotated[int, Field(ge=1, le=MOST), BOOKKEEPING]  # every so many rollouts or steps
Minutes = Annotated[float, Field(gt=0), BOOKKEEPING]
Switch = Annotated[bool, BOOKKEEPING]
Part = Decides(("training", "steps"))
Ceiling = Literal["painter", "traces"]


class ModelConfig(Settings):
    """Sizes of the Mixture-of-Transformers (same class from the tiny model to BAGEL-7B)."""

    hidden_size: Count = 128
    intermediate_size: Count = 384
    layers: Count = 4
    heads: Count = 4
    kv_heads: Count = 2
    image_size: Count = 48  # pixels a side
    latent_channels: Count = 24  # channels of the codec's latent
    latent_downsample: Count = 8  # pixels per latent cell, so the latent is image_size / latent_downsample a side
    latent_patch: Count = 2  # latent cells per token side
    max_latent_size: Count = 4  # side of the position table, in tokens

    @model_validator(mode="after")
    def _check(self):
        require(self.hidden_size % self.heads == 0, "model.hidden_size", "a multiple of model.heads")
        require(self.heads % self.kv_heads == 0, "model.heads", "a multiple of model.kv_heads")
        stride = self.latent_downsample * self.latent_patch
        require(self.image_size % stride == 0, "model.image_size", f"a multiple of {stride} (downsample x patch)")
        require(self.tokens_per_side <= self.max_latent_size, "model.max_latent_size", "at least the tokens a side")
        return self

    @property
    def tokens_per_side(self) -> int:
        return self.image_size // (self.latent_downsample * self.latent_patch)


class SupervisedConfig(Settings):
    """Supervised stages (base, SFT): flow-matching loss on images + cross-entropy on traces."""

    steps: Count = 4000
    batch_size: Count = 64  # examples a step
    lr: Rate = 1.5e-3  # peak; cosine to a tenth after `warmup` steps
    warmup: CountOrNone = 200
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    timestep_shift: Positive = 2.0  # of the training times (logit-normal)
    ce_weight: NotNegative = 0.3  # weight of the text loss against the flow loss
    condition_dropout: Share = 0.1  # share of examples without any context (for guidance)
    no_thinking: Share = 0.5  # share of examples without a trace
    wrong_traces: Share = 0.0  # share of the other traces that contradict their prompt at random
    habitual_errors: Share = 0.0  # share of traces that follow a wrong habit where one is triggered (text headroom)
    painter_habits: Share = 0.0  # share of images painted by the painter's habits (image headroom, guided too)
    paint_noise: Share = 0.0  # share of images that differ from their trace in one fact (image headroom, unguided)
    half: bool = False  # write the weights in half precision, as they are shipped
    validate_every: Often = 1000  # steps
    checkpoint_every: Often = 200  # steps between two states to resume from
    checkpoint_minutes: Minutes = 10.0  # the most between two of them


class Denoising(Settings):
    """How an image is painted, in training and at evaluation: its time grid and its guidance."""

    steps: AtLeastTwo = 20  # denoising grid, read by `grid`
    grid: Grid = "steps"  # BAGEL counts grid points (N points = N-1 evaluations); diffusers: its scheduler's N steps
    shift: Positive = 3.0  # timestep shift, t' = s t / (1 + (s-1) t)
    guidance_interval: Annotated[tuple[Share, Share], AsTuple] = (0.0, 1.0)  # flow times (start, end] that are guided
    reasoning_guidance: Guidance = 1.0  # guidance away from the prompt without its trace; 1 = none
    renorm: Literal["none", "global", "channel", "text_channel"] = "none"  # of the guided velocity

    @property
    def n_steps(self) -> int:
        return self.steps - 1 if self.grid == "points" else self.steps

    @model_validator(mode="after")
    def _check_interval(self):
        start, end = self.guidance_interval
        require(start < end, "guidance_interval", f"start < end, got {start}, {end}")
        return self


class SamplingConfig(Denoising):
    """How images are sampled at evaluation."""

    max_trace_tokens: Count = 24
    images_per_prompt: Annotated[Count, Decides(("evaluation",))] = 4
    # MB that texts and images made together may take beside the weights, in training too
    memory: Annotated[Count, BOOKKEEPING] = 64
    # tried on validation prompts
    guidance_grid: Annotated[Several[Guidance], Decides(("tuning",))] = (1.0, 1.5, 2.0, 3.0, 4.5)
    temperature_grid: Annotated[Several[Positive], Decides(("tuning",))] = (1.0, 0.7, 0.3)


class RLConfig(Denoising):
    """Reinforcement (paper, Table 3): settings of every method. The text's update is GRPO, the image's ``method``."""

    method: str  # update rule of the image part: a file of src/unigrpo/methods
    train: Annotated[tuple[Literal["text", "image"], ...], AsTuple] = ("text", "image")
    thinking: bool = True  # write traces during training
    rollouts: Annotated[Count, LENGTHENS] = 60
    prompts_per_rollout: Count = 12
    group_size: AtLeastTwo = 12  # episodes (one trace and one image each) per prompt
    epochs: Count = 2  # optimiser steps per rollout
    epoch_convention: Literal["halves", "repeat"] = "halves"  # disjoint parts of the rollout, or all of it each time
    micro_batch: Annotated[Count, BOOKKEEPING] = 144  # episodes per backward pass
    steps: AtLeastTwo = 10  # denoising grid in training
    guidance: Guidance = 1.0  # in training; 1 is the paper's choice
    penalty_guided: bool = True  # the regulariser compares guided velocities; false: those of the full context
    images_per_trace: Count = 1  # episodes of a group that share one trace
    transition: Literal["sde", "cps", "dance"] = "sde"  # kind of the stochastic steps
    noise_level: Rate = 0.8  # a of sigma_t = a sqrt(t / (1 - t)); what it means in the other kinds: flow.transition
    window: Literal["contiguous", "scattered", "progressive"] = "contiguous"
    window_rollouts: Count = 10  # rollouts before a progressive window moves on by its size
    window_size: Count = 3  # stochastic steps
    window_range: Annotated[tuple[int, int], AsTuple] = (0, 5)  # the window lies inside these steps
    same_noise: bool = True  # the group shares its initial noise
    temperature: Positive = 1.0
    ratio: Literal["plain", "ratio_norm"] = "ratio_norm"
    text_reduction: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"  # of token losses: text_losses.reduce_tokens
    text_surrogate: Literal["clip", "cispo", "sapo"] = "clip"  # what takes the place of the clipped ratio
    text_level: Literal["token", "sequence"] = "token"  # of the ratio; sequence: GSPO
    text_ratio_cap: Positive | None = None  # above it a ratio is cut where clipping would let it through
    kl_text: NotNegative = 0.0  # weight of the text's KL to the starting checkpoint (k3 estimator)
    kl_text_corrected: bool = False  # each token's estimate times its ratio: unbiased under the new policy
    entropy_weight: NotNegative = 0.0  # of the bonus for the entropy of the text
    entropy_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of tokens, the most entropic, that carry the text's loss
    clip_text: Positive = 0.02
    clip_text_low: Positive | None = None  # the lower side alone
    clip_text_high: Positive | None = None  # the upper side alone (clip-higher)
    clip_image: Positive = 1.5e-4
    advantage_eps: NotNegative = 1e-4
    advantage_ddof: CountOrNone = 0
    advantage_scale: Literal["group", "batch", "none"] = "group"  # whose spread divides a reward's excess
    advantage_clip: Positive | None = None  # largest absolute advantage
    image_weight: NotNegative = 1.0  # lambda of J = J_text + lambda J_flow
    lora_rank: CountOrNone = 0  # of the adapters that are trained in the weights' place; 0 = the weights themselves
    image_scale: NotNegative = 1.0  # factor on the image loss, whose log-ratios are means over latent elements
    regulariser: str = "none"  # a file of src/unigrpo/objectives/regularisers
    context_gradient: Literal["auto", "full", "stage_boundary"] = (
        "auto"  # of the image loss; auto: full where both parts train
    )
    lr_text: Rate = 3e-4  # reasoning (understanding) expert
    lr_image: Rate = 2e-4  # denoising (generation) expert
    warmup: CountOrNone = 0  # optimiser steps over which the learning rates rise to these
    clip_norm: Positive = 1.0  # per expert
    # of the policy's weights over the course, validated beside the last ones at the end; judged: validated and saved
    average: Literal["none", "beside", "judged"] = "none"
    ema_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # the most that it keeps at a step: averaging.ema_share
    reward: str  # a file of rewards/
    reward_options: dict[str, Any] = {}  # what its `build` is called with
    # where it gives no score for an image, in several tries: the run ends, or goes on without the prompt's group
    reward_failure: Annotated[Literal["fail", "drop"], BOOKKEEPING] = "fail"
    prompt_file: str | None = None  # prompts to train on, one JSON object a line; none = the world's
    validate_every: Often = 10  # rollouts
    validation_images: Annotated[Count, BOOKKEEPING] = 1  # per validation prompt
    keep_weights: Annotated[Literal["best", "all", "none"], BOOKKEEPING] = "best"  # of validations; best by gold
    checkpoint_every: Often = 10  # rollouts between two states to resume from
    checkpoint_minutes: Minutes = 10.0  # the most between two of them
    keep_state: Switch = True  # of a finished run, which can then go on for more rollouts

    @model_validator(mode="after")
    def _check_common(self):
        require(len(self.train) > 0 and len(set(self.train)) == len(self.train), "rl.train", "text, image or both")
        episodes = self.rollouts * self.prompts_per_rollout * self.group_size
        most = f"at most {MOST_EPISODES:,} episodes in all, got {episodes:,}"
        require(episodes <= MOST_EPISODES, "rl.rollouts", most)
        require(self.advantage_ddof < self.group_size, "rl.advantage_ddof", "less than rl.group_size")
        replaced = self.transition != "cps" or self.noise_level <= 1
        require(replaced, "rl.noise_level", "at most 1 for transition: cps, where 1 replaces all of the noise")
        shared = self.group_size % self.images_per_trace == 0
        require(shared, "rl.images_per_trace", f"a divisor of rl.group_size = {self.group_size}")
        (lo, hi), n = self.window_range, self.n_steps
        last = f"0 <= start < end <= {n - 1} (the last of {n} steps is not stochastic)"
        require(0 <= lo < hi <= n - 1, "rl.window_range", last)
        require(self.window_size <= hi - lo, "rl.window_size", f"at most {hi - lo}, the width of rl.window_range")
        require("text" not in self.train or self.thinking, "rl.thinking", "true where text is trained")
        halves = self.epoch_convention != "halves" or self.prompts_per_rollout % self.epochs == 0
        require(halves, "rl.prompts_per_rollout", "a multiple of rl.epochs for `halves`")
        kept = self.average != "none" or self.ema_decay == 1
        require(kept, "rl.ema_decay", "1 without an average (rl.average)")
        self._check_method()
        return self

    def _check_method(self):
        """What the method declares, against the settings."""
        facts, name = self.facts, self.method
        choices = " or ".join(f"[{', '.join(parts)}]" for parts in facts.trains)
        possible = {frozenset(parts) for parts in facts.trains}
        require(frozenset(self.train) in possible, "rl.train", f"{choices} for {name}, got [{', '.join(self.train)}]")
        if "image" in self.train and not facts.noise_inside:
            require(not self.same_noise, "rl.same_noise", f"false for {name}: a group would paint one image")
        require(facts.guided or self.branches == 1, "rl.guidance", f"1 for {name}, which does not train with guidance")
        if "sft_data" in facts.needs:
            world = f"none for {name}: its data are made for the world's prompts"
            require(self.prompt_file is None, "rl.prompt_file", world)
        if self.regulariser == "none":
            return
        noise = REGULARISERS.load(self.regulariser, "rl.regulariser").FACTS.needs_noise
        require(facts.noise_inside or not noise, "rl.regulariser", f"one without densities for {name}: it has no SDE")

    def changed(self, changes: dict[str, Any]) -> RLConfig:
        """These settings with some changed; with another method, its settings in place of this one's."""
        known = rl_class(changes.get("method", self.method)).model_fields
        values = {name: getattr(self, name) for name in type(self).model_fields if name in known}
        return rl_config(**values | changes)

    @property
    def facts(self) -> MethodFacts:
        return METHODS.load(self.method, "rl.method").FACTS

    @property
    def branches(self) -> int:
        """Evaluations of the network that a guided velocity takes."""
        return 1 + (self.guidance > 1) + (self.reasoning_guidance > 1)

    @property
    def needs_reference(self) -> bool:
        """Whether anything holds the policy near the checkpoint that it started from."""
        return ("image" in self.train and self.regulariser != "none") or ("text" in self.train and self.kl_text > 0)

    @property
    def gradient_through_context(self) -> bool:
        if self.context_gradient == "auto":
            return set(self.train) == {"text", "image"}
        return self.context_gradient == "full"

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts that are trained: of each part in ``train``, and the reasoning one where the image loss reaches
        it."""
        reached = "image" in self.train and self.gradient_through_context
        return ("text", "image") if reached else self.train


@cache
def _composed(method: str, sections: tuple[type[Settings], ...]) -> type[RLConfig]:
    return create_model(f"RLConfig_{method}", __base__=(RLConfig, *sections), __module__=__name__)


def rl_class(method: str) -> type[RLConfig]:
    """The class of the settings of a reinforced run: the common ones, the method's and the regularisers'. Raises
    UserError where the method cannot be loaded, and for a key that is also a common one, or declared twice."""
    with declarations():
        plugins = [METHODS.load(method, "rl.method"), *(REGULARISERS.load(name) for name in REGULARISERS.names())]
    sections = tuple(plugin.Settings for plugin in plugins if hasattr(plugin, "Settings"))
    seen = dict.fromkeys(RLConfig.model_fields, "a common setting")
    for section in sections:
        for key in section.model_fields:
            if key in seen:
                raise UserError(f"{section.__module__}: Settings.{key}: expected another name, it is {seen[key]}")
            seen[key] = f"a setting of {section.__module__}"
    return _composed(method, sections)


def rl_config(**values) -> RLConfig:
    """Settings of a reinforced run. Raises UserError naming the key."""
    require(isinstance(values.get("method"), str), "rl.method", f"one of {', '.join(METHODS.names())}")
    return from_dict(rl_class(values["method"]), values, "rl")


class Annotator(Settings):
    """Who says which of two images of a prompt is better: ``rewards/_support/preferences.py``."""

    noise: Share = 0.1  # of the answers, flipped
    bias: NotNegative = 0.2  # what every object that an image shows adds to its gold


class RewardConfig(Settings):
    """The learned reward: open_clip towers with a fusion head, trained on renders and SFT samples."""

    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    fusion_layers: Count = 2
    steps: Count = 2000
    batch_size: Count = 64
    lr: Rate = 1e-3
    facts_weight: NotNegative = 1.0  # of the verdict on each stated fact, beside the verdict on the scene
    cells_weight: NotNegative = 1.0  # of reading class and colour of every cell of a render
    samples: Count = 4000  # SFT images with inspector labels
    sample_share: Share = 0.5  # of a batch
    annotator: Annotator | None = None  # whose preferences are learned in place of gold
    half: bool = False  # write the weights in half precision, as they are shipped

    @model_validator(mode="after")
    def _check(self):
        require(self.width % self.heads == 0, "reward.width", "a multiple of reward.heads")
        samples, each = round(self.sample_share * self.batch_size), 1 if self.annotator is None else 2
        require(0 < samples < self.batch_size, "reward.sample_share", "a share that leaves samples and renders")
        require(samples % each == self.batch_size % each == 0, "reward.batch_size", "pairs of samples and of renders")
        return self


class Machine(Settings):
    """What a scale says of every run: on what it is computed, and how it is laid out there."""

    backbone: str  # a file or folder of src/unigrpo/models/backbones
    device: Annotated[Literal["auto", "cpu", "cuda"], BOOKKEEPING] = "auto"  # auto = CUDA where there is one
    precision: Literal["no", "bf16"] = "no"
    threads: Annotated[Count, BOOKKEEPING] = 1
    # of SFT and reinforcement: one a device, each with its share of the examples or prompts
    processes: Annotated[Count, BOOKKEEPING] = 1
    sharding: Switch = False  # weights, gradients and optimiser state split among the processes (FSDP)
    activation_checkpointing: Switch = False  # layers are computed again in the backward pass, not stored
    reduce_each_slice: Switch = False  # a split network sums gradients over processes after every slice: none holds all
    tracker: Annotated[str | None, BOOKKEEPING] = None  # that the training record is copied to, e.g. tensorboard


class RunConfig(Machine):
    """One run at one seed, fully resolved."""

    run: str
    label: Annotated[str, BOOKKEEPING]
    stage: Literal["base", "sft", "rl"]
    scale: str
    seed: Annotated[int, Field(ge=0)]
    init: str | None = None  # parent run
    evaluate: Annotated[tuple[Literal["yes", "no"], ...], AsTuple, BOOKKEEPING]  # thinking modes at evaluation
    ceiling: Annotated[Ceiling | None, Decides(("evaluation",))] = None  # of the run ``init``, what is made perfect
    source: Literal["train", "released"] = "train"  # of the base: trained here, or ...
    released: str | None = None  # ... a local folder or hub id of published weights
    language_model: str | None = None  # the same of a language model, for backbones that have one
    model: ModelConfig = ModelConfig()
    supervised: Annotated[SupervisedConfig, Part] = SupervisedConfig()
    sampling: SamplingConfig = SamplingConfig()
    rl: Annotated[SerializeAsAny[RLConfig] | None, Part] = None  # of reinforced runs
    reward: Annotated[RewardConfig, Decides(("reward",))] = RewardConfig()
    weak_reward: Annotated[RewardConfig, Decides(("weak_reward",))] = RewardConfig()  # of a reward that is trained less
    preference_reward: Annotated[RewardConfig, Decides(("preference_reward",))] = RewardConfig(annotator=Annotator())

    @field_validator("rl", mode="before")
    @classmethod
    def _compose_rl(cls, value: object) -> object:
        return rl_config(**value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check(self):
        require(self.stage == "base" or self.init is not None, "init", "a parent run (only the base has none)")
        require(self.stage != "rl" or self.rl is not None, "rl", "the settings of a reinforced run")
        published = (self.source == "released") == (self.released is not None)
        require(published, "released", "a folder or hub id for, and only for, source: released")
        cores = os.cpu_count() or 1
        few = self.device != "cpu" or self.threads <= 4 * cores
        require(few, "threads", f"at most {4 * cores}, four times the cores of this machine, got {self.threads}")
        facts, name = self.backbone_facts, self.backbone
        if self.stage == "base":
            adopted = facts.released == (self.source == "released")
            require(adopted, "base.source", f"{'' if facts.released else 'not '}released for backbone: {name}")
            second = facts.language_model == (self.language_model is not None)
            wanted = "a folder or hub id" if facts.language_model else "nothing"
            require(second, "base.language_model", f"{wanted} for backbone: {name}")
        else:
            alone = self.sharding and self.processes == 1
            require(not alone, "sharding", "false for processes: 1, which has nobody to share with")
            each = self.sharding or not self.reduce_each_slice
            require(each, "reduce_each_slice", "false without sharding: every process holds all gradients")
        require(facts.splits or not self.sharding, "sharding", f"false for backbone: {name}")
        again = facts.recomputes or not self.activation_checkpointing
        require(again, "activation_checkpointing", f"false for backbone: {name}")
        if self.stage == "rl":
            self._check_reinforced(facts)
        return self

    def _check_reinforced(self, facts: BackboneFacts):
        """What the backbone and the layout leave to a reinforced run."""
        rl, name = self.rl, self.backbone
        adapters = not facts.adapters_only or rl.lora_rank > 0
        require(adapters, "rl.lora_rank", f"more than 0 for backbone: {name}, which trains adapters alone")
        alone = rl.reward_failure == "fail" or not self.sharding
        require(alone, "rl.reward_failure", "fail with sharding, where all processes take equally many slices")
        require(not (self.sharding and rl.lora_rank), "rl.lora_rank", f"0 with sharding, got {rl.lora_rank}")
        if rl.lora_rank and not facts.adapters_only:  # whose copies share no more than frozen weights
            moves = rl.facts.moves_reference
            require(not moves, "rl.lora_rank", f"0 for {rl.method}, whose reference becomes the policy")

    @property
    def backbone_facts(self) -> BackboneFacts:
        return BACKBONES.load(self.backbone, "backbone").FACTS

    @property
    def launched(self) -> int:
        """The processes that make this run: a base has one, whatever its scale says."""
        return 1 if self.stage == "base" else self.processes


LEARNED = tuple(name for name, field in RunConfig.model_fields.items() if field.annotation is RewardConfig)
"""Sections of rewards that are trained, the names of their folders and steps."""


def check_together(cfg: RunConfig) -> None:
    """Raise UserError unless the processes of a run can share the prompts of a rollout, or the examples of a supervised
    step, equally, and its gradients can flow as it says: properties of a scale and a run's line together, which a run
    of the catalogue that nothing asks for need not have."""
    rl, n = cfg.rl, cfg.processes
    if cfg.stage != "rl":
        size, least = cfg.supervised.batch_size, LENGTH_BUCKETS * n
        wanted = f"a multiple of {LENGTH_BUCKETS} x processes = {least}, got {size}"
        return require(cfg.launched == 1 or size % least == 0, "supervised.batch_size", wanted)
    reached = cfg.backbone_facts.gradient_through_trace or rl.context_gradient != "full"
    boundary = f"stage_boundary or auto for backbone: {cfg.backbone}: no gradient flows through the trace that it reads"
    require(reached, "rl.context_gradient", boundary)
    episodes, steps = rl.prompts_per_rollout * rl.group_size, rl.epochs if rl.epoch_convention == "halves" else 1
    each = f"the {episodes // steps} episodes of an optimiser step"
    require(episodes // steps % n == 0, "processes", f"a divisor of {each}, got {n}")


def load(path: str | Path) -> RunConfig:
    """Read a resolved run configuration. Raises UserError naming the file and the key."""
    data = read_json(path)
    with error_prefix(path):
        return from_dict(RunConfig, data)
