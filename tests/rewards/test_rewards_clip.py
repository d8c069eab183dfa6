"""CLIPScore, PickScore, HPS and the aesthetic predictor: small checkpoints in the published layouts, through the real
loaders; scores against the libraries' own path from an image file to an embedding."""

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from rewards._support import pixels
from tests._support import published
from tests._support.published import PROMPTS, images
from tests.evals.test_evals_pictures import write_official
from unigrpo.__main__ import call
from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.judges import reward as rewards


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return published.clip(tmp_path_factory.mktemp("clip"))


def by_the_library(folder, texts, pictures):
    """CLIPModel's output on image files, by its own processor."""
    from transformers import CLIPModel, CLIPProcessor

    files = [Image.fromarray(p) for p in pixels.to_uint8(pictures)]
    inputs = CLIPProcessor.from_pretrained(folder)(text=texts, images=files, return_tensors="pt", padding=True)
    with torch.no_grad():
        return CLIPModel.from_pretrained(folder).eval()(**inputs)


@pytest.mark.parametrize("side", [32, 48, 20])
def test_pixels_are_those_of_an_image_file(clip, side):
    from transformers import CLIPImageProcessor

    pictures = images(2, side)
    files = [Image.fromarray(p) for p in pixels.to_uint8(pictures)]
    theirs = CLIPImageProcessor.from_pretrained(clip)(files, return_tensors="pt")["pixel_values"]
    assert (pixels.clip_input(pictures, 32) - theirs).abs().max() < 2 / 255 / min(pixels.CLIP_STD)


def test_an_oblong_image_is_cut_in_the_middle():
    wide = torch.zeros(1, 3, 16, 48)
    wide[..., 16:32] = 1
    assert torch.equal(pixels.square(wide, 16), torch.ones(1, 3, 16, 16))
    assert pixels.square(torch.rand(1, 3, 33, 20), 16).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("size", [(16, 48), (48, 20), (33, 32)])
