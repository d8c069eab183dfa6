"""Every backbone's model is what the protocol says: members, their parameters, and the shapes that go in and out."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
from torch import nn

from tests._support import release, released_pair, tiny  # isort: skip  # before the libraries: it lets torchvision import

from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.models.base import PaintContext, States, Trace, UnifiedModel
from unigrpo.models.checkpoint import backbone_of
from unigrpo.study.facts import BACKBONES

PROMPTS = ["a photo of a red circle", "a photo of a star"]
METHODS = [name for name, member in vars(UnifiedModel).items() if inspect.isfunction(member) and name[0] != "_"]
CONTEXT = [name for name, member in vars(PaintContext).items() if inspect.isfunction(member) and name[0] != "_"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of every backbone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.model().save(folder / "world", {})
    release.write(folder / "bagel")
    released_pair.write(folder)
    sources = {"released": str(folder / "pipeline"), "language_model": str(folder / "language_model")}
    settings = {"backbone": "llm_dit", "source": "released", "model": released_pair.MODEL, **sources}
    cfg = tiny.run_config("base", rl=replace(tiny.RL, lora_rank=2), **settings)
    BACKBONES.load("llm_dit").adopt(cfg, folder / "llm_dit", {})
    return folder


@pytest.fixture(scope="module", params=BACKBONES.names())
def model(request, folders):
    return checkpoint.load_model(folders / request.param).eval()


@pytest.mark.parametrize("name", BACKBONES.names())
def test_a_folder_belongs_to_one_backbone(folders, name):
    assert [other for other in BACKBONES.names() if BACKBONES.load(other).holds(folders / name)] == [name]
    assert backbone_of(folders / name) is BACKBONES.load(name)
    for word in ("FILES", "TELLS", "LICENCE", "WHAT", "part_of", "summary"):
        assert hasattr(backbone_of(folders / name), word)


def test_a_folder_of_no_backbone_is_named(folders, tmp_path):
    with pytest.raises(UserError, match=r"model\.json: not found, expected the folder of a model"):
        checkpoint.load_model(tmp_path)
    shutil.copytree(folders / "world", tmp_path / "other")
    card = tmp_path / "other/model.json"
    card.write_text(card.read_text().replace("{", '{"backbone": "other", ', 1))
    with pytest.raises(UserError, match=r"model\.json: backbone: expected one of bagel, llm_dit, world"):
        checkpoint.load_model(tmp_path / "other")


def test_members_and_their_parameters(model):
    assert isinstance(model, UnifiedModel) and isinstance(model, nn.Module)
    for name in METHODS:
        wanted = list(inspect.signature(getattr(UnifiedModel, name)).parameters.values())[1:]
        own = list(inspect.signature(getattr(model, name)).parameters.values())
        assert [(p.kind, p.default) for p in own] == [(p.kind, p.default) for p in wanted], name


@torch.no_grad()
def test_shapes(model):
    tokens, width = model.latent_shape
    ids = model.prompt_ids(PROMPTS)
    uniforms = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    trace, context = model.think(ids, 5, uniforms, 1.0)
    assert isinstance(trace, Trace) and trace.tokens.shape == trace.mask.shape and trace.tokens.shape[0] == 2
    assert trace.tokens.dtype == torch.int64 and trace.mask.dtype == torch.bool and trace.tokens.shape[1] <= 5
    hidden, again = model.encode(ids, trace)
    for found in (*model.text_logp(hidden, trace, 1.0),):
        assert found.shape == trace.mask.shape and found.dtype == torch.float32 and (found[~trace.mask] == 0).all()
    x, t = torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.3])
    velocity = model.velocity(context, x, t)
    assert velocity.shape == x.shape and velocity.dtype == torch.float32
    assert torch.allclose(model.velocity(again, x, t), velocity, atol=1e-4)
    images = model.decode(x)
    assert images.shape == (2, 3, model.image_size, model.image_size) and images.min() >= 0 and images.max() <= 1
    assert model.encode_images(images).shape == x.shape
    assert model.encode(ids, None)[0] is None
    written = model.trace_texts(trace)
    assert len(written) == 2 and all(isinstance(text, str) for text in written)
    given = model.trace_from_texts(["red circle center", None])
    assert given.mask.any(1).tolist() == [True, False]


@torch.no_grad()
def test_contexts(model):
    """Selected and dropped, by what they paint."""
    tokens, width = model.latent_shape
    ids = model.prompt_ids(PROMPTS)
    context, empty = model.read_prompts(ids), model.empty_context(2)
    assert all(callable(getattr(context, name)) for name in CONTEXT)
    x, t = torch.randn(4, tokens, width, generator=torch.Generator().manual_seed(2)), torch.full((4,), 0.6)

    def paint(context, rows):
        return model.velocity(context, x[rows], t[rows])

    first, second = (paint(model.read_prompts([one]), [row]) for row, one in enumerate(ids))
    alone = torch.cat([first, second])
    assert torch.allclose(paint(context, [0, 1]), alone, atol=1e-4)
    assert torch.allclose(paint(context.select(torch.tensor([1, 0])), [1, 0]), alone.flip(0), atol=1e-4)
    grouped = paint(context.select(torch.tensor([0, 0, 1, 1])), [0, 0, 1, 1])
    assert torch.allclose(grouped, alone.repeat_interleave(2, 0), atol=1e-4)
    states, one = States(x[:2, None], t[:2, None]), torch.tensor([True, False])
    dropped = model.replay(ids, [states], ("full",), through=True, dropped=one)[0]["full"][:, 0]
    assert torch.allclose(dropped[0], paint(empty, [0, 1])[0], atol=1e-4)
    assert torch.allclose(dropped[1], alone[1], atol=1e-4)


def test_experts_network_and_files(model, tmp_path):
    parts = model.expert_parameters()
    assert set(parts) == {"text", "image"} and all(p.requires_grad for part in parts.values() for p in part)
    assert isinstance(model.network, nn.Module) and isinstance(model.with_network(model.network), UnifiedModel)
    assert model.device == torch.device("cpu")
    model.save(tmp_path, {"run": "x"})
    again = checkpoint.load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert all((tmp_path / name).exists() for name in backbone_of(tmp_path).FILES)
