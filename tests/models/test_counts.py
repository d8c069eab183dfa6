"""What the loops over tokens and denoising steps ask of a device: counted, so that no device is needed."""

from __future__ import annotations

import copy

import pytest
import torch

from tests._support import release, released_pair, tiny  # isort: skip  # before the libraries: it lets torchvision import

from tests._support.tracing import DEVICE, traced
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint, mot, writing
from unigrpo.models.backbones.llm_dit.pair import LlmDit
from unigrpo.models.base import Trace
from unigrpo.models.mot_pieces import Context, Growing
from unigrpo.objectives import flow
from unigrpo.sampling.painting import Guidance, contexts, paint
from unigrpo.study.facts import BACKBONES
from unigrpo.training import launch

LAYERS = 28  # BAGEL-7B's
PROMPTS = ["a photo of a red circle", "a photo of two blue hearts"]
SMALL = mot.MoTConfig(100, 32, 32, LAYERS, 4, 2, 4, 2, 4, 0, 1, 2, 3)
GUIDED = Guidance(3.0, 2.0, (0.4, 1.0), "global")


@pytest.fixture(scope="module", params=BACKBONES.names())
def model(request, tmp_path_factory):
    """A small one of every backbone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "world":
        return tiny.model()
    if request.param == "bagel":
        release.write(folder)
        return checkpoint.load_model(folder).eval()
    released_pair.write(folder)
    sources = {"released": str(folder / "pipeline"), "language_model": str(folder / "language_model")}
    settings = {"backbone": "llm_dit", "source": "released", "model": released_pair.MODEL, **sources}
    cfg = tiny.run_config("base", rl=replace(tiny.RL, lora_rank=2), **settings)
    BACKBONES.load("llm_dit").adopt(cfg, folder / "base", {})
    return checkpoint.load_model(folder / "base").eval()


def without_numbers(x):
    return x.to(DEVICE)


def empty_of(model):
    """The model without numbers; of a pair, whose copies share what was released, the painter alone."""
    if hasattr(model, "mot"):
        return model.with_network(copy.deepcopy(model.network).to(DEVICE))
    painter = copy.copy(model)
    painter._modules = model._modules | {"transformer": copy.deepcopy(model.transformer).to(DEVICE)}
    return painter


@pytest.mark.parametrize("kind", ["sde", "cps", "dance"])
@torch.no_grad()
def test_denoising_steps_neither_wait_for_the_device_nor_send_to_it(model, kind):
    """Every branch of guidance, an interval, and stochastic steps. The grid is sent once, before the loop."""
    ids = model.prompt_ids(PROMPTS)
    trace = model.trace_from_texts(["red", "blue heart"])
    seen = contexts(model, ids, trace, model.encode(ids, trace)[1], GUIDED)
    seen = {name: context.map(without_numbers) for name, context in seen.items()}
    empty = empty_of(model)
    x = torch.empty(2, *model.latent_shape, device=DEVICE)
    found = []
    for steps in (4, 8):
        noise = torch.empty(2, 2, *model.latent_shape, device=DEVICE)
        with traced() as (ops, _):
            window = {"window": (1, 2), "transition": kind, "noise_level": 0.7, "noise": noise}
            paint(empty, seen, x, flow.time_grid(steps, 3.0, "steps"), GUIDED, **window)
        assert not ops.readings
        found.append(ops.transfers)
    assert found[0] == found[1] and len(found[0]) <= 1


@torch.no_grad()
def written(net, tokens, rows=3):
    """Ops of writing so many tokens after contexts of 7, and how often it was asked whether all texts have ended."""
    cache = tuple(torch.empty(rows, 2, 7, 8, device=net.vae2llm.weight.device) for _ in range(net.config.layers))
    context = Context(cache, cache, None, torch.zeros(rows, dtype=torch.long, device=cache[0].device))
    uniforms = torch.full((rows, tokens), 0.5, device=cache[0].device)
    with traced() as (ops, fused):
        net.generate_text(context, tokens, temperature=1.0, uniforms=uniforms)
    return ops, fused


@pytest.fixture
def unread(monkeypatch):
    """Nobody reads what was written, and no text ends; how often it was asked."""
    asked = []
    monkeypatch.setattr(writing, "finished", lambda alive: asked.append(len(alive)))
    monkeypatch.setattr(Trace, "select", lambda self, index: self)
    monkeypatch.setattr(Growing, "context", lambda self: None)
    monkeypatch.setattr(LlmDit, "encode", lambda self, questions, trace: (None, None))
    return asked


def test_writing_asks_the_device_every_16_tokens(unread):
    net = mot.MoT(replace(SMALL, layers=2)).to(DEVICE)
    ops, _ = written(net, 64)
    assert not ops.readings and not ops.transfers and len(unread) == 4


@torch.no_grad()
def test_writing_after_questions_asks_the_device_every_16_tokens(model, unread, monkeypatch):
    """With prompts of different lengths, whose reading by transformers alone looks at the mask: once."""
    found = []
    for tokens in (16, 64):
        with traced() as (ops, _):
            model.think(model.prompt_ids(PROMPTS), tokens, torch.full((2, tokens), 0.5), 1.0)
        found.append((len(ops.readings), len(ops.transfers)))
    assert found[0] == found[1] and len(unread) == 1 + 4


def test_kernels_of_a_token(unread):
    """At 28 layers; in half precision with its casts, of weights that are held in it."""
    net = mot.MoT(SMALL).requires_grad_(False)
    plain = [len(written(copy.deepcopy(net).to(DEVICE), n)[0].kernels) for n in (4, 8)]
    assert (plain[1] - plain[0]) / 4 == 673

    model = tiny.model().with_network(net)
    launch.hold(model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        half = [len(written(model.network, n)[0].kernels) for n in (4, 8)]
    assert (half[1] - half[0]) / 4 == 843 <= 900


def test_the_count_sees_what_it_is_to_see():
    x = torch.empty(3, device=DEVICE)
    with traced() as (ops, _):
        torch.tensor([1.0, 2.0], device=DEVICE), torch.zeros(3).to(x.device), x + 1, x[1:]
        for reading in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x.nonzero()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                reading()
    assert len(ops.transfers) == 2 and len(ops.readings) == 3
    assert [name for name in ops.kernels if name.startswith("aten.add")] == ["aten.add.Tensor"]
    assert not any("slice" in name for name in ops.kernels)


@torch.no_grad()
def test_equal_contexts_have_no_mask(model):
    """From the prompts, and from equal traces, to the attention."""
    ids = model.prompt_ids(PROMPTS[:1] * 3)
    uniforms = torch.full((3, 8), 0.3)
    _, thought = model.think(ids, 8, uniforms, 1.0)
    _, ragged = model.think(ids, 8, torch.rand(3, 8, generator=torch.Generator().manual_seed(1)), 1.0)
    for rows, context in (
        (3, model.read_prompts(ids)),
        (3, thought),
        (1, ragged.select([1])),
        (3, model.empty_context(3)),
    ):
        with traced() as (_, fused):
            model.velocity(context, torch.zeros(rows, *model.latent_shape), torch.full((rows,), 0.5))
        assert fused.masks and all(mask is None for mask in fused.masks)
