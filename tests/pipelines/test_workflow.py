"""The workflow as its users meet it: plans, reruns, bad input, interruption. Training itself is faked here."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from unigrpo import __main__ as front
from unigrpo.study import catalogue, resolve
from unigrpo.study.catalogue import runs_read
from unigrpo.tools import reproduce

SNAKEMAKE = [sys.executable, "-m", "snakemake"]
REPRODUCE = [sys.executable, "-m", "unigrpo", "run", "base", "--scale", "smoke"]

# Stands in for every verb but those that start the workflow: writes what the verb declares. While the file `hold`
# or `hold.RUN` exists, training writes its resumable state and then waits; SIGTERM ends it, unless `deaf` exists.
FAKE = """
import contextlib, json, signal, sys, time
from pathlib import Path
from unigrpo.study import provenance, standing

words = sys.argv[1:]
if words[0] in ("reproduce", "run", "base"):
    from unigrpo.front import main
    main()
record, about, words = Path(words[1]), json.loads(words[3]), words[4:]
at_work = contextlib.ExitStack()
at_work.enter_context(provenance.recorded(record, words[0], standing.begun(record, **about)))
MAKES = {
    "train": "model.safetensors model.json tokenizer/t metrics.jsonl run.json",
    "reward-data": "images.npy manifest.jsonl",
    "train-reward": "model.safetensors model.json report.json run.json",
    "sample-sets": "done.json",
    "table": "{name}.csv {name}.md {name}.html {name}.tex",
    "figure": "{name}.csv {name}.png {name}.pdf",
    "gallery": "index.html",
    "claims": "claims.csv claims.md claims.html",
    "index": "index.html index.rst",
}
verb, name = words[:2]
word = lambda key, default="": words[words.index(key) + 1] if key in words else default
places = {"table": "tables", "figure": "figures", "claims": ".", "index": ".", "gallery": "gallery"}
out = Path(word("--out", f"results/{word('--scale')}/{places.get(verb, '')}"))
if verb == "train":
    Path("words." + word("--run")).write_text(" ".join(words))
    (out / "state").mkdir(parents=True, exist_ok=True)
    def stop(*_):
        if not Path("deaf").exists():
            sys.exit("stopped at rollout 31 of 60; the same command continues")
    signal.signal(signal.SIGTERM, stop)
    with (out / "metrics.jsonl").open("a") as file:
        file.write("started\\n")
    while Path("hold").exists() or Path(f"hold.{word('--run')}").exists():
        time.sleep(0.05)
    if Path("fail").exists():
        sys.exit("error: told to fail")
made = [out / file for file in MAKES.get(verb, "").format(name=name).split()] or [out]
singles = [Path(word("--single", f"{out}.html"))] if verb == "gallery" else []
for path in made + singles:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"ended": time.time()}) if path.name == "run.json" else "finished\\n"
    with path.open("w" if path.name == "run.json" else "a") as file:
        file.write(text)
at_work.close()
"""

CATALOGUE = """
defaults: {method: grpo, regulariser: none, reward: learned}
runs:
  base: {evaluate: [no]}
  sft: {init: base, evaluate: [no, yes]}
  unigrpo: {init: sft, train: [text, image], evaluate: [yes]}
tables:
  main: {kind: main, rows: [[sft, yes], [unigrpo, yes]]}
figures:
  curves: {kind: curves, runs: [unigrpo]}
