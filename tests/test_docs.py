"""What the pages in docs/ and the READMEs say of the code is there: paths, functions, settings, numbers."""

import importlib
import json
import re
from dataclasses import fields
from statistics import mean

import pandas as pd
import pytest
import torch
import typer

from tests.test_imports import ROOMS
from unigrpo.__main__ import app
from unigrpo.core.settings import replace
from unigrpo.judges import detector
from unigrpo.study import config, facts, resolve
from unigrpo.study.catalogue import load_catalogue
from unigrpo.world import prompts
from unigrpo.world.traces import Imperfection

SECTIONS = {
    "model": [config.ModelConfig],
    "supervised": [config.SupervisedConfig],
    "sampling": [config.SamplingConfig],
    "rl": [config.rl_class(method) for method in facts.METHODS.names()],
    "reward": [config.RewardConfig],
}
FILE = re.compile(r"\.(md|html|json|jsonl|yaml|py|csv|safetensors)$")
TOP = ("src", "pipelines", "rewards", "evals", "tests", "assets", "results", "benchmarks", "docs")


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
    settings = resolve.load_scale(root / f"pipelines/scales/{scale}.yaml", catalogue["defaults"])
    return resolve.Study(catalogue, scale, settings).resolve(run)


def test_paths_exist(root, quoted):
    wrong = []
    for page, text in quoted:
        path = text.partition("#")[0].rstrip("/")
        if path.endswith(".md") and "/" not in path:
            wrong += [] if (page.parent / path).exists() else [f"{page.name}: {text}"]
        made = re.match(r"results/(?!reference)", path) or "<" in path or " " in path
        made = made or path.endswith(("/mine.py", "/plain.py", "*.smk"))
        if path.split("/")[0] in TOP and "/" in path and not made:
            wrong += [] if (root / path).exists() else [f"{page.name}: {text}"]
    assert not wrong


def test_functions_exist(root, quoted):
    """``flow.sde_step`` is a function of the one module of that name; methods of classes too."""
    modules = {path.stem: path for path in (root / "src").rglob("*.py") if path.stem[0] != "_"}
    seen = 0
    for page, text in quoted:
        name, *inside = text.split(".")
        if re.fullmatch(r"[a-z_]+(\.\w+)+", text) and name in modules.keys() - SECTIONS and not FILE.search(text):
            parts = modules[name].relative_to(root / "src").with_suffix("").parts
            found = importlib.import_module(".".join(parts))
            for part in inside:
                assert hasattr(found, part), f"{page.name}: {text}"
                found = getattr(found, part)
            seen += 1
    assert seen > 30


def test_the_rooms_are_those_that_imports_follow(root):
    """docs/code.md lists them in the order in which they may import."""
    listed = re.findall(r"^\* (?:\*\*|`)([a-z]+)", (root / "docs/code.md").read_text(), re.MULTILINE)
    assert listed == [room.removeprefix("unigrpo.") for room in ROOMS[:-1]]


def test_commands_exist(root, quoted):
    """``unigrpo <verb> --option``, in the text and in blocks of code."""
    program = typer.main.get_command(app)
    known = program.commands
    lines = [(page, text) for page, text in quoted if text.startswith("unigrpo ")]
    for page in {page for page, _ in quoted}:
        code = re.split(r"^ *```.*$", page.read_text().replace("\\\n", ""), flags=re.MULTILINE)[1::2]
        lines += [(page, line) for block in code for line in block.splitlines() if re.search(r"^ *unigrpo \w", line)]
    for page, line in lines:
        verb, *rest = line.split("#")[0].split()[1:]
        assert verb == "--help" or verb in known, f"{page.name}: {line}"
        command = known.get(verb, program)
        if hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
            command = command.get_command(None, rest[0])
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= options, f"{page.name}: {line}"
    assert len(lines) > 5


def test_settings_exist(quoted):
    key = re.compile(rf"({'|'.join(SECTIONS)})\.[a-z_]+(:|$)")
    keys = [(page, text) for page, text in quoted if key.match(text) and not FILE.search(text)]
    assert len(keys) > 40
    for page, text in keys:
        section, name = text.split(":")[0].split(".")
        known = any(name in kind.model_fields or hasattr(kind, name) for kind in SECTIONS[section])
        assert known, f"{page.name}: {text}"


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
        jobs = next((b.jobs(4) for b in resolve.benchmarks().values() if b.prompts == name), None)
        for tag, cell in zip([*prompts.CATEGORIES, prompts.COMPOUND, None], stated, strict=True):
            number = sum(tag in (None, p.tag) for p in pool)
            held = f"{number} ({sum(tag in (None, p.tag) for p, _ in jobs)})" if jobs else f"{number}"
            assert cell == (held if number else ""), (name, tag)
    assert len(prompts.vocabulary()) == 48
    assert sum(p.numel() for p in detector.Detector().parameters()) == 216_492


