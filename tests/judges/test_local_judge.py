"""A model of transformers as a judge: its probabilities are those that generation tells, batched or not."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests._support import judges
from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.judges.local import LocalVlm

RNG = np.random.default_rng(0)
IMAGES = [
    Image.fromarray(RNG.integers(0, 255, (side, side, 3), dtype=np.uint8)) for side in (56, 64, 56)
]  # of 56 none is resized
QUESTIONS = ["is there a red circle ?", "how many ?", "is there a red circle in the image ?"]
ANSWERS = ["yes", "two", "yes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return judges.save_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def vlm(request, folder, tmp_path_factory):
    other = request.param != "qwen2_vl"
    return LocalVlm(
        judges.save_vlm(tmp_path_factory.mktemp("vlm"), 0, request.param) if other else folder, "cpu", answered=0
    )


def generated(vlm, image, question, forms):
    """Soft-TIFA as published: one token is generated, and the shares of the forms' first tokens summed."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    told = vlm.model.generate(
        **inputs, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    shares = told.scores[0].softmax(-1)[0]
    ids = {vlm.processor.tokenizer.encode(form, add_special_tokens=False)[0] for form in forms}
    return sum(shares[i].item() for i in ids)


def test_probabilities_are_those_of_generation(vlm):
    forms = [("yes", "Yes"), ("two", "2"), ("yes", "Yes")]
    expected = [generated(vlm, *case) for case in zip(IMAGES, QUESTIONS, forms, strict=True)]
    assert vlm.ask(IMAGES, QUESTIONS, ANSWERS) == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 6) for value in expected}) == 3


def test_a_first_token_that_the_template_writes_stands_once(tmp_path):
    vlm = LocalVlm(judges.save_vlm(tmp_path, begins="<s>"), "cpu", answered=0)
    first = vlm.processor.tokenizer.bos_token_id
    assert vlm.processor(text=["yes"])["input_ids"][0][0] == first  # the tokenizer writes it, too
    read = vlm._inputs(IMAGES, QUESTIONS, rescale=True)["input_ids"]
    assert (read == first).sum(1).tolist() == [1, 1, 1] and (read[:, 0] == first).all()
    expected = generated(vlm, IMAGES[0], QUESTIONS[0], ("yes", "Yes"))
    assert vlm.ask(IMAGES[:1], QUESTIONS[:1], ["yes"]) == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_no_no(folder, monkeypatch, odd):
    vlm = LocalVlm(folder, "cpu", answered=0)
    honest = vlm.model.forward

    def second_fails(*arguments, **options):
        found = honest(*arguments, **options)
        found.logits[1] = odd
        return found

    vlm._keeps = True  # of the model's own signature
    monkeypatch.setattr(vlm.model, "forward", second_fails)
    found = vlm.ask(IMAGES, QUESTIONS, ANSWERS)
    assert isinstance(found[1], UserError) and "no finite probability, in float32" in str(found[1])
    assert all(0 < found[place] < 1 for place in (0, 2))
    first, second = vlm.probabilities(torch.rand(2, 3, 56, 56), QUESTIONS[:2], ANSWERS[:2])
    assert 0 < first < 1 and "question 'how many ?': its answer has" in str(second)


def test_a_question_is_answered_where_enough_of_its_first_token_is_an_answer(vlm):
    """YES would be one, too; the score is that of the official spellings."""
    forms = {"yes": ("yes", "Yes", "no", "No"), "two": ("two", "2", "three", "3", "ten", "1", "0")}
    accepted = [generated(vlm, i, q, forms[a]) for i, q, a in zip(IMAGES, QUESTIONS, ANSWERS, strict=True)]
    honest = vlm.ask(IMAGES, QUESTIONS, ANSWERS)
    bound = sorted(accepted)[1]
    vlm.answered = bound * 0.999
    try:
        found = vlm.ask(IMAGES, QUESTIONS, ANSWERS)
    finally:
        vlm.answered = 0
    for value, mass, score, question in zip(found, accepted, honest, QUESTIONS, strict=True):
        if mass >= bound:
            assert value == score
        else:
            assert f"question {question!r}: only {100 * mass:.3g} % of its first token is an answer" in str(value)
    assert sum(isinstance(value, UserError) for value in found) == 1