"""


MODEL_OF_BASE = "runs/base/seed0/model.safetensors"
USES_TORCH = """
import torch.nn.functional as F
from torch import ones
from unigrpo.methods.grpo import *
ONE = F.relu(ones(1))
"""


def make_checkout(root: Path, folder: Path) -> Path:
    """A copy of the repository whose verbs are fakes, but for those that start the workflow."""
    for name in ("pipelines", "profiles", "src", "rewards", "evals"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(root / name, folder / name)
    package = folder / "src" / "unigrpo"
    (package / "__main__.py").rename(package / "front.py")
    (package / "__main__.py").write_text(FAKE)
    given = [f"assets/detector/detector.{kind}" for kind in ("json", "safetensors")]
    for name in [*given, "results/reference/paper.csv"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def shipped(root, tmp_path_factory):
    """The catalogue and scales as they are; only planned, never run."""
    return make_checkout(root, tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A small study at scale smoke, run to its end with faked steps."""
    folder = make_checkout(root, tmp_path_factory.mktemp("finished"))
    (folder / "pipelines/experiments.yaml").write_text(CATALOGUE)
    done = snakemake(folder, "--cores", "2", "--config", "scale=smoke")
    assert done.returncode == 0, done.stderr
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*SNAKEMAKE, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def plan(folder: Path, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs that a dry run would execute."""
    done = snakemake(folder, "-n", *arguments)
    assert done.returncode == 0, done.stderr
    if "Nothing to be done" in done.stdout + done.stderr:
        return {}
    table = re.search(r"Job stats:\n.*?\n-.*?\n(.*?)\n\n", done.stdout + done.stderr, re.DOTALL)[1]
    return {rule: int(count) for rule, count in (line.split() for line in table.splitlines()) if rule != "total"}


# -------------------------------------------------------------------------------------------------------- plans


def study(folder: Path, **options) -> resolve.Study:
    pipelines = folder / "pipelines"
    return resolve.load_study(pipelines / "experiments.yaml", pipelines / "scales", options)


def trained(chosen: resolve.Study, runs: Iterable[str]) -> int:
    """Trainings by reinforcement of ``runs`` and of all that they start from."""
    needed = {run for name in runs for run in catalogue.ancestors(chosen.catalogue["runs"], name, "init")}
    return sum(len(chosen.seeds(run)) for run in needed if run in chosen.runs("rl"))


def named_by(chosen: resolve.Study, chosen_of: Callable[[dict], list[str]]) -> tuple[int, int, set[str]]:
    """How many tables and figures are chosen, and the runs that they name."""
    shown = {kind: chosen_of(chosen.catalogue[kind]) for kind in ("tables", "figures")}
    runs = {run for kind in shown for name in shown[kind] for run in runs_read(chosen.catalogue[kind][name])}
    return len(shown["tables"]), len(shown["figures"]), runs


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper", "sd35"])
def test_every_scale_plans_every_run_and_result(shipped, scale):
    jobs, chosen = plan(shipped, "--config", f"scale={scale}"), study(shipped, scale=scale)
    tables, figures, runs = named_by(chosen, catalogue.by_default)
    judged = catalogue.runs_in_use(chosen.catalogue, judged=True)
    assert jobs["train"] == trained(chosen, runs)
    sampled = jobs["sample"] + jobs.get("ceiling", 0)
    assert sampled == jobs["score"] == sum(len(chosen.seeds(run)) for run in judged)
    starts = {name: jobs[name] for name in ("sft", "tune", "reward_data", "learned_reward")}
    assert set(starts.values()) == {len(chosen.seeds("sft"))} == {chosen.scale["seeds"]}
    assert jobs["pretrain"] == jobs["collect"] == jobs["gallery"] == jobs["claims"] == jobs["index"] == 1
    assert (jobs["table"], jobs["figure"]) == (tables, figures)
    assert sum(jobs.values()) <= 85 or scale != "smoke"


def test_a_group_is_planned_whole_with_the_claims_that_read_it(shipped):
    """Its weights beside the best have one seed; the claims need what is made by default too."""
    jobs = plan(shipped, "one_group", "--config", "scale=smoke", "seeds=2", "group=overoptimisation")
    chosen = study(shipped, scale="smoke", seeds=2)
    tables, figures, runs = named_by(chosen, lambda specs: catalogue.of_group(specs, "overoptimisation"))
    assert any(len(chosen.seeds(run)) == 1 for run in runs if run in chosen.runs("rl"))
    assert jobs["train"] == trained(chosen, runs | named_by(chosen, catalogue.by_default)[2])
    assert (jobs["table"], jobs["figure"]) == (tables, figures) and jobs["claims"] == jobs["index"] == 1
    assert jobs["learned_reward"] == 2 * 3  # of each start the reward, the weaker one and that of preferences


def test_a_group_that_no_claim_reads_is_planned_without_what_is_made_by_default(shipped):
    jobs, chosen = (
        plan(shipped, "one_group", "--config", "scale=smoke", "group=strength"),
        study(shipped, scale="smoke"),
    )
    assert jobs["train"] == trained(chosen, runs_read(chosen.catalogue["tables"]["strength"]))
    assert not {"claims", "sample", "gallery"} & jobs.keys()


def test_the_demo_is_one_start_and_one_short_run_and_what_shows_them(shipped, monkeypatch):
    made = {"sample_group": 2, "score_group": 2, "collect_apart": 2, "table": 1, "figure": 1, "gallery_group": 1}
    start = dict.fromkeys(("pretrain", "sft", "tune", "reward_data", "learned_reward"), 1)
    jobs = plan(shipped, *(demo := ("one_group", "--config", "scale=cpu", "seeds=1", "group=demo")))
    assert jobs == start | made | {"train": 1, "index": 1, "one_group": 1}
    asked = {}
    monkeypatch.setattr(reproduce, "reproduce", lambda *words, **options: asked.update(os.environ))
    monkeypatch.setenv(resolve.LINES, "{}")  # to be as before afterwards
    front.call(["demo", "--method", "refl", "--rollouts", "60"])
    monkeypatch.setenv(resolve.LINES, asked[resolve.LINES])
    own = study(shipped, scale="cpu")
    assert catalogue.runs_read(own.catalogue["tables"]["demo"]) == ["sft", "demo", "demo_method_refl"]
    rl = own.config("demo_method_refl", 0)["rl"]
    assert (rl["method"], rl["rollouts"], rl["train"]) == ("refl", 60, ["image"])
    more = plan(shipped, *demo)
    assert {rule: more[rule] - jobs[rule] for rule in more if more[rule] != jobs[rule]} == dict.fromkeys(
        ("train", "sample_group", "score_group"), 1
    )


@pytest.mark.slow
def test_the_readmes_ablation_is_planned_and_changes_nothing_else(root, tmp_path):
    """One line under `runs`, one row of a table: its trainings and their images, and no other job."""
    folder = make_checkout(root, tmp_path / "own")
    before = plan(folder, "--config", "scale=cpu")
    line, row = re.findall(r"```yaml\n(?:runs:\n)?(.*?\n)```", (root / "README.md").read_text(), re.DOTALL)[:2]
    path = folder / "pipelines/experiments.yaml"
    text = path.read_text()
    first = re.search(r"^  table1:.*?rows: &rows\n", text, re.MULTILINE | re.DOTALL)[0]
    path.write_text(text.replace("runs:\n", f"runs:\n{line}", 1).replace(first, f"{first}      {row.strip()}\n"))
    seeds = len(study(folder, scale="cpu").seeds("unigrpo"))
    after = plan(folder, "--config", "scale=cpu")
    assert {rule: after[rule] - n for rule, n in before.items() if after[rule] != n} == dict.fromkeys(
        ("train", "sample", "score"), seeds
    )


def test_one_run_needs_only_what_it_descends_from(shipped):
    jobs = plan(shipped, "one_run", "--config", "run=text_grpo", "seeds=2")
    assert jobs["train"] == jobs["sample"] == jobs["score"] == 2
    assert "table" not in jobs and "figure" not in jobs


def test_several_processes_are_started_together(shipped):
    """What trains or samples the model has them, and their devices."""
    of = ("--cores", "64", "--resources", "gpu=8", "first_gpu=1", "--config", "scale=paper", "run=unigrpo")
    done = snakemake(shipped, "one_run", "-n", "-p", *of)
    jobs = {text.split(":")[0]: text for text in re.split(r"\nrule ", done.stdout + done.stderr)}
    for name, run in (("train", "unigrpo"), ("sft", "sft")):
        assert re.search(
            rf"-m unigrpo --record \S+ --made .+? train --scale paper --run {run} --seed 0 --init", jobs[name]
        )
    many, alone = ("gpu=8", "threads: 64", "mem_mb=300000"), ("gpu=1", "threads: 8", "mem_mb=100000")
    together = ("train", "sft", "tune", "reward_data", "sample")
    for job, words in (dict.fromkeys(together, many) | dict.fromkeys(("pretrain", "learned_reward"), alone)).items():
        launched = "accelerate.commands.launch --multi_gpu --num_processes 8 " in jobs[job]
        assert launched == (job in together), done.stderr
        assert all(word in jobs[job] for word in (*words, "first_gpu=1", "runtime=10080")), jobs[job]


def test_every_replicate_has_a_start_of_its_own_and_all_have_one_base(shipped):
    """Its jobs by what they make; the base is sampled and judged at both seeds, from the same weights."""
    done = snakemake(shipped, "one_run", "-n", "--config", "scale=smoke", "run=sft", "seeds=2")
    made = set(re.findall(r"results/smoke/steps/(\S+)\.jsonl", done.stdout + done.stderr))
    each = {f"{step}.{k}" for step in ("sft.sft", "tune", "reward_data", "reward") for k in (0, 1)}
    assert made == {"pretrain.base.0", *each, *(f"{step}.sft.{k}" for step in ("sample", "score") for k in (0, 1))}
    done = snakemake(shipped, "results/smoke/runs/base/seed1/samples/done.json", "-n", "--config", "scale=smoke")
    (inputs,) = re.findall(r"rule sample:\n +input: (.*)", done.stdout + done.stderr)
    assert inputs.split(", ")[:2] == [f"results/smoke/{p}" for p in (MODEL_OF_BASE, "starts/seed1/decoding.json")]


def test_the_base_and_the_starts_of_a_scale_are_shipped_together(shipped):
    starts = {name: 4 for name in ("sft", "tune", "reward_data", "learned_reward")}
    assert plan(shipped, "ship", "--config", "starts=train") == {"pretrain": 1, **starts, "ship": 1}


@pytest.mark.parametrize("method", ["", USES_TORCH], ids=["shipped", "a user's that uses torch"])
def test_planning_loads_torch_for_a_users_method_alone(root, tmp_path, method):
    """What parsing costs is what it imports (benchmarks/startup.py times it)."""
    folder = make_checkout(root, tmp_path / "planned")
    if method:
        (folder / "src/unigrpo/methods/mine.py").write_text(method)
        path = folder / "pipelines/experiments.yaml"
        path.write_text(path.read_text().replace("runs:\n", "runs:\n  mine: {like: unigrpo, method: mine}\n", 1))
    assert snakemake(folder, "-n", "--quiet").returncode == 0
    code = (
        "import sys; from pathlib import Path; from unigrpo.study.resolve import load_study;"
        "load_study(Path('pipelines/experiments.yaml'), Path('pipelines/scales'), {});"
        "print(sorted({'torch', 'transformers', 'diffusers', 'open_clip', 'pandas', 'scipy'} & sys.modules.keys()))"
    )
    variables = os.environ | {"PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.stdout == ("['torch']\n" if method else "[]\n"), done.stderr


def test_lint_is_clean(shipped):
    done = snakemake(shipped, "--lint")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "scale=smok"], "did you mean smoke?"),
        (["--config", "sede=1"], "--config sede: unknown option; did you mean seeds?"),
        (["one_run"], "the target one_run needs a run"),
    ],
)
def test_bad_options_end_with_one_message(shipped, arguments, message):
    done = snakemake(shipped, "-n", *arguments)
    lines = [
        line for line in done.stderr.splitlines() if not line.startswith(("Using workflow specific profile", "host:"))
    ]
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] and message in lines[-1]


def test_a_bad_catalogue_ends_with_one_message_and_writes_nothing(root, tmp_path):
    folder = make_checkout(root, tmp_path / "bad")
    text = (folder / "pipelines/experiments.yaml").read_text()
    (folder / "pipelines/experiments.yaml").write_text(text.replace("thinking: false", "thinkin: false"))
    done = snakemake(folder, "--cores", "1")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert (
        "error: pipelines/experiments.yaml: runs.flow_grpo.thinkin: not a setting of rl runs; did you mean thinking?"
        in done.stderr
    )
    assert [path.name for path in (folder / "results").iterdir()] == ["reference"]


# ------------------------------------------------------------------------------------------------------- reruns


@pytest.mark.slow
def test_a_finished_study_has_nothing_to_do(finished):
    assert plan(finished, "--config", "scale=smoke") == {}
    results = finished / "results/smoke"
    assert {p.name for p in (results / "tables").iterdir()} == {
        f"main.{suffix}" for suffix in ("csv", "md", "html", "tex")
    }
    assert {p.name for p in (results / "figures").iterdir()} == {"curves.csv", "curves.png", "curves.pdf"}
    used = {path.stem for path in (results / "steps").iterdir()}
    assert {"pretrain.base.0", "sft.sft.0", "train.unigrpo.0", "sample.unigrpo.0", "tune.0"} <= used


@pytest.mark.slow
def test_the_report_is_one_page_that_captions_every_result(finished):
    done = snakemake(finished, "--report", "report.html", "--config", "scale=smoke")
    assert done.returncode == 0, done.stderr
    report = (finished / "report.html").read_text()
    assert "<p>finished</p>" in report  # what the front page says
    results, _ = json.JSONDecoder().raw_decode(report, report.index('{"results/smoke'))
    for path, words in {
        "tables/main.html": "beside the paper's Table 1",
        "figures/curves.png": "Training reward, validation reward",
        "claims.html": "by a rule that stood beforehand",
        "gallery.html": "same noise in every run side by side",
    }.items():
        caption = " ".join(results[f"results/smoke/{path}"]["caption"].split())
        assert words in caption and "only shows that every step runs" in caption


AFTERWARDS = {"collect": 1, "table": 1, "figure": 1, "gallery": 1, "claims": 1, "index": 1, "all": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        (  # an ablation is one line and its name in a table
            "experiments.yaml",
            "tables:\n  main: {kind: main, rows: [",
            "  no_norm: {like: unigrpo, ratio: plain}\ntables:\n  main: {kind: main, rows: [[no_norm, yes], ",
            {"train": 1, "sample": 1, "score": 1, **AFTERWARDS, "figure": 0},
        ),
        ("experiments.yaml", "tables:", "  no_norm: {like: unigrpo, ratio: plain}\ntables:", {}),
        (
            "experiments.yaml",
            "train: [text, image]",
            "train: [text, image], noise_level: 0.7",
            {"train": 1, "sample": 1, "score": 1, **AFTERWARDS},
        ),
        ("experiments.yaml", "unigrpo: {", "unigrpo: {label: UniGRPO, ", {**AFTERWARDS, "collect": 0}),
        (
            "scales/smoke.yaml",
            "images_per_prompt: 1",
            "images_per_prompt: 2",
            {"sample": 3, "score": 3, **AFTERWARDS},
        ),
    ],
    ids=["a run and its row", "a run that nothing shows", "a setting of a run", "a label", "images per prompt"],
)
def test_a_change_reruns_what_depends_on_it_and_no_more(finished, name, old, new, expected):
    path = finished / "pipelines" / name
    text = path.read_text()
    assert text.count(old) == 1
    try:
        path.write_text(text.replace(old, new))
        assert plan(finished, "--config", "scale=smoke") == {rule: n for rule, n in expected.items() if n}
    finally:
        path.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "gone, expected",
    [
        (
            ("runs/unigrpo/seed0/model.safetensors", "steps/train.unigrpo.0.jsonl"),
            {"train": 1, "sample": 1, "score": 1},
        ),
        (("runs/unigrpo/seed0/samples/done.json", "steps/sample.unigrpo.0.jsonl"), {"sample": 1, "score": 1}),
        (("starts/seed0/decoding.json", "steps/tune.0.jsonl"), {"tune": 1, "train": 1, "sample": 3, "score": 3}),
        (("steps/score.sft.0.jsonl",), {"score": 1}),
        (("tables/main.md", "steps/table.main.jsonl"), {"table": 1, "index": 1, "all": 1}),
        (("runs/unigrpo/seed0/model.safetensors",), {}),  # weights are given up, and nothing rests on them any more
    ],
)
def test_what_a_kill_has_left_undone_is_done_with_what_rests_on_it(finished, tmp_path, gone, expected):
    """Though all that was made from it before is there."""
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    for name in gone:
        (folder / "results/smoke" / name).unlink()
    after = {rule: n for rule, n in AFTERWARDS.items() if rule != "figure" or "train" in expected}  # of training alone
    found = plan(folder, "--config", "scale=smoke")
    assert found == (expected | after if "score" in expected else expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "catalogued, target, expected",
    [
        ("tables:\n  apart: {kind: training_cost, ", "tables/apart.md", {}),
        ("tables:\n  apart: {kind: main, rows: [[no_norm, yes]], ", "tables/apart.md", {"sample": 1}),
        ("figures:\n  apart: {kind: curves, ", "figures/apart.png", {}),
        ("figures:\n  apart: {kind: dots, ", "figures/apart.png", {"sample": 1}),
    ],
    ids=["a training table", "a main table", "curves", "dots"],
)
def test_what_is_not_made_by_default_is_made_when_asked_for(finished, catalogued, target, expected):
    """By exactly the jobs it needs: no images for what shows training alone, else a collection of its own runs."""
    path = finished / "pipelines/experiments.yaml"
    text = path.read_text()
    before, old, after = text.partition(catalogued.split("\n")[0])
    entry = f"{catalogued}default: false, runs: [no_norm]}}"
    run = "  no_norm: {like: unigrpo, ratio: plain}\n"
    jobs = {"train": 1, Path(target).parts[0].rstrip("s"): 1, **expected}
    if "sample" in expected:
        jobs |= {"score": 1, "collect_apart": 1}
    try:
        path.write_text((before + entry + after).replace("tables:\n", f"{run}tables:\n", 1))
        assert plan(finished, "--config", "scale=smoke") == {}
        assert plan(finished, f"results/smoke/{target}", "--config", "scale=smoke") == jobs
    finally:
        path.write_text(text)


def test_a_sweep_is_planned_without_an_image(shipped):
    jobs = plan(shipped, "results/smoke/tables/horizon.md", "--config", "scale=smoke", "seeds=2")
    chosen = study(shipped, scale="smoke", seeds=2)
    runs = runs_read(chosen.catalogue["tables"]["horizon"])
    assert (jobs["train"], jobs["table"], jobs["sft"]) == (trained(chosen, runs), 1, 2)
    assert not {"sample", "score", "collect", "collect_apart", "figure", "gallery"} & set(jobs)


# ------------------------------------------------------------------------------------------------- interruption


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_second_run_waits_for_a_first_that_lost_its_terminal(root, tmp_path):
    folder = make_checkout(root, tmp_path / "orphan")
    run = folder / "results/smoke/runs/base/seed0"
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    (folder / "hold").touch()
    with subprocess.Popen(REPRODUCE, env=environment, stderr=subprocess.DEVNULL) as first:
        wait_for((run / "metrics.jsonl").exists)
        first.kill()  # the process that was started, not the Snakemake below it
    with subprocess.Popen(REPRODUCE, env=environment, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr.readline() == f"waiting: another process holds {folder / 'results/.lock'}\n"
        (folder / "hold").unlink()
        second.communicate(timeout=120)
    assert second.returncode == 0
    assert (run / "metrics.jsonl").read_text().splitlines() == ["started", "finished"]


@pytest.mark.slow
def test_a_failed_step_fails_the_command_and_keeps_its_state_and_log(root, tmp_path):
    folder = make_checkout(root, tmp_path / "failed")
    (folder / "fail").touch()
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(REPRODUCE, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "error: told to fail" in done.stdout + done.stderr
    assert (folder / "results/smoke/logs/pretrain.base.0.log").read_text() == "error: told to fail\n"
    run = folder / "results/smoke/runs/base/seed0"
    assert (run / "state").exists() and (run / "metrics.jsonl").exists() and not (run / "model.safetensors").exists()
