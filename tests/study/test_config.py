"""From the catalogue to a run's configuration: what composes, and how every kind of bad input is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests._support.tiny import DEFAULTS
from unigrpo.core.errors import UserError
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.core.yaml_files import read_yaml
from unigrpo.report.data.results import Folder
from unigrpo.study import config, resolve, standing
from unigrpo.study.catalogue import by_default, load_catalogue, of_group, runs_in_use
from unigrpo.study.config import RunConfig, rl_class, rl_config
from unigrpo.study.facts import METHODS
from unigrpo.study.resolve import load_study

SCALES = ("smoke", "cpu", "gpu", "paper", "sd35")

CATALOGUE = """
defaults: {method: grpo, regulariser: velocity_mse, reward: learned}
runs:
  base: {label: Base, evaluate: [no, yes]}
  sft: {init: base, evaluate: [no, yes]}
  joint: {label: Joint, init: sft, train: [text, image], evaluate: [yes]}
  image: {init: sft, train: [image], thinking: false, evaluate: [no]}
  guided: {like: joint, guidance: 2}
  twice: {like: guided, label: Twice, init: guided, train: [text]}
benchmarks:
  held_out: {prompts: geneval_eval, judge: official, images: 2, also: {gold: gold}}
  far: {prompts: five_objects, judge: official, group: far}
tables:
  main: {kind: main, rows: [[sft, no], [joint, yes]]}
  decoding: {kind: knobs, runs: [sft, joint]}
figures:
  curves: {kind: curves, runs: [twice]}