def test_a_model_that_does_not_answer_is_found_when_it_is_loaded(folder):
    with pytest.raises(UserError, match=r"question 'Is this image red\? .*of its first token is an answer"):
        LocalVlm(folder, "cpu", answered=1)


@pytest.mark.parametrize("odd", ["<|image_pad|>", "<|vision_end|> a", "<unk>", "half \ud83d", "a\0b"])
def test_a_question_that_is_no_text_of_the_model_is_its_own_failure(vlm, odd):
    """A token of the model's own as the prompt has it, or half a character."""
    asked = [QUESTIONS[0], f"is there {odd} ?", QUESTIONS[2]]
    found = vlm.ask(IMAGES, asked, ["yes"] * 3)
    assert isinstance(found[1], UserError) and str(found[1]).isprintable()
    assert [found[0], found[2]] == pytest.approx(vlm.ask(IMAGES[::2], asked[::2], ["yes"] * 2), rel=1e-4)
    pixels = torch.full((3, 3, 56, 56), 0.5)
    kinds = [type(value) for value in vlm.probabilities(pixels, asked, ["yes"] * 3)]
    assert kinds == [torch.Tensor, UserError, torch.Tensor]


def test_batches_do_not_change_answers(vlm):
    alone = [vlm.ask([i], [q], [a])[0] for i, q, a in zip(IMAGES, QUESTIONS, ANSWERS, strict=True)]
    assert vlm.ask(IMAGES, QUESTIONS, ANSWERS) == pytest.approx(alone, rel=1e-4)
    vlm._keeps = False
    try:
        assert vlm.ask(IMAGES, QUESTIONS, ANSWERS) == pytest.approx(alone, rel=1e-4)
    finally:
        vlm._keeps = True


def test_image_and_question_both_count(vlm):
    assert vlm.ask(IMAGES[:1], QUESTIONS[:1], ["yes"]) != pytest.approx(vlm.ask(IMAGES[2:], QUESTIONS[:1], ["yes"]))
    assert vlm.ask(IMAGES[:1], QUESTIONS[:1], ["yes"]) != pytest.approx(vlm.ask(IMAGES[:1], QUESTIONS[1:2], ["yes"]))


def test_tensors_are_scored_as_pictures_are_and_keep_a_gradient(vlm):
    pixels = torch.stack([torch.from_numpy(np.array(IMAGES[i])).permute(2, 0, 1) / 255 for i in (0, 2)])
    asked = [QUESTIONS[0]] * 2, ["yes"] * 2
    values = torch.stack(vlm.probabilities(pixels.requires_grad_(), *asked))
    assert values.tolist() == pytest.approx(vlm.ask([IMAGES[0], IMAGES[2]], *asked), rel=1e-4)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(values[0], pixels)
    with torch.no_grad():
        ahead, behind = (vlm.probabilities(pixels + step * direction, *asked)[0] for step in (1e-3, -1e-3))
    assert (slope * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-3, rel=0.02)
    assert slope[1].abs().sum() == 0 and slope[0].abs().sum() > 0


def test_a_processor_that_stops_the_gradient_is_found_out(folder, monkeypatch):
    vlm = LocalVlm(folder, "cpu", answered=0)
    assert vlm.differentiable
    honest = vlm._inputs

    def stopping(*arguments, **options):
        read = honest(*arguments, **options)
        read["pixel_values"] = read["pixel_values"].detach()
        return read

    vlm = LocalVlm(folder, "cpu", answered=0)
    monkeypatch.setattr(vlm, "_inputs", stopping)
    assert not vlm.differentiable
    with pytest.raises(UserError, match="keeps no gradient in the pixels"):
        vlm.probabilities(torch.rand(1, 3, 56, 56, requires_grad=True), QUESTIONS[:1], ANSWERS[:1])


