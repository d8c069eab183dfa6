"""The cross-reward table: means and paired differences by hand, hacking in the notes, images that cannot be read."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evals import cross
from evals.benchmarks import mean_reward
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.judges import reward as rewards
from unigrpo.judges.reward import Reward

META = {"tag": "colors", "include": [{"class": "circle", "count": 1}], "prompt": "a photo of a circle"}


def write_set(folder, levels, size=(20, 20)):
    """Images of one colour, (red, green) in [0, 1] each; two prompts in turn."""
    folder.mkdir(parents=True)
    header = {"benchmark": "geneval", "version": "1", "mode": "think", "guidance_name": "tuned"}
    (folder / "protocol.json").write_text(json.dumps(header))
    rows = []
    for number, (red, green) in enumerate(levels):
        Image.new("RGB", size, (round(255 * red), round(255 * green), 0)).save(folder / f"{number}.png")
        names = {"image": f"{number}.png", "prompt_id": f"p{number % 2}", "sample": number // 2}
        rows.append(names | {"prompt": f"{META['prompt']}, {number % 2}", "tag": "colors", "meta": META})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def channel(number):
    return Reward(f"c{number}", lambda images, prompts: images[:, number].mean((1, 2)), True)


@pytest.fixture
def colours(monkeypatch):
    """Rewards ``red`` and ``green`` besides those of the checkout."""
    held, load = {"red": channel(0), "green": channel(1)}, rewards.load
    monkeypatch.setattr(rewards, "load", lambda name, **o: held.get(name) or load(name, **o))


def run(tmp_path, *sources, rewards=("red", "green")):
    named = [f"--reward={name}" for name in rewards]
    code = call(["cross", "--out", str(tmp_path / "out"), *named, *map(str, sources)])
    if code:
        raise SystemExit(code)
    return pd.read_csv(tmp_path / "out/cross.csv").set_index(["run", "reward"])


BASE = [(0.2, 0.6), (0.4, 0.8), (0.2, 0.6), (0.4, 0.8)]
HACKED = [(0.75, 0.2), (0.95, 0.5), (0.75, 0.2), (0.95, 0.3)]  # two prompts tell what they agree on alone


def test_means_and_differences(tmp_path, colours, capsys):
    a, b = write_set(tmp_path / "a", BASE), write_set(tmp_path / "b", HACKED)
    table = run(tmp_path, f"sft={a}", f"rl={b}")
    assert table["mean"].tolist() == pytest.approx([0.3, 0.7, 0.85, 0.3], abs=0.004)
    assert table.loc[("rl", "red"), "gap"] == pytest.approx(0.55, abs=0.004)
    assert table.loc[("rl", "green"), "gap"] == pytest.approx(-0.4, abs=0.004)
    assert table.loc[("sft", "red"), ["gap", "gap_lo"]].isna().all()
    assert table["images"].tolist() == [4] * 4 and table["prompts"].tolist() == [2] * 4
    text = (tmp_path / "out/cross.md").read_text()
    assert "## Difference to sft" in text and "▲" in text and "▼" in text
    rows = [json.loads(line) for line in (tmp_path / "out/cross.jsonl").read_text().splitlines()]
    assert [(r["run"], r["prompt_id"], r["sample"]) for r in rows[:4]] == [
        ("sft", f"p{p}", s) for s in (0, 1) for p in (0, 1)
    ]
    assert rows[4]["scores"] == {"red": pytest.approx(0.75, abs=0.01), "green": pytest.approx(0.2, abs=0.01)}
    assert "2 rewards, 8 images" in capsys.readouterr().out
    assert "Rewards as held-out metrics" in (tmp_path / "out/cross.html").read_text()


def test_prompts_that_a_reward_reads_in_part_are_said(tmp_path, colours, capsys, monkeypatch):
    """Each text once, whatever the number of runs and of images."""
    score = rewards.load("red").score
    monkeypatch.setattr(score, "cut", lambda texts: {"3 tokens that red reads": len(texts) - 1}, raising=False)
    run(tmp_path, f"sft={write_set(tmp_path / 'a', BASE)}", f"rl={write_set(tmp_path / 'b', HACKED)}")
    said = "1 of 2 prompts are longer than the 3 tokens that red reads"
    assert said in capsys.readouterr().out and said in (tmp_path / "out/cross.md").read_text()


def test_seeds_and_the_reward_trained_on_are_those_of_the_run_s_folder(tmp_path, colours):
    sources = []
    for seed, levels in ((0, HACKED), (3, [(red, green - 0.01) for red, green in HACKED])):
        folder = tmp_path / f"runs/rl/seed{seed}"
        sources.append(f"rl={write_set(folder / 'samples/geneval.think.tuned', levels)}")
        (folder / "run.json").write_text(json.dumps({"config": {"stage": "rl", "rl": {"reward": "red"}}}))
    base = write_set(tmp_path / "base", BASE)
    table = run(tmp_path, f"sft={base}", *sources)
    assert table.loc[("rl", "red"), "seeds"] == 2 and table.loc[("rl", "red"), "trained_on"] == "red"
    assert "rl was trained on red: up; held out: green down." in (tmp_path / "out/cross.md").read_text()
    assert cross.parse_source(sources[1], []).seed == 3
    with pytest.raises(UserError, match="run 'rl', seed 0 is given twice"):
        run(tmp_path, sources[0], sources[0])
    with pytest.raises(UserError, match="run 'sft', seed 1 is given twice"):  # it would count as a second seed
        run(tmp_path, f"sft={base}", f"sft={base.parent}/./{base.name}")


def test_batches_and_sizes_do_not_matter(tmp_path, colours):
    folder = write_set(tmp_path / "a", HACKED)
    Image.open(folder / "1.png").resize((32, 24)).save(folder / "1.png")
    judges = [("red", channel(0)), ("green", channel(1))]
    source = cross.Source("a", 0, folder, None)
    whole, alone = (cross.score(source, judges, batch)[0] for batch in (32, 1))
    for first, second in zip(whole, alone, strict=True):
        assert first["image"] == second["image"] and first["scores"] == pytest.approx(second["scores"])


def test_an_unreadable_image_is_told_and_its_prompt_left_out_where_none_remains(tmp_path, colours, capsys):
    a, b = write_set(tmp_path / "a", BASE), write_set(tmp_path / "b", HACKED)
    for name in ("0.png", "2.png"):  # all images of the first prompt
        (b / name).write_bytes(b"no image")
    with pytest.raises(SystemExit) as end:
        run(tmp_path, f"sft={a}", f"rl={b}")
    told = capsys.readouterr()
    assert end.value.code == 1 and "2 images were not scored" in told.err and "not scored: rl: 0.png" in told.err
    table = pd.read_csv(tmp_path / "out/cross.csv").set_index(["run", "reward"])
    assert table.loc[("sft", "red"), "mean"] == pytest.approx(0.4, abs=0.004)  # of the second prompt alone
    assert "**Images that could not be scored**: 2 of rl." in (tmp_path / "out/cross.md").read_text()


def test_runs_are_paired_by_the_prompts_text_whatever_their_order_ids_and_what_is_missing(tmp_path, colours):
    def mapped(name, numbers, lighter=0):
        (tmp_path / name).mkdir()
        for k in numbers:
            Image.new("RGB", (16, 16), (5 * k + lighter, 0, 0)).save(tmp_path / name / f"{k}.png")
        prompts = {f"prompt {' ' * (k % 2)}{k}" if lighter else f"prompt {k}": f"{k}.png" for k in numbers}
        (tmp_path / name / "map.json").write_text(json.dumps(prompts))
        return tmp_path / name / "map.json"

    a, rows = mapped("a", range(40)), {}
    for name, numbers in (("same", range(40)), ("reversed", range(39, -1, -1)), ("less", range(1, 40))):
        table = run(tmp_path, f"a={a}", f"b={mapped(name, numbers, 4)}", rewards=["red"])
        rows[name] = table.loc[("b", "red")]
        assert rows[name][["gap", "gap_lo", "gap_hi"]].tolist() == pytest.approx([4 / 255] * 3, abs=1e-6)
    assert rows["same"].equals(rows["reversed"]) and rows["less"]["prompts"] == 39
    text = (tmp_path / "out/cross.md").read_text()
    assert "the 39 prompts that every one of them has, by text, of 40 (a), 39 (b)" in text


def test_nothing_shared_and_nothing_readable_are_errors(tmp_path, colours):
    a = write_set(tmp_path / "a", BASE)
    b = shutil.copytree(a, tmp_path / "b")
    other = (b / "manifest.jsonl").read_text().replace("a circle, ", "a square, ")
    (b / "manifest.jsonl").write_text(other)
    with pytest.raises(UserError, match="prompt 'p0': expected one text and tag for an id, found .*/a, .*/b"):
        run(tmp_path, f"a={a}", f"b={b}")
    (b / "manifest.jsonl").write_text(other.replace('"prompt_id": "p', '"prompt_id": "q'))
    with pytest.raises(UserError, match="share no prompt"):
        run(tmp_path, f"a={a}", f"b={b}")
    for name in range(4):
        (b / f"{name}.png").unlink()
    with pytest.raises(UserError, match="none of 4 images can be scored"):
        run(tmp_path, f"b={b}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("red={", "not valid JSON"),
        ("red=[1]", "expected a JSON object"),
        ("nothing", "no reward is called 'nothing'"),
        ('verifier={"a": 1}', "reward verifier: a: unknown option"),
    ],
)
def test_bad_rewards_are_named(tmp_path, colours, reward, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, f"a={write_set(tmp_path / 'a', BASE)}", rewards=[reward])


def test_a_reward_s_refusal_names_the_sample(tmp_path, colours, monkeypatch):
    broken = Reward("broken", lambda images, prompts: images[:, 0].mean((1, 2)) / 0 * 0, False)
    monkeypatch.setattr(rewards, "load", lambda name, **o: broken)
    with pytest.raises(UserError, match=r"none of 4 images can be scored; 0.png: reward broken: p0"):
        run(tmp_path, f"a={write_set(tmp_path / 'a', BASE)}")


def test_an_image_that_a_reward_refuses_is_left_out_alone(tmp_path, monkeypatch, capsys):
    picky = Reward("picky", lambda images, prompts: (images[:, 0].mean((1, 2)) - 0.3).log(), False)  # not under 0.3
    monkeypatch.setattr(rewards, "load", lambda name, **o: picky)
    folder = write_set(tmp_path / "a", BASE)
    with pytest.raises(SystemExit):
        run(tmp_path, f"a={folder}", rewards=["picky"])
    rows = [json.loads(line) for line in (tmp_path / "out/cross.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [
        "1.png",
        "3.png",
    ] and "2 images were not scored" in capsys.readouterr().err


def test_a_reward_is_a_benchmark_too(tmp_path, colours, capsys):
    write_set(tmp_path / "a", BASE)
    assert call(["judge", "mean_reward", "--images", str(tmp_path / "a"), "--reward", "red"]) == 0
    summary = read_json(tmp_path / "a.mean_reward/summary.json")
    assert summary["mean"] == pytest.approx(0.3, abs=0.004) and summary["tasks"]["colors"]["images"] == 4
    assert summary["version"] == "reward-1 c0" and "Mean reward (reward-1 c0)" in capsys.readouterr().out


def test_the_version_of_a_mean_reward_holds_the_weights_that_its_options_name(tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "load", lambda name, **o: channel(0))
    folder = tmp_path / "weights"
    folder.mkdir()

    def version(reward):
        return mean_reward.build(reward=reward).version

    named = f"red={json.dumps({'path': str(folder)})}"
    found = []
    for content in ("one", "two", "one"):
        (folder / "model.pt").write_text(content)
        found.append(version(named))
    assert found[0] == found[2] != found[1] and version("red") == "reward-1 c0"
    assert re.fullmatch(r"reward-1 c0:[0-9a-f]{8} weights:[0-9a-f]{8}", found[0])
    assert version('red={"path": "else"}').count(":") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"normalise": "batch", "parts": {"jpeg": {"weight": 1}}},
        {
            "parts": {
                "all": {
                    "weight": 1,
                    "reward": "weighted",
                    "options": {"normalise": "batch", "parts": {"jpeg": {"weight": 1}}},
                }
            }
        },
    ],
    ids=["itself", "a part"],
)
def test_scores_that_depend_on_their_batch_are_no_metric(tmp_path, options):
    told = f"weighted={json.dumps(options)}"
    with pytest.raises(UserError, match="its scores depend on the images judged together, expected normalise: none"):
        run(tmp_path, f"a={write_set(tmp_path / 'a', BASE)}", rewards=[told])
    name, reward = rewards.held_out(told.replace("batch", "none"))
    assert name.startswith("weighted=") and not reward.relative


def test_rewards_of_the_checkout_score_the_world(tmp_path):
    """The verifier on rendered scenes: 1 where the circle is there, 0 where it is not."""
    from unigrpo.world.render import render
    from unigrpo.world.scenes import Obj, Scene

    folder = write_set(tmp_path / "a", BASE, size=(48, 48))
    scenes = [Scene((Obj(cls, "red", 0.5, 0.5, 0.11),)) for cls in ("circle", "square", "circle", "square")]
    for number, picture in enumerate(render(scenes, 48)):
        Image.fromarray(np.asarray(picture)).save(folder / f"{number}.png")
    table = run(tmp_path, f"a={folder}", rewards=["verifier"])
    assert table["mean"].tolist() == [pytest.approx(0.5, abs=0.06)]


def test_a_difference_on_one_prompt_has_no_direction():
    line = {"gap": 0.003, "gap_lo": None, "gap_hi": None}
    assert cross.direction(line) == "unclear"
    assert cross.direction(line | {"gap_lo": 0.001, "gap_hi": 0.005}) == "up"


def test_folders_of_genevals_layout_are_paired_by_text_whatever_their_numbers(tmp_path, colours):
    def folder(name, numbers, lighter=0):
        for place, k in enumerate(numbers):
            samples = tmp_path / name / f"{place:05d}/samples"
            samples.mkdir(parents=True)
            meta = {"prompt": f"prompt {k}", "tag": "t"}
            (samples.parent / "metadata.jsonl").write_text(json.dumps(meta) + "\n")
            Image.new("RGB", (16, 16), (5 * k + lighter, 0, 0)).save(samples / "0000.png")
        return tmp_path / name

    a, b = folder("a", range(6)), folder("b", [5, 3, 2, 1, 0], 4)
    table = run(tmp_path, f"a={a}", f"b={b}", rewards=["red"])
    assert table.loc[("b", "red")]["gap"] == pytest.approx(4 / 255, abs=1e-6)
    assert table.loc[("a", "red")][["prompts", "images"]].tolist() == [5, 5]  # what its mean rests on
