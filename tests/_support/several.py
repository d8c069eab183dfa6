"""One of several processes of a training, for tests/training/test_distributed.py: RANK, WORLD_SIZE and the rest
are in the environment, as a launcher sets them. ``python several.py FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from unittest import mock

import torch
from accelerate.state import AcceleratorState

from tests._support import tiny
from unigrpo.core import distributed
from unigrpo.core.files import write_json
from unigrpo.core.settings import replace
from unigrpo.judges import reward as rewards
from unigrpo.judges.reward import Reward
from unigrpo.sampling.engine import Decoding
from unigrpo.study.config import RunConfig, SupervisedConfig
from unigrpo.training import examples, loop, reinforcement_run, supervised_run, task
from unigrpo.world import prompts as world_prompts

STORES = "RENDEZVOUS_PORTS"  # of the stores at which the processes of one run after another meet
IMAGE = {"train": ("image",), "same_noise": False}
UNIFPO = {"method": "fpo", "same_noise": False, "matching_samples": 2}
CASES = {  # changes of tiny.RL, and of the run
    "joint": ({"text_reduction": "dapo"}, {}),
    "groups": ({"prompts_per_rollout": 2, "group_size": 6, "rollouts": 1}, {}),  # which are split
    "ddrl": ({"method": "ddrl", "regulariser": "none", "rollouts": 1}, {}),
    # the first process makes half of the second group, and fails for it and for the first: it has nothing to learn from
    "dropped": (
        {
            "prompts_per_rollout": 3,
            "group_size": 4,
            "epoch_convention": "repeat",
            "text_reduction": "dapo",
            "reward_failure": "drop",
            "rollouts": 1,
        },
        {},
    ),
    "gardo": ({"method": "gardo", "gardo_share": 0.3, "epoch_convention": "repeat", "rollouts": 1}, {}),
}
SHARDED = {
    "joint": ({"text_reduction": "dapo"}, {"sharding": True, "activation_checkpointing": True}),
    "boundary": ({"context_gradient": "stage_boundary", "rollouts": 1, "micro_batch": 1}, {"sharding": True}),
    "refl": (IMAGE | {"method": "refl", "guidance": 2.0, "rollouts": 1}, {"sharding": True}),
    "nft": (IMAGE | {"method": "nft", "matching_samples": 2}, {"sharding": True}),
    "bf16": ({"rollouts": 1}, {"sharding": True, "precision": "bf16"}),
}
SUPERVISED = {"split": {}, "sharded": {"sharding": True, "activation_checkpointing": True}}  # changes of the run
HALF = {"sharding": True, "activation_checkpointing": True, "precision": "bf16"}  # as at scale paper


def fine_tuning(**changes) -> RunConfig:
    settings = SupervisedConfig(
        steps=4, batch_size=8, warmup=2, lr=1e-2, ema_decay=0.5, validate_every=4, checkpoint_every=2
    )
    return tiny.run_config("sft", supervised=settings, **changes)


def configured(name: str, cases: dict, **changes) -> RunConfig:
    rl, run = cases[name]
    settings = {
        "rollouts": 2,
        "validate_every": 2,
        "micro_batch": 3,
    } | rl  # slices are of the same episodes, however they are split
    return tiny.run_config("rl", rl=tiny.reinforcement(**settings), **(run | changes))


def brightness(images: torch.Tensor, prompts: list) -> torch.Tensor:
    """A reward that no two images share."""
    return images.mean((1, 2, 3)) + torch.tensor([0.01 * len(p.text) for p in prompts])


brightness.differentiable = True


def picky(images: torch.Tensor, prompts: list) -> torch.Tensor:
    """The same, but the main process gets no score for the first two of three prompts of the first rollout."""
    if distributed.is_main() and {p.id for p in task.draw_prompts(3, 0, 3)[:2]} & {p.id for p in prompts}:
        raise TimeoutError("no reply")
    return brightness(images, prompts)


def few_prompts(name: str, real=world_prompts.prompt_set) -> list:
    """Validation on four prompts."""
    return real(name)[:4] if name == "val" else real(name)


def run(cfg: RunConfig, out: Path, start: Path) -> None:
    if cfg.processes > 1:  # each group of processes meets at a store of its own: nobody else can take its port
        os.environ["MASTER_PORT"], _, os.environ[STORES] = os.environ[STORES].partition(" ")
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of its first use
    with mock.patch.object(world_prompts, "prompt_set", few_prompts):
        if cfg.stage == "sft":
            supervised_run.train(cfg, out, start / "init")
        else:
            decoding = Decoding(cfg.rl.thinking, 2.0, 0.7)
            drops = cfg.rl.reward_failure == "drop" and cfg.rl.group_size == 4
            reward = Reward("picky", picky, False) if drops else brightness
            with mock.patch.object(rewards, "PAUSES", ()):
                reinforcement_run.train(cfg, out, start / "init", reward, decoding)
    # a group that outlives the training ends its process with an error, now and then
    assert not torch.distributed.is_initialized() and distributed._over_hosts.cache_info().currsize == 0
    AcceleratorState._reset_state(reset_partial_state=True)


class Killed(Exception):
    pass


def killed(cfg: RunConfig, out: Path, start: Path) -> None:
    """The same, ended after the first state was saved: in the second rollout, or the third step."""
    module, name, last = (examples, "draw_examples", 2) if cfg.stage == "sft" else (loop, "draw_prompts", 1)
    original = getattr(module, name)

    def deadly(source, index, *rest):
        if index == last:
            raise Killed
        return original(source, index, *rest)

    setattr(module, name, deadly)
    try:
        run(cfg, out, start)
    except Killed:
        setattr(module, name, original)
        distributed.leave()  # when the main process has written
        AcceleratorState._reset_state(reset_partial_state=True)


def stopped(cfg: RunConfig, out: Path, start: Path) -> None:
    """The same, ended in the second rollout by a signal that the second process alone gets."""
    original = loop.draw_prompts

    def signalled(source, index, *rest):
        if index == 1 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(source, index, *rest)

    with mock.patch.object(loop, "draw_prompts", signalled):
        try:
            run(cfg, out, start)
        except SystemExit as end:
            assert end.code == 128 + signal.SIGTERM
        else:
            raise AssertionError("expected an end by the signal")
    AcceleratorState._reset_state(reset_partial_state=True)


def held(cfg: RunConfig, out: Path, start: Path) -> dict[str, int]:
    """Run it; bytes of weights and of optimiser state that this process held of it."""
    original, found = reinforcement_run.optimizer_for, []

    def kept(model, rl):
        found.extend([model, original(model, rl)])
        return found[1]

    reinforcement_run.optimizer_for = kept
    run(cfg, out, start)
    reinforcement_run.optimizer_for = original
    model, (optimizer, _) = found
    moments = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    kinds = {"weights": list(model.parameters()), "optimiser": moments}
    return {
        kind: sum(t.to_local().nbytes for t in tensors if distributed.is_split(t)) for kind, tensors in kinds.items()
    }


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for kind, cases in (("split", CASES), ("sharded", SHARDED)):
        for name in [name for name in cases if name != "bf16"]:
            run(configured(name, cases, processes=2), folder / kind / name, folder)
        cfg = configured("joint", cases, processes=2)
        killed(cfg, folder / kind / "killed", folder)
        run(cfg, folder / kind / "killed", folder)
        cfg = replace(cfg, rl=replace(cfg.rl, checkpoint_every=9))
        stopped(cfg, folder / kind / "stopped", folder)
        run(cfg, folder / kind / "stopped", folder)
        cfg = fine_tuning(processes=2, **SUPERVISED[kind])
        run(cfg, folder / kind / "sft", folder)
        killed(cfg, folder / kind / "sft_killed", folder)
        run(cfg, folder / kind / "sft_killed", folder)
    run(fine_tuning(processes=2, **HALF), folder / "sharded" / "sft_bf16", folder)
    told = held(configured("bf16", SHARDED, processes=2), folder / "sharded" / "bf16", folder)
    write_json(folder / f"held{os.environ['RANK']}.json", told)


if __name__ == "__main__":
    main()