def test_an_oblong_image_is_shown_whole_to_hps(size):
    """The library's resizing of the longer side and its centred border."""
    from torchvision.transforms import functional

    smooth = torch.nn.functional.interpolate(images(1), size, mode="bilinear")
    image = Image.fromarray(pixels.to_uint8(smooth)[0])
    scaled = tuple(round(length * 32 / max(size)) for length in size)
    theirs = functional.resize(image, scaled, functional.InterpolationMode.BICUBIC)
    down, right = 32 - scaled[0], 32 - scaled[1]
    theirs = functional.pad(theirs, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
    ours = pixels.letterboxed(functional.to_tensor(image)[None], 32)
    assert (ours[0] - functional.to_tensor(theirs)).abs().max() < 2 / 255


def test_hps_sees_the_edges(hps):
    reward, wide = rewards.load("hps", **hps[1]), torch.rand(1, 3, 32, 64)
    narrow = wide.clone()
    narrow[..., :8] = 0
    assert not torch.equal(reward(wide, PROMPTS[:1]), reward(narrow, PROMPTS[:1]))
    assert pixels.letterboxed(wide, 32)[0, :, [0, 31]].abs().max() == 0


def test_clip_score_is_its_definition(clip):
    prompts = [p for p in PROMPTS for _ in range(6)]
    pictures = images(6).repeat(3, 1, 1, 1)
    score = rewards.load("clip_score", weights=str(clip), prefix="of ", device="cpu")(pictures, prompts)
    theirs = by_the_library(clip, [f"of {p.text}" for p in prompts], pictures)
    cosines = (theirs.image_embeds * theirs.text_embeds).sum(-1)
    assert cosines.min() < -0.05 and cosines.max() > 0.05  # both sides of the clip
    assert torch.allclose(score, 2.5 * cosines.clamp(min=0), atol=1e-5)
    usual = rewards.load("clip_score", weights=str(clip), device="cpu")(pictures, prompts)
    theirs = by_the_library(clip, [f"A photo depicts {p.text}" for p in prompts], pictures)
    assert torch.allclose(usual, 2.5 * (theirs.image_embeds * theirs.text_embeds).sum(-1).clamp(min=0), atol=1e-5)


def test_pickscore_is_the_models_own_logit(clip):
    score = rewards.load("pickscore", weights=str(clip), device="cpu", batch_size=2)
    theirs = by_the_library(clip, [p.text for p in PROMPTS], images())
    assert torch.allclose(score(images(), PROMPTS), theirs.logits_per_image.diagonal(), atol=1e-5)
    assert theirs.logits_per_image.std() > 0.05


@pytest.fixture(scope="module")
def aesthetic(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aesthetic")
    torch.save(published.head(12), folder / "aesthetic-model.pth")
    return {"weights": str(folder), "clip_weights": str(clip), "device": "cpu"}


def test_aesthetic_is_the_head_on_the_embedding(clip, aesthetic):
    score = rewards.load("aesthetic", **aesthetic)
    theirs = by_the_library(clip, ["a"] * 3, images()).image_embeds
    expected = published.apply_head(published.head(12), theirs)
    assert torch.allclose(score(images(), PROMPTS), expected, atol=1e-5) and expected.std() > 0.02


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("hps")
    published.open_clip_architecture(folder, "reward-test")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.create_model("reward-test", load_weights=False).eval()
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    return model, {"weights": str(folder), "architecture": "reward-test", "device": "cpu"}


def test_hps_is_the_cosine_of_open_clip(hps):
    import open_clip

    model, options = hps
    transform = open_clip.transform.image_transform(32, is_train=False)
    files = torch.stack([transform(Image.fromarray(p)) for p in pixels.to_uint8(images())])
    with torch.no_grad():
        seen, asked, _ = model(files, open_clip.tokenize([p.text for p in PROMPTS]))[:3]
    expected = (normalize(seen, dim=-1) * normalize(asked, dim=-1)).sum(-1)
    assert torch.allclose(rewards.load("hps", **options)(images(), PROMPTS), expected, atol=1e-5)
    assert expected.std() > 1e-3


def gradient_of(reward, picture, prompt):
    """Of the score in the pixels, and its slope along a random direction by differences."""
    x = picture.double().float().requires_grad_()
    reward(x, [prompt]).sum().backward()
    direction = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [reward((picture + sign * 2e-3 * direction), [prompt]).item() for sign in (1, -1)]
    return (x.grad * direction).sum().item(), (ends[0] - ends[1]) / 4e-3


def test_the_gradient_is_the_slope(clip, aesthetic, hps):
    picture = 0.2 + 0.6 * images(1)
    for name, options in {
        "pickscore": {"weights": str(clip), "device": "cpu"},
        "aesthetic": aesthetic,
        "hps": hps[1],
    }.items():
        reward = rewards.load(name, **options)
        assert reward.differentiable
        exact, slope = gradient_of(reward, picture, PROMPTS[0])
        assert exact == pytest.approx(slope, rel=0.05, abs=1e-3) and abs(slope) > 1e-3, name


# ---- long prompts ------------------------------------------------------------------------------------------


def test_prompts_that_are_cut_are_counted(clip, hps):
    """By the tokens that the library's tokenizer makes without a limit, first and last included; a text once."""
    import open_clip
    from transformers import AutoTokenizer

    words, tokenizer = AutoTokenizer.from_pretrained(clip), open_clip.get_tokenizer("reward-test")
    for name, most, prefix, count, options in (
        ("pickscore", 48, "", lambda text: len(words(text)["input_ids"]), {"weights": str(clip), "device": "cpu"}),
        ("clip_score", 48, "of ", lambda text: len(words(text)["input_ids"]), {"weights": str(clip), "prefix": "of "}),
        ("hps", 77, "", lambda text: len(tokenizer.encode(text)) + 2, hps[1]),
    ):
        texts = ["a red cat", *("a " * n for n in range(most - 8, most + 5)), "a cat " * 50, "a cat " * 50, "!" * 300]
        longer = {text for text in texts if count(prefix + text) > most}
        assert 3 < len(longer) < len(texts) - 6
        reward = rewards.load(name, **options)
        assert reward.cut(texts) == {f"{most} tokens that {name} reads": len(longer)}
        assert reward.cut(texts[:3]) == {} and reward.cut(list(longer)[:1]) == {f"{most} tokens that {name} reads": 1}
        whole = rewards.load("weighted", parts={"p": {"weight": 1.0, "reward": name, "options": options}})
        assert whole.cut(texts) == reward.cut(texts) and rewards.load("jpeg").cut(texts) == {}


def test_a_summary_says_how_many_prompts_were_cut(clip, tmp_path, capsys):
    """Each once, however many pictures it has; also where the pictures were judged before."""
    write_official(tmp_path / "d", [{"prompt": text} for text in ("a cat", "a cat " * 50, "a dog " * 50)])
    options = f'{{"weights": "{clip}", "device": "cpu"}}'
    command = ["judge", "mean_reward", "--images", str(tmp_path / "d"), "--reward", f"pickscore={options}"]
    for _ in range(2):
        assert call(command) == 0
        assert "2 of 3 prompts are longer than the 48 tokens that pickscore reads" in capsys.readouterr().out
        summary = read_json(tmp_path / "d.mean_reward/summary.json")
        assert summary["cut_prompts"] == {"48 tokens that pickscore reads": 2} and summary["images"] == 6


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "name, wanted",
    [
        (
            "hps",
            r"xswu/HPSv2: no such folder here, and HPS_v2\.1_compressed\.pt cannot be fetched .*`hf download xswu",
        ),
        (
            "aesthetic",
            r"trl-lib/ddpo-aesthetic-predictor: no such folder here, and aesthetic-model\.pth cannot be",
        ),
        ("image_reward", r"THUDM/ImageReward: no such folder here, and ImageReward\.pt cannot be fetched"),
        ("pickscore", r"yuvalkirstain/PickScore_v1: no such folder here, and a checkpoint cannot be fetched"),
        ("clip_score", r"openai/clip-vit-base-patch32: no such folder here, and a checkpoint cannot be fetched"),
        ("vlm_yes", r"Qwen/Qwen2\.5-VL-7B-Instruct: no such folder here, and a checkpoint cannot be fetched"),
    ],
)
def test_what_cannot_be_had_is_one_line(offline, capfd, name, wanted):
    with pytest.raises(UserError, match=rf"^reward {name}: {wanted}[^\n]*rl\.reward_options\)?$"):
        rewards.load(name, device="cpu")
    assert capfd.readouterr().err == ""


def test_a_source_that_is_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match="^reward hps: weights: expected a file or folder that is there, or a rep"):
        rewards.load("hps", weights="/nowhere/x.pt")
    with pytest.raises(UserError, match="^reward pickscore: .*config.json: is missing, expected beside the weights"):
        rewards.load("pickscore", weights=str(tmp_path))
    (tmp_path / "some.pt").touch()
    assert weights.file(tmp_path / "some.pt", "other.pt") == tmp_path / "some.pt"
    with pytest.raises(UserError, match="^reward aesthetic: .*aesthetic-model.pth: is missing"):
        rewards.load("aesthetic", weights=str(tmp_path))