def claims_table(root):
    """The README's table of claims: of each, the comparison that decides it, there and here. The paper's number is the
    same difference of rows of its tables, where they have it."""
    claims = pd.read_csv(root / "results/reference/cpu/claims.csv").set_index("id")
    page = (root / "results/reference/cpu/claims.md").read_text()
    first = page.partition("## ")[0]
    shown = {
        name: rest for name, *rest in re.findall(r"^\| (C\d+) (?:[^|]*\|){4}([^|]*)\|([^|]*)\|", first, re.MULTILINE)
    }
    paper = pd.read_csv(root / "results/reference/paper.csv").replace({"method": {"Bagel": "Base"}})
    paper = paper.set_index(["method", "thinking"])
    lines = ["| claim | decided by | paper | here | verdict |", "|---|---|---|---|---|"]
    for name, claim in claims.iterrows():
        comparison, here = (cell.strip() for cell in shown[name])
        assert float(here.split()[0]) == pytest.approx(claim.effect, abs=6e-4), name  # the CSV is rounded too
        there = {"C4": "collapsed", "C5": "figure 4", "C6": "figure 4", "C12": "0.500"}.get(name, "figure 5")
        if rows := re.fullmatch(r"(TA|GenEval): (.*) − (.*)", comparison):
            metric, *labels = rows.groups()
            pair = [(label.removesuffix(", thinking"), "yes" if ", thinking" in label else "no") for label in labels]
            if set(pair) <= set(paper.index):
                difference = paper.loc[pair[0], metric.lower()] - paper.loc[pair[1], metric.lower()]
                there = "collapsed" if pd.isna(difference) else f"{difference:+.{3 if metric == 'TA' else 2}f}"
        cells = (f"{name}: {claim.claim}", comparison, there, here, claim.verdict.removesuffix(" at this n"))
        lines.append(re.sub(r"([\[ ])-(?=\d)", r"\1−", f"| {' | '.join(cells)} |"))
    return "\n".join(lines)


def test_the_readme_shows_the_claims(root):
    """A mismatch shows the table to be pasted between the marks."""
    _, _, rest = (root / "README.md").read_text().partition("<!-- claims -->\n")
    assert rest.partition("\n<!-- /claims -->")[0] == claims_table(root), claims_table(root)


def test_the_files_that_pages_show_work(root):
    """Methods, rewards and kinds define what their doors ask for, and a reward scores images."""
    pages = [(root / page).read_text() for page in ("README.md", "docs/extending.md")]
    blocks = [code for page in pages for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def " in code]
    assert len(blocks) == 6
    for code in blocks:
        names = {"__name__": "shown"}
        exec(code, names)
        door = facts.REWARDS if "build" in names else facts.TABLES if "line" in names else facts.METHODS
        assert {"FACTS", *door.contract} <= set(names) and isinstance(names["FACTS"], door.facts)
        if "build" in names:
            scores = names["build"]()(torch.rand(3, 3, 8, 8), ["a", "b", "c"])
            assert scores.shape == (3,)


def test_the_readmes_ablation_is_a_run(root, tmp_path):
    """Its line differs from the run that it is like in the one setting that it names."""
    line = re.search(r"^  unigrpo_mine: .*\n", (root / "README.md").read_text(), re.MULTILINE)[0]
    text = (root / "pipelines/experiments.yaml").read_text().replace("\nruns:\n", f"\nruns:\n{line}", 1)
    (tmp_path / "experiments.yaml").write_text(text)
    catalogue = load_catalogue(tmp_path / "experiments.yaml")
    settings = resolve.load_scale(root / "pipelines/scales/cpu.yaml", catalogue["defaults"])
    ours, usual = (resolve.Study(catalogue, "cpu", settings).resolve(run).rl for run in ("unigrpo_mine", "unigrpo"))
    assert ours != usual and replace(ours, ratio=usual.ratio) == usual


def test_the_headroom_is_what_was_measured(root):
    """The protocol's table of base and starts, and what it says of them, is benchmarks/results/headroom.json."""
    measured = json.loads((root / "benchmarks/results/headroom.json").read_text())
    shown = ("thinking", "traces_right", "perfect_painter", "prompts_that_gain", "perfect_traces", "direct")
    forms = ("{:.3f}", "{:.3f}", "{:+.3f}", "{:.0%}", "{:+.3f}", "{:.3f}")
    rows = [[form.format(row[name]) for name, form in zip(shown, forms, strict=True)] for row in measured.values()]
    stated = [row[2:] for row in cells(root, "protocol.md", "row")]
    assert [[cell.replace(" %", "%") for cell in row] for row in stated] == rows
    starts = [row for name, row in measured.items() if name != "base"]
    text = " ".join((root / "docs/protocol.md").read_text().split())
    for mode, words in (("thinking", "with thinking"), ("direct", "without")):
        assert f"{mean(row[mode] for row in starts) - measured['base'][mode]:.3f} {words}" in text


def test_the_readme_says_what_the_demo_gained(root):
    table = pd.read_csv(root / "results/reference/cpu/tables/demo.csv").set_index("run")
    text = " ".join((root / "README.md").read_text().split())
    gold = [column for column in table if column.endswith("gold")][0]
    assert f"rose from {table[gold]['sft']:.3f} to {table[gold]['demo']:.3f} in our run" in text