def test_an_answer_needs_a_token_of_its_own(vlm):
    with pytest.raises(UserError, match=r"answer 'seventeen': is no single token"):
        vlm.ask(IMAGES[:1], QUESTIONS[:1], ["seventeen"])
    with pytest.raises(UserError, match=r"answer 'seventeen': is no single token"):
        vlm.check("seventeen")
    vlm.check("Two")


def test_a_damaged_bin_is_one_line(folder, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(folder / "model.safetensors"), whole / "pytorch_model.bin")
    assert LocalVlm(whole, "cpu", answered=0).ask(IMAGES[:1], QUESTIONS[:1], ["yes"])[0] > 0
    stored = (whole / "pytorch_model.bin").read_bytes()
    for content in (b"", b"nonsense", b"\x80\x02", stored[: len(stored) // 2]):
        (whole / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match=r"whole: cannot be loaded as a vision-language model \([^\n]*\)$"):
            LocalVlm(whole, "cpu", answered=0)


def test_a_part_of_a_repository_is_no_checkpoint(folder, tmp_path, monkeypatch):
    """Offline, the hub's client gives what its cache has."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    told = r"^a/b: no such folder here, and {} cannot be fetched from the hub \({}\); `hf download a/b --local-dir DIR`"
    with pytest.raises(UserError, match=told.format("a checkpoint", f"config.json is not in {tmp_path}")):
        weights.folder("a/b")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=told.format("a checkpoint", f"no weights are in {tmp_path}")):
        weights.folder("a/b")
    with pytest.raises(UserError, match=told.format("head.pt", f"it is not in {tmp_path}")):
        weights.file("a/b", "head.pt")
    (tmp_path / "head.pt").touch()
    assert weights.file("a/b", "head.pt") == tmp_path / "head.pt" and weights.folder("a/b") == tmp_path


def test_the_digest_is_that_of_the_weights(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "same")
    (tmp_path / "same" / "notes.json").write_text("{}")
    digest = LocalVlm(folder, "cpu", answered=0).digest
    assert weights.digest(tmp_path / "same") == digest
    assert weights.digest(judges.save_vlm(tmp_path / "other", seed=1)) != digest


def test_a_folder_that_is_no_such_model_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"config.json: is missing"):
        LocalVlm(tmp_path)
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=r"bare: has no weights, expected \*.safetensors"):
        LocalVlm(tmp_path / "bare")
    shutil.copytree(folder, tmp_path / "mute", ignore=shutil.ignore_patterns("*.jinja"))
    with pytest.raises(UserError, match="mute: has no chat template"):
        LocalVlm(tmp_path / "mute")
    tensors = load_file(folder / "model.safetensors")
    lacking = sorted(tensors)[3]
    shutil.copytree(folder, tmp_path / "lacking")
    kept = {name: value for name, value in tensors.items() if name != lacking}
    save_file(kept, tmp_path / "lacking" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacking: cannot be loaded as .*1 missing parameters"):
        LocalVlm(tmp_path / "lacking")
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged: cannot be loaded"):
        LocalVlm(tmp_path / "damaged")


def test_auto_is_the_device_that_is_there():
    assert weights.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert weights.pick_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(UserError, match="device: 'cuda:63' was asked for, but this machine has"):
        LocalVlm(folder, device="cuda:63")
    with pytest.raises(UserError, match="device: expected auto, cpu, cuda or .* got 'gpu'"):
        LocalVlm(folder, device="gpu")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UserError) as caught:
        LocalVlm("Qwen/Qwen3-VL-8B-Instruct")
    message = str(caught.value)
    assert "\n" not in message and "cannot be fetched from the hub (ConnectionError: no route to host)" in message
    assert "hf download Qwen/Qwen3-VL-8B-Instruct --local-dir DIR" in message
    with pytest.raises(UserError, match=r"\./weights/x: no such file or folder"):
        LocalVlm("./weights/x")