"""
SCALE = """
seeds: 3
threads: 2
backbone: world
device: cpu
model: {hidden_size: 64}
base: {source: train, steps: 50}
sft: {steps: 20, lr: 1e-4}
sampling: {steps: 8}
rl: {steps: 8, lr_text: 2e-4, group_size: 4, window_range: [0, 4]}
reward: {steps: 9}
"""


@pytest.fixture
def files(tmp_path):
    """(catalogue, folder of scales): a small study on disk."""
    (tmp_path / "runs.yaml").write_text(CATALOGUE)
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales" / "cpu.yaml").write_text(SCALE)
    return tmp_path / "runs.yaml", tmp_path / "scales"


def study(files, **options):
    return load_study(*files, options)


# ------------------------------------------------------------------------------------------------ what composes


@pytest.mark.parametrize("scale", SCALES)
def test_every_shipped_run_resolves_and_survives_json(root, scale):
    loaded = load_study(root / "pipelines/experiments.yaml", root / "pipelines/scales", {"scale": scale})
    for run in loaded.runs():
        for seed in loaded.seeds(run):
            data = json.loads(json.dumps(loaded.config(run, seed)))
            assert to_dict(from_dict(RunConfig, data)) == data
            assert (data["run"], data["seed"], data["scale"]) == (run, seed, scale)


def test_a_run_is_defaults_then_scale_then_its_line(files):
    guided = study(files).config("guided", 1)
    assert guided["rl"]["clip_text"] == rl_config(**DEFAULTS).clip_text  # nobody said otherwise
    assert (guided["rl"]["lr_text"], guided["rl"]["group_size"]) == (2e-4, 4)  # the scale's
    assert (guided["rl"]["guidance"], guided["rl"]["train"]) == (2, ["text", "image"])  # the line's; inherited
    assert (guided["model"]["hidden_size"], guided["sampling"]["steps"], guided["threads"]) == (64, 8, 2)
    assert (guided["init"], guided["evaluate"], guided["stage"], guided["seed"]) == ("sft", ["yes"], "rl", 1)


def test_supervised_runs_take_their_own_section(files):
    base, sft = study(files).config("base", 0), study(files).config("sft", 0)
    assert (base["stage"], base["supervised"]["steps"], base["source"], base["init"]) == ("base", 50, "train", None)
    assert (sft["stage"], sft["supervised"]["steps"], sft["source"], sft["init"]) == ("sft", 20, "train", "base")
    assert sft["supervised"]["lr"] == 1e-4


def test_like_inherits_all_but_the_label(files):
    assert study(files).config("guided", 0)["label"] == "guided"
    twice = study(files).config("twice", 0)
    assert (twice["label"], twice["init"]) == ("Twice", "guided")
    assert (twice["rl"]["train"], twice["rl"]["guidance"]) == (["text"], 2)


def test_replicates_have_a_start_of_their_own_on_one_base(files):
    loaded = study(files)
    assert {tuple(loaded.seeds(run)) for run in ("base", "sft", "joint")} == {(0, 1, 2)}
    assert [list(loaded.trained_seeds(run)) for run in ("base", "sft")] == [[0], [0, 1, 2]]
    assert loaded.weights("base", 2) == loaded.parent("sft", 2) == ("base", 0)
    assert loaded.weights("sft", 2) == loaded.parent("joint", 2) == ("sft", 2)
    assert loaded.parent("twice", 2) == ("guided", 2)
    assert list(study(files, seeds=1).seeds("joint")) == [0]


def test_a_line_may_ask_for_fewer_seeds(files):
    files[0].write_text(CATALOGUE.replace("guidance: 2}", "guidance: 2, seeds: 2}"))
    loaded = study(files)
    assert [len(loaded.seeds(run)) for run in ("joint", "guided", "twice")] == [3, 2, 2]  # inherited like the rest
    assert loaded.parent("twice", 1) == ("guided", 1) and len(study(files, seeds=1).seeds("guided")) == 1


def test_lines_that_a_command_asks_for_stand_beside_the_files(files, monkeypatch):
    """A new run is shown wherever the one is that it is like; its settings may be those of that one."""
    asked = {"mine": {"like": "joint", "label": "Mine", "guidance": 3}, "twice": {"rollouts": 7}}
    monkeypatch.setenv("UNIGRPO_LINES", json.dumps(asked))
    loaded = study(files)
    assert loaded.catalogue["tables"]["main"]["rows"] == [["sft", "no"], ["joint", "yes"], ["mine", "yes"]]
    mine, joint = (loaded.config(run, 0) for run in ("mine", "joint"))
    assert mine == joint | {"run": "mine", "label": "Mine", "rl": joint["rl"] | {"guidance": 3}}
    assert loaded.config("twice", 0)["rl"]["rollouts"] == 7
    monkeypatch.setenv("UNIGRPO_LINES", json.dumps({"mine": {"like": "joint"}}))
    with pytest.raises(UserError, match="runs.mine: is the same run as joint"):
        study(files)


def test_a_group_is_made_when_asked_for(files):
    files[0].write_text(CATALOGUE.replace("{kind: curves,", "{kind: curves, group: extra,"))
    loaded = study(files, group="extra")
    assert runs_in_use(loaded.catalogue) == ["base", "sft", "joint"]
    assert of_group(loaded.catalogue["figures"], "extra") == ["curves"]
    assert of_group(loaded.catalogue["figures"], None) == []
    with pytest.raises(UserError, match="--config group=extro: no such group; did you mean extra?"):
        study(files, group="extro")


def test_a_reinforced_run_knows_the_data_it_descends_from(files):
    text = CATALOGUE.replace("sft: {init: base,", "sft: {init: base, painter_habits: 0.25,")
    files[0].write_text(text)
    twice = study(files).config("twice", 1)["supervised"]
    assert (twice["painter_habits"], twice["lr"], twice["steps"]) == (0.25, 1e-4, 20)


def test_only_methods_on_data_depend_on_the_data():
    def training(method, **supervised):
        rl = DEFAULTS | {"method": method, "regulariser": "none" if method == "ddrl" else "velocity_mse"}
        data = {"run": "r", "label": "r", "stage": "rl", "scale": "cpu", "seed": 0, "init": "sft", "evaluate": ["yes"]}
        data["backbone"] = "world"
        return resolve.part(to_dict(from_dict(RunConfig, data | {"rl": rl, "supervised": supervised})), "training")

    for method, depends in (("grpo", False), ("ddrl", True), ("gardo", False)):
        assert (training(method) != training(method, paint_noise=0.5)) == depends


def test_only_runs_that_something_shows_are_in_use(files):
    catalogue = load_catalogue(files[0])
    assert runs_in_use(catalogue) == ["base", "sft", "joint", "guided", "twice"]  # with all ancestors
    assert runs_in_use(catalogue, judged=True) == ["base", "sft", "joint"]  # curves need no images
    catalogue["figures"]["curves"]["default"] = False
    assert runs_in_use(catalogue) == ["base", "sft", "joint"] and by_default(catalogue["figures"]) == []


def test_benchmarks_of_a_group_decide_the_steps_of_the_group_alone(files):
    found = study(files)
    for kind in ("sample", "score"):
        plain, grouped = (standing.settings_of(f"{kind}.joint.1{end}", found) for end in ("", ".far"))
        assert "held_out" in plain and "far" not in plain and "far" in grouped and "held_out" not in grouped
    assert list(Folder(Path("results"), found).benchmarks) == ["held_out"]
    assert list(Folder(Path("results"), found, ["far"]).benchmarks) == ["far"]


def test_a_ceiling_is_the_run_that_it_bounds_and_none_without_a_world(files):
    path, scales = files
    path.write_text(CATALOGUE.replace("  twice:", "  best: {label: Best, init: joint, ceiling: painter}\n  twice:"))
    found = study(files)
    bounded, ceiling = found.config("joint", 1), found.config("best", 1)
    assert ceiling == bounded | {"run": "best", "label": "Best", "init": "joint", "ceiling": "painter"}
    assert found.modes("best") == ["think"] and found.parent("best", 1) == ("joint", 1)
    assert found.seeds("best") == found.seeds("joint") == range(3)
    real = dataclasses.replace(found, scale=found.scale | {"backbone": "bagel"})
    assert real.seeds("best") == range(0)


def changes(run, **sections):
    """Parts of the run's configuration that differ from the defaults' when settings of sections change."""
    base = {"run": run, "label": run, "stage": "rl" if run == "rl" else "sft", "scale": "cpu", "seed": 0}
    base |= {"init": "base", "evaluate": ["yes"], "backbone": "world", "device": "cpu"} | (
        {"rl": DEFAULTS} if run == "rl" else {}
    )
    sections = {k: DEFAULTS | v if k == "rl" else v for k, v in sections.items()}
    before, after = (to_dict(from_dict(RunConfig, base | extra)) for extra in ({}, sections))
    return [part for part in resolve.PARTS if resolve.part(before, part) != resolve.part(after, part)]


def test_a_step_depends_on_its_own_settings_only():
    assert changes("rl", label="other") == ["config"]
    assert changes("rl", evaluate=["no"]) == ["config"]
    assert changes("rl", rl={"lr_text": 1e-5}) == ["config", "training", "steps"]
    assert changes("rl", rl={"rollouts": 61}) == ["config", "training"]  # no step before them
    assert changes("rl", supervised={"lr": 1e-5}) == ["config"]
    assert changes("sft", supervised={"lr": 1e-5}) == ["config", "training", "steps"]
    assert changes("sft", supervised={"steps": 4001}) == ["config", "training", "steps"]  # its learning rates
    assert changes("sft", reward={"steps": 7}) == ["config", "reward"]
    assert changes("sft", sampling={"images_per_prompt": 9}) == ["config", "evaluation"]
    assert changes("sft", sampling={"guidance_grid": [1.0]}) == ["config", "tuning"]
    assert changes("rl", sampling={"steps": 9}) == list(resolve.PARTS)
    assert changes("rl", model={"layers": 9}) == list(resolve.PARTS)
    assert changes("rl", rl={"latent_kl_weight": 3.0}) == ["config", "training", "steps"]


def test_layout_and_bookkeeping_decide_nothing():
    rl = {"micro_batch": 7, "validate_every": 3, "validation_images": 2, "checkpoint_every": 7}
    rl |= {"checkpoint_minutes": 1.0, "keep_state": False, "keep_weights": "all"}
    for key, value in rl.items():
        assert changes("rl", rl={key: value}) == ["config"], key
    for key in ("validate_every", "checkpoint_every", "checkpoint_minutes"):
        assert changes("sft", supervised={key: 7}) == ["config"], key
    machine = {"threads": 2, "processes": 2, "device": "auto", "activation_checkpointing": True, "tracker": "wandb"}
    machine |= {"sampling": {"memory": 7}}
    for key, value in machine.items():
        for run in ("sft", "rl"):
            assert changes(run, **{key: value}) == ["config"], key
    assert changes("rl", processes=2, sharding=True, reduce_each_slice=True) == ["config"]
    assert changes("rl", precision="bf16") == list(resolve.PARTS)


def test_a_new_regulariser_changes_nothing_that_does_not_name_it():
    base = {"run": "r", "label": "r", "stage": "rl", "scale": "cpu", "seed": 0, "init": "sft", "evaluate": ["yes"]}
    data = to_dict(from_dict(RunConfig, base | {"backbone": "world", "rl": DEFAULTS}))
    before = resolve.part(data, "training")
    assert "latent_kl_weight" not in before["rl"] and "velocity_mse_weight" in before["rl"]


def test_a_schedule_makes_the_length_decide_every_step(monkeypatch):
    assert changes("rl", rl={"rollouts": 61}) == ["config", "training"]
    grpo = METHODS.load("grpo")
    monkeypatch.setattr(grpo, "FACTS", dataclasses.replace(grpo.FACTS, schedule=True))
    assert changes("rl", rl={"rollouts": 61}) == ["config", "training", "steps"]


def test_fingerprints_follow_values_not_order():
    assert resolve.fingerprint({"a": 1, "b": [2.0]}) == resolve.fingerprint({"b": [2.0], "a": 1})
    assert resolve.fingerprint({"a": 1}) != resolve.fingerprint({"a": 2})


def test_yaml_reads_what_it_says(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("{a: no, b: yes, c: on, d: true, e: 1e-4, f: 1.5E+3, g: -2e3, h: 0.1, i: 3, j: null, k: 1e, l: e4}")
    expected = {"a": "no", "b": "yes", "c": "on", "d": True, "e": 1e-4, "f": 1500.0, "g": -2000.0, "h": 0.1}
    assert read_yaml(path) == expected | {"i": 3, "j": None, "k": "1e", "l": "e4"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: &x [*x]", "an anchor contains itself"),
        ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: !mine 3", "could not determine a constructor for the tag"),
        ("a: 1\nb: 2\na: 3", "duplicate key"),
        ("a: " + "[" * 30 + "]" * 30, "levels of nesting"),
        ("a: " + "[" * 3000 + "]" * 3000, "levels of nesting"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{c}: &{c} [{','.join(['*' + b] * 10)}]\n" for b, c in zip("abcdefg", "bcdefgh", strict=True)
        ), "entries"),
        ("a: [1", "line "),
    ],
    ids=["recursive", "tag", "a user's tag", "twice", "deep", "very deep", "a bomb", "open"],
)  # fmt: skip
def test_yaml_that_is_no_plain_tree_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_yaml(tmp_path / "a.yaml")
    assert str(refusal.value).startswith(f"{tmp_path / 'a.yaml'}") and message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_yaml_is_of_version_1_2(tmp_path):
    (tmp_path / "a.yaml").write_text("{a: 010, b: 1:30, c: 2026-01-02, d: 0o10, e: 1.0}")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 10, "b": "1:30", "c": "2026-01-02", "d": 8, "e": 1.0}


# ---------------------------------------------------------------------------------------------- what is refused


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is not in the text once"
    return text.replace(old, new)


BAD_CATALOGUE = [  # what stands there, what is written instead, what the message says
    (
        "train: [image], thinking",
        "train: [image], thinkin",
        "runs.image.thinkin: not a setting of rl runs; did you mean thinking?",
    ),
    ("like: joint, guidance: 2", "like: joint, zzz: 2", "runs.guided.zzz: not a setting of rl runs"),
    ("tables:", "tabels:", "tabels: unknown key; did you mean tables?"),
    (
        "{kind: curves",
        "{kind: curve",
        "figures.curves.kind: no kind of figure is called 'curve'; did you mean curves?",
    ),
    ("kind: main", "kind: main, guidance: best", "tables.main.guidance: expected 'tuned' or 'unguided', got 'best'"),
    ("guidance: 2", "guidance: 1", "runs.guided: is the same run as joint, expected a setting that differs"),
    ("guidance: 2", "guidance: 2, lr_text: 2e-4", "runs.guided.lr_text: changes nothing, lr_text is 0.0002 without it"),
    ("init: guided, train", "init: guided, guidance: 2, train", "runs.twice.guidance: changes nothing, guidance is 2"),
    (
        "  twice:",
        "  s: {like: joint, vary: {guidance: [1, 3]}}\n  twice:",
        "runs.s_guidance_1: is the same run as joint",
    ),
    ("  twice:", "  s: {like: joint, vary: {guidanse: [1, 3]}}\n  twice:", "guidanse: not a setting of rl runs"),
    ("guidance: 2", "guidance: 2, seeds: 0", "runs.guided.seeds: expected at least 1, got 0"),
    ("guidance: 2", "guidance: two", "runs.guided.guidance: expected a number, got 'two'"),
    ("guidance: 2", "guidance: true", "runs.guided.guidance: expected a number, got True"),
    ("guidance: 2", "guidance: 0.5", "runs.guided.guidance: expected at least 1, got 0.5"),
    ("guidance: 2", "group_size: 1", "runs.guided.group_size: expected at least 2, got 1"),
    ("guidance: 2", "group_size: 2.5", "runs.guided.group_size: expected a whole number, got 2.5"),
    (
        "guidance: 2",
        "transition: cps, noise_level: 1.2",
        "runs.guided.noise_level: expected at most 1 for transition: cps",
    ),
    ("guidance: 2", "window_size: 0", "runs.guided.window_size: expected at least 1, got 0"),
    ("guidance: 2", "window_size: 5", "runs.guided.window_size: expected at most 4, the width of rl.window_range"),
    ("guidance: 2", "window_range: [3, 3]", "runs.guided.window_range: expected 0 <= start < end <= 7"),
    ("guidance: 2", "window_range: [4, 8]", "runs.guided.window_range: expected 0 <= start < end <= 7"),
    ("guidance: 2", "window_range: [-1, 3]", "runs.guided.window_range: expected 0 <= start < end <= 7"),
    ("guidance: 2", "window_range: [0, 1, 2]", "runs.guided.window_range: expected 2 values, got (0, 1, 2)"),
    ("guidance: 2", "train: [text, text]", "runs.guided.train: expected text, image or both"),
    ("guidance: 2", "train: [words]", "runs.guided.train[0]: expected 'text' or 'image', got 'words'"),
    ("guidance: 2", "thinking: false", "runs.guided.thinking: expected true where text is trained"),
    ("guidance: 2", "thinking: no", "runs.guided.thinking: expected true or false, got 'no'"),
    ("guidance: 2", "regulariser: mse", "runs.guided.regulariser: no regulariser is called 'mse'"),
    ("guidance: 2", "prompts_per_rollout: 5", "runs.guided.prompts_per_rollout: expected a multiple of rl.epochs"),
    ("guidance: 2", "guidance: 2, guidance: 3", 'line 8: duplicate key "guidance"'),
    ("guidance: 2", "wrong_traces: 0.5", "runs.guided.wrong_traces: not a setting of rl runs"),
    ("{init: base,", "{init: base, noise_level: 0.5,", "runs.sft.noise_level: not a setting of sft runs"),
    ("{init: base,", "{init: base, wrong_traces: 2,", "runs.sft.wrong_traces: expected at most 1, got 2"),
    ("{init: base,", "{", "runs.sft.init: missing, the run it starts from"),
    ("{label: Base,", "{init: sft,", "runs.base.init: unexpected, base starts from nothing"),
    ("{init: base,", "{init: twice,", "init: goes round in a circle (sft -> twice -> guided -> sft)"),
    ("like: guided, label", "like: twice, label", "runs.twice.like: goes round in a circle (twice -> twice)"),
    ("init: guided", "init: guide", "runs.twice.init: no run is called 'guide'; did you mean guided?"),
    ("{like: joint,", "{like: jiont,", "runs.guided.like: no run is called 'jiont'; did you mean joint?"),
    ("thinking: false, evaluate: [no]", "thinking: false", "runs.image.evaluate: missing"),
    ("thinking: false, evaluate: [no]", "evaluate: [maybe]", "runs.image.evaluate[0]: expected 'no' or 'yes'"),
    ("  base: ", "  bass: ", "runs.base: missing, the workflow needs a run of this name"),
    ("  guided: ", "  Guided-2: ", "runs.Guided-2: a name has small letters, digits and underscores only"),
    ("[joint, yes]", "[jont, yes]", "tables.main.rows.1: no run is called 'jont'; did you mean joint?"),
    ("[joint, yes]", "[joint, no]", "tables.main.rows.1: run 'joint' is not evaluated with thinking 'no'"),
    ("[joint, yes]", "[joint]", "tables.main.rows[1]"),
    ("kind: curves, runs: [twice]", "kind: curves", "figures.curves.runs: missing, kind curves shows them"),
    ("kind: curves, runs: [twice]", "kind: progress, runs: [sft]", "run 'sft' is not trained by reinforcement"),
    (
        "knobs, runs: [sft, joint]",
        "training_cost, runs: [jont]",
        "tables.decoding.runs.0: no run is called 'jont'; did you",
    ),
    ("knobs, runs: [sft, joint]", "training_cost, runs: [base]", "run 'base' is not trained by reinforcement"),
    ("knobs, runs: [sft, joint]", "training_cost", "tables.decoding.runs: missing, kind training_cost shows them"),
    ("knobs, runs: [sft, joint]", "guided, runs: [image]", "run 'image' is not evaluated with thinking 'yes'"),
    ("knobs, runs: [sft, joint]", "guided, runs: [sft]", "run 'sft' is not trained by reinforcement"),
    ("knobs, runs: [sft, joint]", "overoptimisation, runs: [sft]", "run 'sft' is not trained by reinforcement"),
    ("knobs, runs: [sft, joint]", "overoptimisation", "decoding.runs: missing, kind overoptimisation shows them"),
    (
        "{kind: curves, runs: [twice]",
        "{kind: curves, default: 0, runs: [twice]",
        "curves.default: expected true or false",
    ),
    ("runs: [twice]", "runs: [once]", "figures.curves.runs.0: no run is called 'once'"),
    ("tables:", "tables: zzz:", "line 13"),
    (
        "images: 2",
        "also_report: [jpg], images: 2",
        "benchmarks.held_out.also_report: no reward is called 'jpg'; did you mean jpeg",
    ),
    (
        "benchmarks:",
        "also_report: {jpeg: {quality: 99}}\nbenchmarks:",
        "held_out.also_report.jpeg.quality: expected at most 95",
    ),
    ("benchmarks:", "also_report: [ocr]\nbenchmarks:", "expected another reward than the judge, of images and"),
    ("benchmarks:", "also_report: jpeg\nbenchmarks:", "also_report: expected a mapping, got 'jpeg'"),
    (
        "  twice:",
        "  t: {label: T, images: x, thinkin: no}\n  twice:",
        "t.thinkin: unknown key; did you mean think",
    ),
    ("  twice:", "  t: {label: T, images: x, thinking: maybe}\n  twice:", "runs.t.thinking: expected 'no' or 'yes'"),
    ("  twice:", '  t: {label: "T\\nU", images: x}\n  twice:', "runs.t.label: expected one line of text, got 'T\\nU'"),
    ("  twice:", "  t: {label: T, images: 3}\n  twice:", "runs.t.images: expected text, got 3"),
    ("  twice:", "  t: {label: T, images: x, train: [text]}\n  twice:", "runs.t.train: unknown key"),
    (
        "  twice:",
        "  t: {label: T, images: x}\n  u: {init: t, evaluate: [yes]}\n  twice:",
        "runs.u.init: expected a run that is trained",
    ),
    (
        "  twice:",
        "  c: {label: C, init: image, ceiling: painter}\n  twice:",
        "runs.c.init: expected a run after base that is",
    ),
    (
        "  twice:",
        "  c: {label: C, init: joint, ceiling: roof}\n  twice:",
        "runs.c.ceiling: expected 'painter' or 'traces'",
    ),
    ("  twice:", "  c: {label: C, init: joint, ceiling: painter, seeds: 2}\n  twice:", "runs.c.seeds: unknown key"),
    (
        "rows: [[sft",
        "benchmarks: [held_out, far], group: far, rows: [[sft",
        "tables.main.benchmarks: expected those of one",
    ),
    ("rows: [[sft", "benchmarks: [far], rows: [[sft", "tables.main.benchmarks: expected group: far beside far"),
    ("images: 2", "imags: 2", "benchmarks.held_out.imags: unknown key; did you mean images?"),
    ("images: 2", "images: 0", "benchmarks.held_out.images: expected at least 1, got 0"),
    (
        "judge: official, images",
        "judge: oficial, images",
        "benchmarks.held_out.judge: no judge is called 'oficial'; did you mean official",
    ),
    ("judge: official, images", "judge: jpeg, images", "benchmarks.held_out.also.gold: jpeg gives no 'gold'"),
    (
        "also: {gold: gold}",
        "also: {gold: glod}",
        "benchmarks.held_out.also.gold: official gives no 'glod'; did you mean g",
    ),
    ("also: {gold: gold}", "judge_options: {a: 1}", "benchmarks.held_out.judge_options.a: unknown option"),
    (
        "judge: official, images: 2, also: {gold: gold}",
        "judge: jpeg, judge_options: {quality: 99}",
        "benchmarks.held_out.judge_options.quality: expected at most 95, got 99",
    ),
    (
        "judge: official, images: 2, also: {gold: gold}",
        "judge: learned",
        "benchmarks.held_out.judge_options.path: missing",
    ),
    (
        "prompts: geneval_eval",
        "prompts: none.jsonl",
        "benchmarks.held_out.prompts: expected a file or one of train, val",
    ),
    (
        "  held_out: ",
        "  other: {prompts: ta_eval, judge: official, also: {gold: gold}}\n  held_out: ",
        "benchmarks.held_out: expected another name than 'gold', which a table has already",
    ),
    ("  held_out: ", "  images: ", "benchmarks.images: expected another name than 'images', which a table has already"),
    ("  held_out: ", "  held-out: ", "benchmarks.held-out: a name has small letters"),
    (
        "kind: main",
        "kind: main, benchmarks: [heldout]",
        "tables.main.benchmarks: no benchmark is called 'heldout'; did",
    ),
    (
        "runs: [twice]",
        "benchmarks: [held_out], runs: [twice]",
        "figures.curves.benchmarks: changes nothing, kind curves",
    ),
    (
        "runs: [twice]",
        "categories: [count], runs: [twice]",
        "figures.curves.categories: no prompt is of category 'count'",
    ),
    ("  guided: ", "  1: ", "runs.1: a name has small letters, digits and underscores only"),
    ("  guided: ", "  [a]: ", "a name has small letters"),
    ("figures:", "zzz:", "zzz: unknown key; known: also_report, benchmarks, claims, defaults, figures, runs, tables"),
    ("guidance: 2}", "guidance: 2", "line 9"),
    ("guidance: 2", "lr_text: 11", "runs.guided.lr_text: expected at most 10, got 11"),
    ("guidance: 2", "noise_level: 100", "runs.guided.noise_level: expected at most 10, got 100"),
    ("guidance: 2", "rollouts: 1000000000000", "runs.guided.rollouts: expected at most 1e+09"),
    ("guidance: 2", "rollouts: 1000000000", "runs.guided.rollouts: expected at most 10,000,000,000 episodes in all"),
    ("guidance: 2", "guidance: 2, seeds: 1.0", "runs.guided.seeds: expected a whole number, got 1.0"),
    ("guidance: 2", "method: gropo", "runs.guided.method: no method is called 'gropo'; did you mean grpo?"),
    ("guidance: 2", "nft_beta: 2", "runs.guided.nft_beta: not a setting of rl runs"),
    (
        "  twice:",
        "  s: {like: joint, vary: {guidance: [1.5, '1.5']}}\n  twice:",
        "runs.s.vary.guidance: two of its values make a run called 's_guidance_1_5'",
    ),
]


@pytest.mark.parametrize("old, new, message", BAD_CATALOGUE, ids=[new for _, new, _ in BAD_CATALOGUE])
def test_a_bad_catalogue_is_refused(files, old, new, message):
    files[0].write_text(edited(CATALOGUE, old, new))
    with pytest.raises(UserError) as refusal:
        study(files)
    text = str(refusal.value)
    assert text.startswith(f"{files[0]}: ") and message in text and "\n" not in text


BAD_SCALE = [
    ("seeds: 3", "seeds: 0", "seeds: "),
    ("seeds: 3", "seeds: three", "seeds: expected a whole number, got 'three'"),
    ("threads: 2", "thread: 2", "thread: unknown key; did you mean threads?"),
    ("{hidden_size: 64}", "{hiden_size: 64}", "model.hiden_size: unknown key; did you mean hidden_size?"),
    ("{hidden_size: 64}", "{hidden_size: 63}", "model.hidden_size: expected a multiple of model.heads"),
    ("{hidden_size: 64}", "[64]", "model: expected a mapping, got [64]"),
    ("source: train", "source: bought", "source: expected 'train' or 'released', got 'bought'"),
    ("source: train", "source: released", "released: expected a folder or hub id"),
    ("group_size: 4", "group_size: 1", "rl.group_size: expected at least 2"),
    ("rl: {steps: 8", "rl: {steps: 4", "rl.window_range: expected 0 <= start < end <= 3"),
    ("window_range: [0, 4]", "window_range: [0, 2]", "rl.window_size: expected at most 2"),
    ("sampling: {steps: 8}", "sampling: {steps: 1}", "sampling.steps: expected at least 2, got 1"),
    ("sft: {steps: 20, lr: 1e-4}", "", "sft: missing"),
    ("device: cpu", "device: {cpu", "line "),
    ("threads: 2", "threads: 5000", "threads: expected at most"),
    ("seeds: 3", "seeds: 3.0", "seeds: expected a whole number, got 3.0"),
    ("backbone: world", "backbone: wrld", "backbone: no backbone is called 'wrld'; did you mean world?"),
]


@pytest.mark.parametrize("content, message", [(b"\xff", "cannot be read"), (b"", "expected a mapping, got NoneType")])
def test_a_file_that_is_no_catalogue_is_refused(files, content, message):
    files[0].write_bytes(content)
    with pytest.raises(UserError, match=message):
        study(files)


@pytest.mark.parametrize("old, new, message", BAD_SCALE, ids=[new for _, new, _ in BAD_SCALE])
def test_a_bad_scale_is_refused(files, old, new, message):
    path = files[1] / "cpu.yaml"
    path.write_text(edited(SCALE, old, new))
    with pytest.raises(UserError) as refusal:
        study(files)
    text = str(refusal.value)
    assert text.startswith(f"{path}") and message in text and "\n" not in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": "cup"}, "--config scale=cup: no such file in"),
        ({"scale": "cup"}, "did you mean cpu?"),
        ({"sede": 1}, "--config sede: unknown option; did you mean seeds?"),
        ({"seeds": 0}, "--config.seeds: expected at least 1, got 0"),
        ({"seeds": "two"}, "--config.seeds: expected a whole number, got 'two'"),
        ({"run": "jont"}, "--config run=jont: no such run; did you mean joint?"),
    ],
)
def test_bad_options_are_refused(files, options, message):
    with pytest.raises(UserError) as refusal:
        study(files, **options)
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", ["reference", "a.b+", "a b", "a;b", "$(touch a)", "-a", "A", "1", "a\n"])
def test_a_scale_whose_name_no_pattern_or_shell_takes_is_refused(files, name):
    path = files[1] / f"{name}.yaml"
    path.write_text(SCALE)
    with pytest.raises(UserError) as refusal:
        study(files, scale=name)
    shown = str(path).replace("\n", r"\n")
    assert str(refusal.value).startswith(f"{shown}: expected a name of small letters, digits and underscores")


@pytest.mark.parametrize("name", ["a.b+", "a b", "a;b", "$(touch a)", "-a", "é", "a\n"])
@pytest.mark.parametrize("section, old", [("runs", "guided"), ("benchmarks", "held_out")])
def test_a_run_or_benchmark_whose_name_no_pattern_or_shell_takes_is_refused(files, section, old, name):
    files[0].write_text(edited(CATALOGUE, f"  {old}: ", f"  {json.dumps(name)}: "))
    with pytest.raises(UserError, match="a name has small letters, digits and underscores only"):
        study(files)


def test_a_line_that_does_not_fit_the_scale_names_both_files(files):
    files[0].write_text(edited(CATALOGUE, "guidance: 2", "window_range: [0, 6], window_size: 5"))
    study(files)
    (files[1] / "cpu.yaml").write_text(edited(SCALE, "rl: {steps: 8", "rl: {steps: 6"))
    with pytest.raises(UserError) as refusal:
        study(files)
    assert "runs.guided.window_range" in str(refusal.value) and "cpu.yaml" in str(refusal.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"runn": "a"}', "runn: unknown key; did you mean run?"),
        ("{}", "backbone: missing"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_resolved_configuration_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refusal:
        config.load(path)
    assert str(refusal.value).startswith(f"{path}") and message in str(refusal.value)


def test_every_rl_setting_refuses_a_wrong_type():
    for name, setting in rl_class("grpo").model_fields.items():
        with pytest.raises(UserError, match=f"^rl.{name}"):
            rl_config(**DEFAULTS | {name: 3 if setting.annotation in (str, str | None) else "?"})
