"""The workflow as its users meet it: plans, reruns, bad input, interruption. Training itself is faked here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SNAKEMAKE = [sys.executable, "-m", "snakemake"]
REPRODUCE = [sys.executable, "-m", "unigrpo.tools.reproduce", "--scale", "smoke", "--run", "base"]

# Stands in for every step but the resolution of configurations: writes what the step declares. While the file `hold`
# exists, training writes its resumable state and then waits.
FAKE = """
import sys, time
from pathlib import Path
MAKES = {
    "pretrain": "model.safetensors model.json tokenizer/t metrics.jsonl run.json",
    "train": "model.safetensors model.json tokenizer/t metrics.jsonl run.json",
    "reward_data": "images.npy manifest.jsonl",
    "train_learned": "model.safetensors model.json report.json run.json",
    "sample_sets": "done.json",
    "tables": "{name}.csv {name}.md {name}.html {name}.tex",
    "figures": "{name}.csv {name}.png {name}.pdf",
    "gallery": "index.html",
    "claims": "claims.csv claims.md claims.html",
}
module, word = Path(sys.argv[0]).stem, lambda key: sys.argv[sys.argv.index(key) + 1] if key in sys.argv else ""
out = Path(word("--out"))
if module == "pretrain":
    (out / "state").mkdir(parents=True, exist_ok=True)
    with (out / "metrics.jsonl").open("a") as file:
        file.write("started\\n")
    while Path("hold").exists():
        time.sleep(0.05)
    if Path("fail").exists():
        sys.exit("error: told to fail")
made = [out / name for name in MAKES.get(module, "").format(name=word("--name")).split()] or [out]
for path in made + [Path(single) for single in [word("--single")] if single]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a").write("finished\\n")
"""
STEPS = "pretrain train tune reward_data sample_sets report/collect report/tables report/figures report/gallery"
STEPS += " report/claims"

CATALOGUE = """
runs:
  base: {evaluate: [no]}
  sft: {init: base, evaluate: [no, yes]}
  unigrpo: {init: sft, train: [text, image], evaluate: [yes]}
tables:
  main: {kind: main, rows: [[sft, yes], [unigrpo, yes]]}
figures:
  curves: {kind: curves, runs: [unigrpo]}
