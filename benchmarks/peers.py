"""The same work done here and by peers, in turns: ratios of median times.

    python benchmarks/peers.py [--only flow_grpo] [--repeats 20]

``trl``: a GRPO rollout of text with two updates, against TRL's GRPOTrainer on a causal LM of the reasoning expert's
sizes (needs ``pip install -e .[bench]``). ``flow_grpo``: a FlowGRPO-Fast step on images, against the loop of the public
Flow-GRPO code, ``train_sd3_fast.py``. That code is on no package index, so its side is our own plain re-statement of
the loop's structure on our network (:func:`flow_grpo_loop`). One thread. Prints a table in Markdown and writes all of
it as JSON.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrpo.core.errors import in_one_line
from unigrpo.core.settings import replace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`, which is not installed

from benchmarks import phases
from unigrpo.core import seeding
from unigrpo.core.files import write_json
from unigrpo.episodes.rollout import Draw, Rollout, stochastic_steps
from unigrpo.episodes.slices import Networks
from unigrpo.methods import grpo
from unigrpo.models.checkpoint import new_model
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.mot_model import MoTModel, PatchCodec, build_tokenizer
from unigrpo.objectives import flow
from unigrpo.objectives.advantages import group_advantages
from unigrpo.sampling.engine import normal
from unigrpo.study.config import ModelConfig, RLConfig, RunConfig
from unigrpo.study.provenance import ROOT
from unigrpo.training.launch import accelerate_for
from unigrpo.training.learner import Learner, optimizer_for
from unigrpo.training.loop import update
from unigrpo.training.task import draw_prompts

SEED, GROUP, PROMPTS = 0, 8, 2
PROMPT_TOKENS, TRACE_TOKENS, VOCABULARY = 8, 32, 256
IMAGE = ModelConfig(
    hidden_size=64,
    intermediate_size=152,
    layers=3,
    heads=4,
    kv_heads=2,
    image_size=64,
    latent_channels=4,
    latent_downsample=8,
    latent_patch=2,
)

Laps = list[tuple[float, float]]  # seconds of the peer and of ours, a pair a round


def timed(work: Callable[[int], None], index: int) -> float:
    begun = time.perf_counter()
    work(index)
    return time.perf_counter() - begun


def advantages_of(rewards: Tensor, rl: RLConfig) -> Tensor:
    """(B,) of rewards (B,), prompt-major."""
    groups = [i // rl.group_size for i in range(len(rewards))]
    return group_advantages(rewards, groups, ddof=rl.advantage_ddof, eps=rl.advantage_eps)[0]


def learn(run: Learner, rollout: Rollout, rewards: Tensor) -> None:
    """All updates of a rollout, as training does them."""
    rl = run.cfg.rl
    for slices in grpo.make_slices(run.nets, rollout, dict.fromkeys(rl.train, advantages_of(rewards, rl)), rl):
        update(run, slices, rl)


# ---- images ------------------------------------------------------------------------------------------------


def redness(images: Tensor, prompts: list) -> Tensor:
    """(B,) mean of red minus blue: a reward that costs nothing."""
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def image_settings(cfg: RunConfig) -> RunConfig:
    """The FlowGRPO-Fast step: 16 images of 64 x 64 px, latents 4 x 8 x 8, 10 steps, window 3, one update."""
    sizes = {"prompts_per_rollout": PROMPTS, "group_size": GROUP, "micro_batch": 8, "steps": 10, "window_size": 3}
    objective = {"ratio": "plain", "regulariser": "latent_kl", "image_scale": 1.0, "epochs": 1}
    rl = replace(cfg.rl, train=("image",), thinking=False, **sizes, **objective)
    return replace(cfg, model=IMAGE, rl=rl, threads=1)


def flow_grpo_loop(nets: Networks, prompts: list, rl: RLConfig, index: int, optimizer, trained: dict) -> None:
    """One epoch of Flow-GRPO-Fast's loop: batches are sampled one after the other, each sample's prompt encoded, with
    log-probs noted during sampling; then every batch is trained on step by step of its window, one evaluation of the
    policy and one of the reference each, gradients accumulated up to one optimiser step. Prompt encodings are kept
    from sampling. The draws are those of ``unigrpo.episodes.rollout``, so the gradient is too."""
    model, b = nets.model, len(prompts) * rl.group_size
    window, times = stochastic_steps(rl, SEED, index), flow.time_grid(rl.steps, rl.shift, rl.grid)
    start = normal(SEED, "start", [(index, p) for p in range(len(prompts))], model.latent_shape)
    start = start.repeat_interleave(rl.group_size, 0)
    noise = normal(SEED, "noise", [(index, i) for i in range(b)], (len(window), *model.latent_shape))
    ids = [torch.tensor(row) for row in model.prompt_ids([p.text for p in prompts]) for _ in range(rl.group_size)]
    step_of = {"noise_level": rl.noise_level, "t_max": times[1].item()}

    samples, rewards = [], []
    for rows in (range(k, k + rl.micro_batch) for k in range(0, b, rl.micro_batch)):
        with torch.no_grad():
            part = [ids[i] for i in rows]
            lengths = torch.tensor([len(row) for row in part])
            padded = pad_sequence(part, batch_first=True)
            contexts = [
                m.mot.encode_text(padded, torch.arange(padded.shape[1]) < lengths[:, None])[1]
                for m in (model, nets.reference)
            ]
            x, states, log_probs = start[list(rows)], [], []
            for k, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
                v = model.velocity(contexts[0], x, t.expand(len(x)))
                if k in window:
                    step = flow.sde_step(x, v, t, t_next, noise=noise[list(rows), len(states)], **step_of)
                    states.append((t, t_next, x, step.prev))
                    log_probs.append(-0.5 * (((step.prev - step.mean) / step.std[:, None, None]) ** 2).mean((1, 2)))
                    x = step.prev
                else:
                    x = flow.euler_step(x, v, t, t_next)
            rewards.append(redness(model.decode(x), prompts))
        samples.append((contexts, states, log_probs))

    advantages = advantages_of(torch.cat(rewards), rl).split(rl.micro_batch)
    for (contexts, states, log_probs), advantage in zip(samples, advantages, strict=True):
        for (t, t_next, x, after), old in zip(states, log_probs, strict=True):
            new = flow.sde_step(x, model.velocity(contexts[0], x, t.expand(len(x))), t, t_next, prev=after, **step_of)
            with torch.no_grad():
                v = nets.reference.velocity(contexts[1], x, t.expand(len(x)))
                reference = flow.sde_step(x, v, t, t_next, prev=after, **step_of)
            std = new.std[:, None, None]
            ratio = (-0.5 * (((after - new.mean) / std) ** 2).mean((1, 2)) - old).exp()
            clipped = ratio.clamp(1 - rl.clip_image, 1 + rl.clip_image)
            policy = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
            kl = (((new.mean - reference.mean) / std) ** 2).mean() / 2
            ((policy + rl.latent_kl_weight * kl) / (len(samples) * len(states))).backward()
    for parameters in trained.values():
        torch.nn.utils.clip_grad_norm_(parameters, rl.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def flow_grpo(cfg: RunConfig, repeats: int) -> tuple[Laps, dict]:
    """Rounds of the image step, and its sizes."""
    cfg = image_settings(cfg)
    accelerator, rl, start = accelerate_for(cfg), cfg.rl, new_model(cfg)
    ours, theirs = (Networks(copy.deepcopy(start), start.requires_grad_(False), redness) for _ in range(2))
    for nets in (ours, theirs):
        nets.model.requires_grad_(True)
    (optimizer, trained), theirs_too = (optimizer_for(nets.model, rl) for nets in (ours, theirs))
    run = Learner(cfg, ours, optimizer, trained, accelerator)

    def our_step(index: int) -> None:
        rollout = grpo.roll_out(ours, Draw(draw_prompts(SEED, index, PROMPTS), rl, 0, SEED, index))
        rewards = redness(rollout.image.images, [])
        learn(run, rollout, rewards)

    def their_step(index: int) -> None:
        flow_grpo_loop(theirs, draw_prompts(SEED, index, PROMPTS), rl, index, *theirs_too)

    laps = [(timed(their_step, k), timed(our_step, k)) for k in range(1 + repeats)]
    return laps[1:], {"parameters": sum(p.numel() for p in start.mot.parameters())}


# ---- text --------------------------------------------------------------------------------------------------


def evenness(ids: list[int]) -> float:
    """Share of even token numbers: a reward that costs nothing."""
    return sum(i % 2 == 0 for i in ids) / len(ids)


def text_model() -> MoTModel:
    """Reasoning expert of 2 layers, width 64, vocabulary 256; its twin for images goes unused."""
    tokenizer = build_tokenizer([f"w{i}" for i in range(VOCABULARY - 5)])
    sizes = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 4, "kv_heads": 2}
    image = {"latent_channels": 4, "latent_patch": 2, "max_latent_size": 1}
    frames = dict(zip(("bos_id", "eos_id", "start_of_image_id", "end_of_image_id"), range(4), strict=True))
    mot = MoT(MoTConfig(vocab_size=VOCABULARY, **sizes, **image, **frames))
    mot.initialise(seeding.generator(SEED, "initialise"))
    return MoTModel(mot, PatchCodec(4, 2, 8), tokenizer, 16)


def trl(cfg: RunConfig, repeats: int) -> tuple[Laps, dict]:
    """Rounds of the text step, taken between TRL's own steps, and its sizes."""
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    sizes = {"prompts_per_rollout": PROMPTS, "group_size": GROUP, "micro_batch": PROMPTS * GROUP, "epochs": 2}
    rl = replace(cfg.rl, train=("text",), epoch_convention="repeat", **sizes)
    cfg, model = replace(cfg, threads=1, rl=rl), text_model()
    run = Learner(cfg, Networks(model, model, redness), *optimizer_for(model, rl), accelerate_for(cfg))
    words = [" ".join(f"w{8 * p + i}" for i in range(PROMPT_TOKENS)) for p in range(PROMPTS)]
    framed = model.prompt_ids([" ".join(text.split()[:-2]) for text in words])  # begin and end take two places

    def our_step(index: int) -> None:
        ids = [row for row in framed for _ in range(GROUP)]
        uniforms = torch.rand(len(ids), TRACE_TOKENS, generator=seeding.generator(SEED, "text", index))
        trace, _ = model.think(ids, TRACE_TOKENS, uniforms, rl.temperature)
        rewards = torch.tensor([evenness(t[m].tolist()) for t, m in zip(trace.tokens, trace.mask, strict=True)])
        learn(run, Rollout((None,) * len(ids), ids, (trace,), 0, TRACE_TOKENS), rewards)

    laps: Laps = []

    class Turns(TrainerCallback):
        """After every second step of the trainer, which ends a round of its, comes one of ours."""

        def on_train_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, _, state, *__, **___):
            if state.global_step % rl.epochs == 0:
                theirs = time.perf_counter() - self.begun
                laps.append((theirs, timed(our_step, len(laps))))
                self.begun = time.perf_counter()

    network = model.mot.config
    causal = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=network.hidden_size,
            intermediate_size=network.intermediate_size,
            num_hidden_layers=network.layers,
            num_attention_heads=network.heads,
            num_key_value_heads=network.kv_heads,
            tie_word_embeddings=False,
            bos_token_id=network.bos_id,
            eos_token_id=network.eos_id,
        )
    )
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # the trainer prints a summary
        GRPOTrainer(
            causal,
            reward_funcs=lambda completion_ids, **_: [evenness(ids) for ids in completion_ids],
            train_dataset=Dataset.from_dict({"prompt": words}),
            processing_class=model.tokenizer,
            callbacks=[Turns()],
            args=GRPOConfig(
                folder,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                num_iterations=rl.epochs,
                max_completion_length=TRACE_TOKENS,
                max_steps=rl.epochs * (1 + repeats),
                beta=0.0,
                loss_type="grpo",
                epsilon=rl.clip_text,
                learning_rate=rl.lr_text,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        ).train()
    expert = sum(p.numel() for p in model.mot.expert_parameters()["text"])
    return laps[1:], {"parameters": sum(p.numel() for p in causal.parameters()), "our_parameters": expert}


# ---- both --------------------------------------------------------------------------------------------------

PEERS = {
    "trl": (trl, "text: 2 prompts x 8, 8 + 32 tokens, two updates", "TRL's GRPOTrainer"),
    "flow_grpo": (
        flow_grpo,
        "images: 2 prompts x 8, 64 x 64 px, 10 steps, window 3",
        "Flow-GRPO-Fast's loop, re-stated by us",
    ),
}


def summary(laps: Laps) -> dict:
    """Medians with extremes of both sides, and ours over the peer's."""
    sides = {
        name: {"seconds": statistics.median(laps), "fastest": min(laps), "slowest": max(laps)}
        for name, laps in zip(("peer", "ours"), zip(*laps, strict=True), strict=True)
    }
    return {**sides, "ratio": sides["ours"]["seconds"] / sides["peer"]["seconds"]}


def table(result: dict) -> str:
    """The comparisons as a Markdown table."""
    lines = ["| work | peer | peer, seconds | ours, seconds | ours / peer |", "|---|---|---:|---:|---:|"]
    for name, row in result["pairs"].items():
        seconds = f"{row['peer']['seconds']:.3f} | {row['ours']['seconds']:.3f} | {row['ratio']:.2f}"
        lines.append(f"| {PEERS[name][1]} | {PEERS[name][2]} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the same work here and at peers.")
    parser.add_argument("--only", choices=PEERS, help="one comparison (default: all)")
    parser.add_argument("--repeats", type=int, default=20, help="measured rounds (default: 20)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "peers.json")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats: expected at least 1")
    chosen = [args.only] if args.only else list(PEERS)
    if "trl" in chosen and importlib.util.find_spec("trl") is None:
        parser.error("trl is not installed: pip install -e .[bench], or --only flow_grpo")
    cfg = phases.configurations("cpu", None)[0]
    pairs = {}
    for name in chosen:
        laps, sizes = PEERS[name][0](cfg, args.repeats)
        pairs[name] = summary(laps) | sizes
    circumstances = phases.circumstances(torch.device("cpu"), 1)
    write_json(args.out, {"repeats": args.repeats, "warm_up": 1, "pairs": pairs, "provenance": circumstances})
    print(table({"pairs": pairs}))


if __name__ == "__main__":
    in_one_line(main)
