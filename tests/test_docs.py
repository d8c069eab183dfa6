"""What the pages in docs/ and the READMEs say of the code is there: paths, functions, settings, numbers."""

import importlib
import re
from dataclasses import fields

import pandas as pd
import pytest

from unigrpo.study import config, resolve
from unigrpo.study.catalogue import load_catalogue
from unigrpo.world import detector, prompts
from unigrpo.world.traces import Imperfection

SECTIONS = {
    "model": config.ModelConfig,
    "supervised": config.SupervisedConfig,
    "sampling": config.SamplingConfig,
    "rl": config.RLConfig,
    "reward": config.RewardConfig,
}
FILE = re.compile(r"\.(md|json|jsonl|yaml|py|csv|safetensors)$")
ROOMS = ("src", "pipelines", "rewards", "evals", "tests", "assets", "results", "benchmarks", "docs")


@pytest.fixture(scope="module")
def quoted(root):
    """(page, what stands between back quotes or in a link)."""
    pages = [root / "README.md", root / "benchmarks" / "README.md", *sorted((root / "docs").rglob("*.md"))]
    found = [(p, q) for p in pages for q in re.findall(r"`([^`\n]+)`|\]\((?!http)([^)]+)\)", p.read_text())]
    return [(page, text or link) for page, (text, link) in found]


def cells(root, page, *head):
    """Rows of the table in ``page`` whose head begins so, as lists of text without back quotes."""
    lines = (root / "docs" / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| " + " | ".join(head)))
    rows = [line for line in lines[start + 2 :] if line.startswith("|") or not line]
    rows = rows[: rows.index("")] if "" in rows else rows
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def configured(root, scale, run):
    catalogue = load_catalogue(root / "pipelines/experiments.yaml")
    return resolve.resolve(catalogue, resolve.load_scale(root / f"pipelines/scales/{scale}.yaml"), scale, run, 0)


def test_paths_exist(root, quoted):
    for page, text in quoted:
        path = text.rstrip("/")
        if path.endswith(".md") and "/" not in path:
            assert (page.parent / path).exists(), f"{page.name}: {text}"
        made = re.match(r"results/(?!reference)", path) or "<" in path or " " in path or path.endswith("/mine.py")
        if path.split("/")[0] in ROOMS and "/" in path and not made:
            assert (root / path).exists(), f"{page.name}: {text}"


def test_functions_exist(quoted):
    """``losses.velocity_mse`` is unigrpo.objectives.image_losses.velocity_mse; methods of classes too."""
    seen = 0
    for page, text in quoted:
        names = text.split(".")
        dotted = re.fullmatch(r"[a-z_]+(\.\w+)+", text) and not FILE.search(text)
        formulas = page.name == "method.md" or page.parent.parts[-2:] == ("docs", "methods")
        if formulas and dotted and names[0] not in SECTIONS:
            depth = 2 if names[0] in ("backbones", "methods") else 1
            found = importlib.import_module(".".join(["unigrpo", *names[:depth]]))
            for name in names[depth:]:
                found = getattr(found, name)
            seen += callable(found)
    assert seen > 20


def test_settings_exist(quoted):
    key = re.compile(rf"({'|'.join(SECTIONS)})\.[a-z_]+(:|$)")
    keys = [(page, text) for page, text in quoted if key.match(text) and not FILE.search(text)]
    assert len(keys) > 40
    for page, text in keys:
        section, name = text.split(":")[0].split(".")
        assert hasattr(SECTIONS[section], name), f"{page.name}: {text}"


def test_table_3_is_the_scale_paper(root):
    cfg = configured(root, "paper", "unigrpo")
    rows = cells(root, "method.md", "the paper's name")
    assert len(rows) == 17
    for name, value, keys in rows:
        section, key = keys.split(",")[0].split(".")
        held = getattr(getattr(cfg, section), key)
        assert list(held) == [0, 5] if key == "window_range" else held == float(value), name
    assert cfg.rl.grid == "points"


def test_scales_of_the_world(root):
    rows = cells(root, "testbed.md", "scale")
    assert [row[0] for row in rows] == ["smoke", "cpu", "gpu"]
    for scale, *stated in rows:
        m = configured(root, scale, "sft").model
        patch, numbers = m.latent_downsample * m.latent_patch, m.latent_channels * m.latent_patch**2
        held = [f"{m.image_size} px", m.tokens_per_side**2, f"{patch} px", numbers]
        assert stated == [str(value) for value in held], scale


def test_imperfections_of_the_training_data(root):
    """The stated shares are those of every scale of the world."""
    rows = {name: stated for name, *stated in cells(root, "testbed.md", "share")}
    for scale in ("smoke", "cpu", "gpu"):
        base, sft = (configured(root, scale, run).supervised for run in ("base", "sft"))
        assert rows == {f.name: [str(getattr(s, f.name)) for s in (base, sft)] for f in fields(Imperfection)}


def test_numbers_of_prompts(root):
    for name, *stated in cells(root, "testbed.md", "set"):
        pool = prompts.prompt_set(name)
        images = prompts.samples_per_prompt(name, 4)
        for tag, cell in zip([*prompts.GENEVAL_TAGS, prompts.COMPOUND, None], stated, strict=True):
            numbers = [n for p, n in zip(pool, images, strict=True) if tag in (None, p.tag)]
            held = f"{len(numbers)} ({sum(numbers)})" if name.endswith("_eval") else f"{len(numbers)}"
            assert cell == (held if numbers else ""), (name, tag)
    assert len(prompts.vocabulary()) == 48
    assert sum(p.numel() for p in detector.Detector().parameters()) == 216_492


def test_the_readme_shows_the_reference_results(root):
    """Its table of results is what the committed tables hold."""
    folder = root / "results/reference/cpu/tables"
    guided, unguided = (pd.read_csv(folder / f"{name}.csv") for name in ("table1", "table1_unguided"))
    _, _, below = (root / "README.md").read_text().partition("| GenEval-style, thinking |")
    lines = [line.strip("| ").split(" | ") for line in below.partition("\n\n")[0].splitlines()[2:]]
    assert len(lines) == 9
    for label, *numbers, paper in lines:
        for table, number in zip((unguided, guided), numbers, strict=True):
            row = table[(table["label"] == label) & (table["thinking"] == "yes")].iloc[0]
            assert float(number) == pytest.approx(row["geneval"], abs=6e-4), label  # the CSV is rounded too
        assert paper == ("collapsed" if row["paper_collapsed"] == "yes" else f"{row['paper_geneval']:.2f}")