"""


def make_checkout(root: Path, folder: Path) -> Path:
    """A copy of the workflow whose steps are fakes, with the real resolution of configurations."""
    for name in ("pipelines", "profiles"):
        shutil.copytree(root / name, folder / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(root / name, folder / name)
    package = folder / "src" / "unigrpo"
    package.mkdir(parents=True)
    real = "__init__ types config files cli schema asked catalogue resolve study reproduce"
    for name in real.split():
        shutil.copy(root / "src" / "unigrpo" / f"{name}.py", package)
    shutil.copytree(root / "src/unigrpo/methods", package / "methods")
    for name in ("rewards", "src/unigrpo/world"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for step in [package / name for name in STEPS.split()] + [folder / "evals/run", folder / "rewards/train_learned"]:
        step.parent.mkdir(exist_ok=True)
        step.with_suffix(".py").write_text(FAKE)
    given = [f"assets/base/{name}" for name in ("model.safetensors", "model.json", "metrics.jsonl", "run.json")]
    given += ["assets/base/tokenizer/tokenizer.json", "assets/detector/detector.json"]
    given += ["assets/detector/detector.safetensors", "results/reference/paper.csv"]
    for name in given:
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


@pytest.mark.parametrize("scale, seeds", [("smoke", 1), ("cpu", 3), ("gpu", 5), ("paper", 1), ("sd35", 1)])
def test_every_scale_plans_every_run_and_result(shipped, scale, seeds):
    jobs = plan(shipped, "--config", f"scale={scale}")
    assert (jobs["sft"], jobs["train"]) == (1, 11 * seeds)
    assert jobs["sample"] == jobs["score"] == 2 + 11 * seeds
    assert jobs["tune"] == jobs["learned_reward"] == jobs["collect"] == jobs["gallery"] == jobs["claims"] == 1
    assert (jobs["table"], jobs["figure"]) == (7, 10)
    assert ("base" in jobs) == (scale == "cpu") and ("pretrain" in jobs) == (scale != "cpu")


def test_a_group_is_planned_whole_with_the_claims_that_read_it(shipped):
    """Six runs at every seed and the other weights at one; the claims need what is made by default too."""
    jobs = plan(shipped, "one_group", "--config", "scale=smoke", "seeds=2", "group=overoptimisation")
    assert jobs["train"] == 11 * 2 + 6 * 2 + 12 and (jobs["table"], jobs["figure"]) == (2, 5)
    assert (jobs["weak_reward"], jobs["claims"]) == (1, 1)
    assert "weak_reward" not in plan(shipped, "--config", "scale=smoke")


def test_one_run_needs_only_what_it_descends_from(shipped):
    jobs = plan(shipped, "one_run", "--config", "run=text_grpo", "seeds=2")
    assert jobs["train"] == jobs["sample"] == jobs["score"] == 2
    assert "table" not in jobs and "figure" not in jobs


def test_several_processes_are_started_together(shipped):
    """Training alone has them, and their devices."""
    of = ("--cores", "64", "--resources", "gpu=8", "first_gpu=1", "--config", "scale=paper", "run=unigrpo")
    done = snakemake(shipped, "one_run", "-n", "-p", *of)
    jobs = {text.split(":")[0]: text for text in re.split(r"\nrule ", done.stdout + done.stderr)}
    assert "accelerate.commands.launch --multi_gpu --num_processes 8 " in jobs["train"], done.stderr
    assert "accelerate.commands.launch --multi_gpu --num_processes 8 " in jobs["sft"]
    assert (
        "-m unigrpo.training.reinforcement --config" in jobs["train"]
        and "-m unigrpo.training.supervised --config" in jobs["sft"]
    )
    many, alone = ("gpu=8", "threads: 64", "mem_mb=300000"), ("gpu=1", "threads: 8", "mem_mb=100000")
    for job, words in {"train": many, "sft": many, "tune": alone}.items():
        assert all(word in jobs[job] for word in (*words, "first_gpu=1", "runtime=10080")), jobs[job]


def test_the_base_is_trained_apart_before_it_is_shipped(shipped):
    assert plan(shipped, "ship_base") == {"config": 1, "pretrain": 1, "ship_base": 1}


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
        "error: pipelines/experiments.yaml: runs.flow_grpo.thinkin: unknown key; did you mean thinking?" in done.stderr
    )
    assert [path.name for path in (folder / "results").iterdir()] == ["reference"]


# ------------------------------------------------------------------------------------------------------- reruns


def test_a_finished_study_has_nothing_to_do(finished):
    assert plan(finished, "--config", "scale=smoke") == {}
    results = finished / "results/smoke"
    assert {p.name for p in (results / "tables").iterdir()} == {
        f"main.{suffix}" for suffix in ("csv", "md", "html", "tex")
    }
    assert {p.name for p in (results / "figures").iterdir()} == {"curves.csv", "curves.png", "curves.pdf"}
    config = json.loads((results / "runs/unigrpo/seed0/training.json").read_text())
    assert (config["run"], config["init"], config["scale"]) == ("unigrpo", "sft", "smoke")


def test_the_report_is_one_page_that_captions_every_result(finished):
    done = snakemake(finished, "--report", "report.html", "--config", "scale=smoke")
    assert done.returncode == 0, done.stderr
    report = (finished / "report.html").read_text()
    results, _ = json.JSONDecoder().raw_decode(report, report.index('{"results/smoke'))
    for path, words in {
        "tables/main.html": "beside the paper's Table 1",
        "figures/curves.png": "Training reward, validation reward",
        "claims.html": "by a rule that stood beforehand",
        "gallery.html": "same noise in every run side by side",
    }.items():
        caption = " ".join(results[f"results/smoke/{path}"]["caption"].split())
        assert words in caption and "only shows that every step runs" in caption


AFTERWARDS = {"collect": 1, "table": 1, "figure": 1, "gallery": 1, "claims": 1, "all": 1}


@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        (  # an ablation is one line and its name in a table
            "experiments.yaml",
            "tables:\n  main: {kind: main, rows: [",
            "  no_mse: {like: unigrpo, regulariser: none}\ntables:\n  main: {kind: main, rows: [[no_mse, yes], ",
            {"config": 3, "spec": 1, "train": 1, "sample": 1, "score": 1, **AFTERWARDS, "figure": 0},
        ),
        ("experiments.yaml", "tables:", "  no_mse: {like: unigrpo, regulariser: none}\ntables:", {}),
        (
            "experiments.yaml",
            "train: [text, image]",
            "train: [text, image], noise_level: 0.7",
            {"config": 2, "train": 1, "sample": 1, "score": 1, **AFTERWARDS},
        ),
        ("experiments.yaml", "unigrpo: {", "unigrpo: {label: UniGRPO, ", {"config": 1, **AFTERWARDS, "collect": 0}),
        (
            "scales/smoke.yaml",
            "images_per_prompt: 1",
            "images_per_prompt: 2",
            {"config": 6, "sample": 3, "score": 3, **AFTERWARDS},
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


@pytest.mark.parametrize(
    "catalogued, target, expected",
    [
        ("tables:\n  apart: {kind: training, ", "tables/apart.md", {"config": 2}),
        ("tables:\n  apart: {kind: main, rows: [[no_mse, yes]], ", "tables/apart.md", {"config": 3, "sample": 1}),
        ("figures:\n  apart: {kind: curves, ", "figures/apart.png", {"config": 2}),
        ("figures:\n  apart: {kind: dots, ", "figures/apart.png", {"config": 3, "sample": 1}),
    ],
    ids=["a training table", "a main table", "curves", "dots"],
)
def test_what_is_not_made_by_default_is_made_when_asked_for(finished, catalogued, target, expected):
    """By exactly the jobs it needs: no images for what shows training alone, else a collection of its own runs."""
    path = finished / "pipelines/experiments.yaml"
    text = path.read_text()
    before, old, after = text.partition(catalogued.split("\n")[0])
    entry = f"{catalogued}default: false, runs: [no_mse]}}"
    run = "  no_mse: {like: unigrpo, regulariser: none}\n"
    jobs = {"spec": 1, "train": 1, Path(target).parts[0].rstrip("s"): 1, **expected}
    if "sample" in expected:
        jobs |= {"score": 1, "collect_apart": 1}
    try:
        path.write_text((before + entry + after).replace("tables:\n", f"{run}tables:\n", 1))
        assert plan(finished, "--config", "scale=smoke") == {}
        assert plan(finished, f"results/smoke/{target}", "--config", "scale=smoke") == jobs
    finally:
        path.write_text(text)


def test_a_sweep_is_planned_without_an_image(shipped):
    jobs = plan(shipped, "results/smoke/tables/tuning.md", "--config", "scale=smoke", "seeds=2")
    assert (jobs["train"], jobs["table"], jobs["sft"]) == (9 * 3 * 2, 1, 1)
    assert not {"sample", "score", "collect", "collect_apart", "figure", "gallery"} & set(jobs)


# ------------------------------------------------------------------------------------------------- interruption


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_killed_workflow_does_not_stop_the_next(root, tmp_path):
    folder = make_checkout(root, tmp_path / "killed")
    (folder / "pipelines/experiments.yaml").write_text(CATALOGUE)
    run = folder / "results/smoke/runs/base/seed0"
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    (folder / "hold").touch()
    with subprocess.Popen(REPRODUCE, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as first:
        wait_for((run / "metrics.jsonl").exists)
        os.killpg(first.pid, signal.SIGKILL)
    assert any((folder / ".snakemake/locks").iterdir())  # what a killed Snakemake leaves behind
    (folder / "hold").unlink()

    again = subprocess.run(REPRODUCE, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert (run / "scores.jsonl").exists() and (run / "state").exists()
    assert (run / "metrics.jsonl").read_text().splitlines() == ["started", "started", "finished"]
    assert again.stdout.splitlines()[-1].split() == ["run", "results/smoke/runs/base/seed*/"]


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


def test_a_failed_step_fails_the_command_and_keeps_its_state_and_log(root, tmp_path):
    folder = make_checkout(root, tmp_path / "failed")
    (folder / "fail").touch()
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(REPRODUCE, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "error: told to fail" in done.stdout + done.stderr
    assert (folder / "results/smoke/logs/pretrain.log").read_text() == "error: told to fail\n"
    run = folder / "results/smoke/runs/base/seed0"
    assert (run / "state").exists() and (run / "metrics.jsonl").exists() and not (run / "model.safetensors").exists()