def test_a_damaged_or_foreign_file_is_named(tmp_path, aesthetic):
    path = tmp_path / "head.pth"

    def said():
        with pytest.raises(UserError) as error:
            rewards.load("aesthetic", **aesthetic | {"weights": str(path)})
        return str(error.value)

    path.write_text("no tensors")
    assert f"{path}: cannot be read" in said()
    torch.save([1, 2], path)
    assert f"{path}: expected tensors by name" in said()
    torch.save({k: v for k, v in published.head(12).items() if k != "layers.4.bias"}, path)
    assert said().startswith(f"{path}: tensor layers.4.bias is missing")
    torch.save(published.head(10), path)
    assert said().startswith(f"{path}: tensor layers.0.weight: expected shape (1024, 12), got (1024, 10)")


def test_a_pickle_with_code_is_not_run(tmp_path, aesthetic):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "head.pth"
    path.write_bytes(pickle.dumps({"layers.0.weight": Trap()}, protocol=2))
    with pytest.raises(UserError, match="cannot be read .*, expected a file of tensors"):
        rewards.load("aesthetic", **aesthetic | {"weights": str(path)})
    assert not (tmp_path / "ran").exists()


def test_a_model_that_lacks_tensors_is_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"a CLIP \(1 missing parameters, among them visual_projection"):
        rewards.load("pickscore", weights=str(tmp_path), device="cpu")


def test_images_of_another_kind_are_refused(clip):
    score = rewards.load("pickscore", weights=str(clip), device="cpu")
    for wrong in (torch.rand(3, 1, 32, 32), torch.rand(2, 3, 32, 32), (images() * 255).byte(), torch.rand(3, 32, 32)):
        with pytest.raises(UserError, match=r"^reward pickscore: expected images \(3, 3, H, W\) of floats in \[0, 1\]"):
            score(wrong, PROMPTS)
    with pytest.raises(UserError, match="^reward pickscore: batch_size: expected at least 1, got 0"):
        rewards.load("pickscore", weights=str(clip), batch_size=0)
