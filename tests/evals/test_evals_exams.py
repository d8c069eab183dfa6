"""Exams put to a model: probabilities become TA, Soft-TIFA and DPG scores by hand-worked rules; bad prompt files."""

import json
import math
import re
from typing import Any

import pytest
from PIL import Image

from evals import benchmarks
from evals.benchmarks import dpg
from evals.benchmarks.dpg import QuestionGraphs, read_graphs, settled
from evals.benchmarks.geneval2 import SoftTifa, geometric_mean
from evals.benchmarks.ta import TextAlignment
from evals.instruments import exams
from evals.instruments.picture_files import Picture
from tests._support import fake_server, judges
from tests._support.rows import verdict
from tests.evals.test_evals_pictures import CUP, DOG, write_official
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.core.settings import annotations
from unigrpo.study.facts import BENCHMARKS

COWS = {
    "prompt": "two red cows",
    "atom_count": 3,
    "vqa_list": [["How many cows are there?", "two"], ["Are the cows red?", "Yes"], ["Are there any cows?", "Yes"]],
    "skills": ["count", "attribute", "object"],
}
BRIGHTNESS = """
from typing import Annotated
import numpy as np
import typer
from unigrpo.core.settings import Positive
from unigrpo.study.facts import BenchmarkFacts
FACTS = BenchmarkFacts(title="Brightness", version="1", caveat="None.")
class Judge:
    prompts = None
    def __init__(self, scale):
        self.scale, self.version = scale, f"brightness-1 {scale}"
    def check(self, picture):
        pass
    def judge(self, pictures, images):
        return [{"metrics": {"brightness": self.scale * float(np.asarray(i).mean())}, "reason": ""} for i in images]
    def summary(self, rows):
        return {}, []
def build(scale: Annotated[Positive, typer.Option(help="Factor.")] = 1.0):
    return Judge(scale)
"""
CAT = {"prompt": "a cat", "atom_count": 1, "vqa_list": [["Is there a cat?", "Yes"]], "skills": ["object"]}


class Says:
    """Answers with the share given to each question, or the error; cannot say eleven."""

    name, digest, answered = "owner/says", "d1", 0.5

    def __init__(self, **shares):
        self.shares, self.asked = shares, []

    def check(self, answer):
        if answer == "11":
            raise UserError("says: answer '11': is no single token")

    def ask(self, shown, questions, answers):
        self.asked += list(zip(questions, answers, strict=True))
        return [self.shares[question.split(" Answer")[0]] for question in questions]


def says(*values):
    questions = [q for row in (COWS, CAT) for q, _ in row["vqa_list"]]
    return Says(**dict(zip(questions, values, strict=False)))


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def picture(text, meta=None, name="a"):
    return Picture(name, Prompt(name, text, "", meta or {}), 0, lambda: Image.new("RGB", (20, 20)))


def judged(judge, *texts):
    pictures = [picture(text, name=f"{i}") for i, text in enumerate(texts)]
    rows = judge.judge(pictures, [p.open() for p in pictures])
    return [
        r if isinstance(r, UserError) else {"prompt_id": p.prompt.id} | r for p, r in zip(pictures, rows, strict=True)
    ]


# --------------------------------------------------------------------------------------- GenEval 2


def test_soft_tifa_by_hand(tmp_path):
    vlm = says(0.9, 0.4, 1.0, 0.25)
    judge = SoftTifa(vlm, write_rows(tmp_path / "p.jsonl", COWS, CAT))
    rows = judged(judge, "two red cows", "a cat", "two red cows")
    am, gm = (0.9 + 0.4 + 1.0) / 3, (0.9 * 0.4 * 1.0) ** (1 / 3)
    assert rows[0]["metrics"] == {"am": pytest.approx(am), "gm": pytest.approx(gm), "atoms": 3}
    assert rows[0]["reason"] == "Are the cows red?" and rows[1]["metrics"]["gm"] == pytest.approx(0.25)
    assert vlm.asked[0] == ("How many cows are there? Answer in one word.", "two")
    numbers, lines = judge.summary(rows)
    assert numbers["am"] == pytest.approx((2 * am + 0.25) / 3) and numbers["gm"] == pytest.approx((2 * gm + 0.25) / 3)
    assert numbers["by_atoms"]["3"] == {"gm": pytest.approx(gm), "am": pytest.approx(am), "images": 2}
    assert numbers["by_skill"]["object"] == {"am": pytest.approx((1 + 1 + 0.25) / 3), "points": 3}
    assert any(line.startswith(" 3 atoms: GM") for line in lines)
    assert judge.version.startswith("geneval2-2 prompts:") and judge.version.endswith(" says:d1")


def test_a_prompt_that_fails_wholly_in_one_atom_has_no_geometric_mean():
    assert geometric_mean([0.9, 0.0]) == 0 and geometric_mean([0.5]) == pytest.approx(0.5)
    assert geometric_mean([1e-200, 1e-200]) == pytest.approx(1e-200)


def test_an_answer_that_could_not_be_had_costs_its_image_alone(tmp_path):
    vlm = says(0.9, UserError("no reply"), 1.0, 0.25)
    rows = judged(SoftTifa(vlm, write_rows(tmp_path / "p.jsonl", COWS, CAT)), "two red cows", "a cat")
    assert str(rows[0]) == "no reply" and rows[1]["metrics"]["am"] == 0.25


def test_a_prompt_without_an_exam_is_told(tmp_path):
    judge = SoftTifa(says(), write_rows(tmp_path / "p.jsonl", CAT))
    with pytest.raises(UserError, match="prompt 'a dog' is not in .*p.jsonl"):
        judge.check(picture("a dog"))


def test_an_answer_that_the_judge_cannot_give_is_found_before_it_is_asked(tmp_path):
    many = {"prompt": "cats", "vqa_list": [["Is there a cat?", "yes"], ["How many cats are there?", "11"]]}
    path = write_rows(tmp_path / "p.jsonl", CAT, many)
    for kind in (SoftTifa, TextAlignment):
        with pytest.raises(UserError, match="p.jsonl: prompt 'cats': says: answer '11': is no single token"):
            kind(says(), path)
    nul = write_rows(tmp_path / "p.jsonl", CAT | {"vqa_list": [["Is it\0?", "yes"]]})
    for kind in (TextAlignment, SoftTifa):
        with pytest.raises(UserError, match="p.jsonl: prompt 'a cat': expected a text of whole characters, found NUL"):
            kind(says(), nul)
    told = {"include": [{"class": "cat", "count": 11}]}
    with pytest.raises(UserError, match="^a: prompt 'cats': says: answer '11'"):
        TextAlignment(says()).check(picture("cats", told))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"vqa_list": []}, "line 2: 'prompt' must be a text, found None"),
        (CAT | {"prompt": "b", "vqa_list": []}, "line 2: 'vqa_list' must be a list"),
        (CAT | {"prompt": "b", "vqa_list": [["q"]]}, r"must hold \[question, answer\], found \['q'\]"),
        (CAT | {"prompt": "b", "vqa_list": [["q", 2]]}, "must hold"),
        (CAT | {"prompt": "b", "skills": []}, "'skills' must be 1 texts"),
        (CAT | {"prompt": "b", "atom_count": 0}, "'atom_count' must be a whole number above 0"),
        (CAT, "line 2: prompt 'a cat' stands twice"),
    ],
)
def test_rows_that_are_no_exam_are_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        exams.read_exams(write_rows(tmp_path / "p.jsonl", CAT, row))


# ---------------------------------------------------------------------------------------------- TA


def test_ta_counts_points_at_even_odds(tmp_path):
    judge = TextAlignment(says(0.5, 0.49, 0.8, 0.1), write_rows(tmp_path / "p.jsonl", COWS, CAT))
    rows = judged(judge, "two red cows", "a cat")
    assert rows[0]["metrics"] == {"ta": pytest.approx(2 / 3), "ta_soft": pytest.approx(1.79 / 3), "atoms": 3}
    assert rows[0]["reason"] == "Are the cows red?"
    numbers, _ = judge.summary(rows)
    assert numbers["ta"] == pytest.approx((2 / 3 + 0) / 2)
    assert numbers["skills"]["object"] == {"share": 0.5, "points": 2}


def test_without_a_file_the_points_are_the_metadata_s():
    vlm = Says(**{"Is there a cup in the image?": 0.9, "Is there a red cup in the image?": 0.2})
    judge = TextAlignment(vlm)
    shown = picture(CUP["prompt"], CUP)
    (row,) = judge.judge([shown], [shown.open()])
    assert row["metrics"]["ta"] == 0.5 and [point[2] for point in row["points"]] == ["object", "attribute"]
    with pytest.raises(UserError, match="needs 'include'"):
        judge.check(picture("a cat"))
    with pytest.raises(UserError, match="'count'"):
        judge.check(picture("a cat", {"include": [{"class": "cat", "count": 0}]}))


# --------------------------------------------------------------------------------------------- DPG

HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)


def write_graph(path, *rows):
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


FARM = [
    'farm,"a red barn, a cow",,1,0,entity,whole,,Is there a barn?',
    "farm,,,2,1,attribute,color,,Is the barn red?",
    "farm,,,3,0,entity,whole,,Is there a cow?",
    'farm,,,4,"1,3",relation,spatial,,Is the cow beside the barn?',
]


def test_a_question_counts_only_if_those_it_rests_on_do(tmp_path):
    graph = read_graphs(write_graph(tmp_path / "d.csv", *FARM))["farm"]
    assert graph.exam.prompt == "a red barn, a cow" and graph.rests_on == ((), (1,), (), (1, 3))
    assert settled(graph, [True] * 4) == [True] * 4
    assert settled(graph, [False, True, True, True]) == [False, False, True, False]
    assert settled(graph, [True, False, True, True]) == [True, False, True, True]


CHAIN = [
    "farm,a barn,,1,0,entity,whole,,Is there a barn?",
    "farm,,,2,1,attribute,color,,Is the barn red?",
    "farm,,,3,2,attribute,color,,Is it a dark red?",
]


def test_a_refusal_goes_down_a_chain_and_categories_are_of_the_answers(tmp_path):
    """No, yes, yes: nothing counts; but both attributes were answered yes."""
    graph = read_graphs(write_graph(tmp_path / "d.csv", *CHAIN))["farm"]
    assert settled(graph, [False, True, True]) == [False, False, False]
    assert settled(graph, [True, False, True]) == [True, False, False]
    said = Says(**{"Is there a barn?": 0.1, "Is the barn red?": 0.9, "Is it a dark red?": 0.8})
    shown = picture("a barn")
    judge = QuestionGraphs(said, tmp_path / "d.csv")
    (row,) = judge.judge([shown], [shown.open()])
    assert row["metrics"]["dpg"] == 0 and row["reason"].count("\n") == 2
    numbers, _ = judge.summary([{"prompt_id": "farm"} | row])
    assert numbers["categories"]["attribute"] == {"share": 1.0, "points": 2}
    assert numbers["categories"]["entity"]["share"] == 0 and judge.version.startswith("dpg-style-3 ")


def test_a_row_above_its_premise_sees_the_premise_s_answer(tmp_path):
    """As rows are gone through once, in their order."""
    rows = "farm,,,2,3,attribute,color,,Is it a dark red?", "farm,,,3,1,attribute,color,,Is the barn red?"
    graph = read_graphs(write_graph(tmp_path / "d.csv", CHAIN[0], *rows))["farm"]
    assert graph.ids == (1, 2, 3) and graph.rests_on == ((), (3,), (1,))
    assert settled(graph, [False, True, True]) == [False, True, False]


def test_dpg_scores(tmp_path):
    shares = dict(zip(["Is there a barn?", "Is the barn red?", "Is there a cow?"], (0.4, 0.9, 0.9), strict=True))
    judge = QuestionGraphs(
        Says(**shares, **{"Is the cow beside the barn?": 0.9}), write_graph(tmp_path / "d.csv", *FARM)
    )
    first, other = picture("a red barn, a cow"), picture(" a red  barn, a cow", name="label")
    rows = judge.judge([first, other], [first.open(), other.open()])
    assert [row["metrics"]["dpg"] for row in rows] == [0.25, 0.25]
    numbers, _ = judge.summary([{"prompt_id": "farm", "tag": ""} | row for row in rows])
    assert numbers["dpg"] == 0.25 and numbers["categories"]["entity"] == {"share": 0.5, "points": 4}
    with pytest.raises(UserError, match="'a cat' .* is not in"):
        judge.check(picture("a cat", name="farm"))  # ids are labels


def test_one_text_of_two_graphs_is_the_failure_of_its_image(tmp_path):
    """Images find their graph by their text; the same graph under two ids is one."""
    cat, dog = "cat,a cat,,1,0,e,,,Is it a cat?", "dog,a dog,,1,0,e,,,Is it?"
    judge = QuestionGraphs(Says(), write_graph(tmp_path / "d.csv", cat, dog, cat.replace("cat,", "tom,", 1)))
    assert judge.check(picture("a cat")).exam.questions == ("Is it a cat?",)
    judge = QuestionGraphs(Says(), write_graph(tmp_path / "d.csv", cat, dog, "tom,a  cat,,1,0,e,,,Does it purr?"))
    with pytest.raises(UserError, match="prompt 'a cat' .a. is that of 2 items in .*d.csv"):
        judge.check(picture("a cat"))
    assert judge.check(picture("a dog")).ids == (1,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["farm,x,,one,0,e,,,Is it?"], "line 2: 'proposition_id' and 'dependency' must be numbers, found 'one'"),
        (["farm,x,,1,0,e,,,"], "line 2: 'item_id' and 'question_natural_language'"),
        (["farm,x,,1,7,e,,,Is it?"], "line 2: 'dependency' 7 is no other question"),
        (["farm,x,,1,0,e,,,Is it?", "farm,,,1,0,e,,,Is it?"], "line 3: 'proposition_id' 1 stands twice"),
        (["farm,x,,1,,e,,,Is it?"], "line 2: 'proposition_id' and 'dependency' must be numbers, found '1' and ''"),
        (["farm,x,,1,nan,e,,,Is it?"], "line 2: 'proposition_id' and 'dependency' must be numbers"),
        (["farm,x,,1.5,0,e,,,Is it?"], "line 2: 'proposition_id' and 'dependency' must be numbers, found '1.5'"),
        (["farm,x,," + "9" * 5000 + ",0,e,,,Is it?"], "line 2: 'proposition_id' and 'dependency' must be numbers"),
        (["farm,x,,1,0,e,,,Is it?", "farm,y,,2,0,e,,,Is it?"], "line 3: 'item_id' farm has another text"),
        ([FARM[0], "farm,x"], "line 3: expected 9 cells, found 2$"),
        (["farm,x,,1,0,e,,,Is it?,more"], "line 2: expected 9 cells, found 10$"),
        (["farm," + "x" * 200_000], "line 2: expected a row of CSV .field larger than field limit"),
        ([], "is empty"),
    ],
)
def test_graphs_that_are_none_are_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_graphs(write_graph(tmp_path / "d.csv", *rows))


def test_a_file_that_a_spreadsheet_wrote_is_read(tmp_path):
    """A byte-order mark, numbers with a point, a comma after the last premise, other ends of lines."""
    plain = read_graphs(write_graph(tmp_path / "d.csv", *FARM))
    rows = [FARM[0].replace(",1,0,", ",1.0,0.0,"), FARM[1], FARM[2], FARM[3].replace('"1,3"', '"1, 3.0,"')]
    (tmp_path / "s.csv").write_bytes(("\ufeff" + "\r\n".join([HEAD, *rows])).encode())
    assert read_graphs(tmp_path / "s.csv") == plain


def test_the_official_layout_is_four_pictures_in_a_file(tmp_path):
    """Judged as the same pictures one by one; the file's name says the prompt."""
    rows = [*FARM, 'pond,"a pond",,1,0,entity,whole,,Is there a pond?']
    prompts, folder = write_graph(tmp_path / "d.csv", *rows), tmp_path / "d"
    folder.mkdir()
    colours = [(60 * k, 10, 200 - 50 * k) for k in range(4)]
    sheet = Image.new("RGB", (64, 48))
    for k, colour in enumerate(colours):
        sheet.paste(colour, (k % 2 * 32, k // 2 * 24, k % 2 * 32 + 32, k // 2 * 24 + 24))
    sheet.save(folder / "farm.png")
    sheet.crop((0, 0, 63, 48)).save(folder / "pond.png")
    sheet.save(folder / "elsewhere.png")
    (folder / "._farm.png").write_bytes(b"\0")
    found = dpg.read(folder, str(prompts), 2)
    assert [(p.prompt.id, p.prompt.text, p.sample) for p in found.pictures[:4]] == [
        ("farm", "a red barn, a cow", k) for k in range(4)
    ]
    for picture, colour in zip(found.pictures[:4], colours, strict=True):
        assert picture.open().size == (32, 24) and picture.open().getcolors() == [(32 * 24, colour)]
    with pytest.raises(UserError, match="pond.png: expected 2 x 2 pictures of one size, found 63x48"):
        found.pictures[4].open()
    (whole, _) = dpg.read(folder, str(prompts)).pictures
    assert (whole.name, whole.open().size) == ("farm.png", (64, 48))
    assert found.broken == [("elsewhere.png", f"'item_id' 'elsewhere' is not in {prompts}")]

    (folder / "pond.png").unlink()
    command = ["judge", "dpg", "--images", str(folder), "--prompts", str(prompts), "--model", "judge", "--by-text"]
    with fake_server.serving(lambda _: fake_server.text("Yes.")) as (url, asked):
        assert call([*command, "--endpoint", url, "--grid", "2"]) == 1 and len(asked) == 16
    summary = read_json(tmp_path / "d.dpg/summary.json")
    assert (summary["images"], summary["failed"], summary["prompts"], summary["dpg"]) == (4, 1, 1, 1.0)
    write_official(tmp_path / "o")
    with pytest.raises(UserError, match="--grid: expected a folder of <item_id>.png at "):
        dpg.read(tmp_path / "o", str(prompts), 2)
    assert len(dpg.read(tmp_path / "o", str(prompts)).pictures) == 4


def test_a_column_that_is_missing_or_given_twice_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("item_id,text\na,b\n")
    with pytest.raises(UserError, match="line 1: expected each of .* once, found otherwise 'proposition_id'"):
        read_graphs(tmp_path / "d.csv")
    (tmp_path / "d.csv").write_text(f"{HEAD.replace('keywords', 'text')}\n{FARM[0]}\n")
    with pytest.raises(UserError, match="line 1: expected each of .* once, found otherwise 'text'"):
        read_graphs(tmp_path / "d.csv")


# ------------------------------------------------------------------------------------ the commands


def test_ta_with_a_model_of_transformers(tmp_path, capsys):
    """A tiny model through the real loader, one by one and in batches."""
    write_official(tmp_path / "d", [CUP, DOG])
    model = judges.save_vlm(tmp_path / "vlm")
    command = ["judge", "ta", "--images", str(tmp_path / "d"), "--vlm", str(model), "--device", "cpu", "--answered=0"]
    assert call(command) == 0
    assert call([*command, "--batch", "1", "--out", str(tmp_path / "alone")]) == 0
    summary = read_json(tmp_path / "d.ta/summary.json")
    assert summary["images"] == 4 and summary["version"].startswith("ta-style-2 points:2 vlm:")
    folders = (tmp_path / "d.ta", tmp_path / "alone")
    together, alone = ([row for _, row in read_jsonl(folder / "images.jsonl")] for folder in folders)
    for a, b in zip(together, alone, strict=True):
        assert [p[3] for p in a["points"]] == pytest.approx([p[3] for p in b["points"]], abs=1e-5)
    assert "TA-style (ta-style-2" in capsys.readouterr().out


def test_geneval_2_over_a_server_that_fails_once(tmp_path, capsys):
    prompts = write_rows(tmp_path / "p.jsonl", COWS | {"prompt": CUP["prompt"]}, CAT | {"prompt": DOG["prompt"]})
    write_official(tmp_path / "d", [CUP, DOG], per_prompt=1)

    def answer(request):
        question = fake_server.question(request)
        return 400 if "cows red" in question else fake_server.tokens(**{"two" if "many" in question else "Yes": 0.8})

    with fake_server.serving(answer) as (url, asked):
        command = ["judge", "geneval2", "--images", str(tmp_path / "d"), "--prompts", str(prompts), "--endpoint", url]
        with pytest.raises(UserError, match="needs --model"):
            call(command)
        assert call([*command, "--model", "judge"]) == 1 and len(asked) == 4
    (row,) = [row for _, row in read_jsonl(tmp_path / "d.geneval2/images.jsonl")]
    assert verdict(row) == {"am": pytest.approx(0.8), "gm": pytest.approx(0.8), "atoms": 1}
    (failed,) = [row for _, row in read_jsonl(tmp_path / "d.geneval2/failed.jsonl")]
    assert failed["image"] == "00000/samples/0000.png" and "HTTP 400" in failed["problem"]
    assert f"judge_at_{url.split('/')[2]}" in read_json(tmp_path / "d.geneval2/summary.json")["version"]
    summary = read_json(tmp_path / "d.geneval2/summary.json")
    assert math.isclose(summary["gm"], 0.8, rel_tol=1e-6) and (summary["questions"], summary["answered"]) == (4, 0.75)
    shown = capsys.readouterr().out
    assert "1 images judged, 1 could not be" in shown and "75 % of the questions got an answer" in shown


@pytest.mark.parametrize("reply", [401, 404, fake_server.tokens(**{"<think>": 0.99}), fake_server.text("Yes")])
@pytest.mark.parametrize("benchmark", ["ta", "geneval2", "dpg"])
def test_a_wrong_setup_ends_the_command_before_anything_is_judged(tmp_path, benchmark, reply):
    """A key, a name, a model that thinks, a server without log-probabilities: two requests, or as many as tries."""
    graph = write_graph(tmp_path / "d.csv", *(f"p{i},{p['prompt']},,1,0,e,,,Is it?" for i, p in enumerate([CUP, DOG])))
    rows = write_rows(tmp_path / "p.jsonl", COWS | {"prompt": CUP["prompt"]}, CAT | {"prompt": DOG["prompt"]})
    file = {"ta": [], "geneval2": ["--prompts", str(rows)], "dpg": ["--prompts", str(graph)]}[benchmark]
    write_official(tmp_path / "d", [CUP, DOG])
    with fake_server.serving(lambda _: reply) as (url, asked):
        command = ["judge", benchmark, "--images", str(tmp_path / "d"), *file, "--endpoint", url, "--model", "judge"]
        with pytest.raises(UserError, match="question about a red square"):
            call([*command, "--tries", "2"])
    assert len(asked) <= 4 and not (tmp_path / f"d.{benchmark}/images.jsonl").exists()


def test_a_key_that_is_refused_later_leaves_what_was_judged(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG], per_prompt=4)
    replies = iter([fake_server.tokens(Yes=1.0)] * 8)
    with fake_server.serving(lambda _: next(replies, 401)) as (url, asked):
        command = ["judge", "ta", "--images", str(tmp_path / "d"), "--batch=1", "--endpoint", url, "--model", "judge"]
        with pytest.raises(UserError, match="HTTP 401.*nothing more is asked after 3 such refusals in a row"):
            call([*command, "--concurrency=1"])
        assert len(asked) == 11
        replies = iter([fake_server.tokens(Yes=1.0)] * 100)
        assert call(command) == 0
    rows = [row for _, row in read_jsonl(tmp_path / "d.ta/images.jsonl")]
    assert len(rows) == 8 and len(asked) <= 11 + sum(len(row["points"]) for row in rows) - 7
    assert read_json(tmp_path / "d.ta/summary.json")["answered"] == 1


def test_the_share_of_answers_counts_the_questions_of_images_without_a_verdict(tmp_path):
    vlm = says(0.9, UserError("none"), 1.0, 0.25)
    graph = write_graph(tmp_path / "d.csv", *FARM)
    shares = dict.fromkeys(["Is there a barn?", "Is the barn red?", "Is there a cow?"], 0.9)
    for judge, texts in (
        (SoftTifa(vlm, write_rows(tmp_path / "p.jsonl", COWS, CAT)), ("two red cows", "a cat")),
        (TextAlignment(vlm, tmp_path / "p.jsonl"), ("two red cows", "a cat")),
    ):
        rows = [r for r in judged(judge, *texts) if not isinstance(r, UserError)]
        numbers, lines = judge.summary(rows)
        assert (numbers["questions"], numbers["answered"]) == (4, 0.75)
        assert lines[-1] == "75 % of the questions got an answer"
    judge = QuestionGraphs(Says(**shares, **{"Is the cow beside the barn?": 0.9}), graph)
    numbers, lines = judge.summary(judged(judge, "a red barn, a cow"))
    assert (numbers["questions"], numbers["answered"]) == (4, 1) and lines[-1].startswith("100 % of the questions")


def test_the_bound_and_how_pictures_are_sent_belong_to_the_version(tmp_path):
    write_official(tmp_path / "d", [CUP], per_prompt=1)
    command = ["judge", "ta", "--images", str(tmp_path / "d"), "--model", "judge"]
    with fake_server.serving(lambda _: fake_server.tokens(Yes=0.4, So=0.6)) as (url, _):
        more = ["--endpoint", url, "--answered", "0.4", "--format", "jpeg", "--longest-side", "18"]
        assert call([*command, *more]) == 0
    assert read_json(tmp_path / "d.ta/summary.json")["version"].endswith(",_jpeg,_18_px answered:0.4")


def test_options_of_a_server_need_a_server(tmp_path):
    write_official(tmp_path / "d")
    for alone in (["--by-text"], ["--model", "judge"], ["--format", "webp"], ["--longest-side", "64"]):
        with pytest.raises(UserError, match="belong to a server, which --endpoint names"):
            call(["judge", "ta", "--images", str(tmp_path / "d"), *alone])
    with fake_server.serving(lambda _: fake_server.text("Yes.")) as (url, _):
        call(["judge", "ta", "--images", str(tmp_path / "d"), "--endpoint", url, "--model", "judge", "--by-text"])
    summary = read_json(tmp_path / "d.ta/summary.json")
    assert summary["ta"] == summary["ta_soft"] == 1 and summary["version"].endswith(",_by_text")


def test_every_benchmark_declares_itself_and_its_options():
    assert BENCHMARKS.names() == ["dpg", "geneval", "geneval2", "mean_reward", "ta", "text"]
    for name in BENCHMARKS.names():
        module = BENCHMARKS.load(name)
        assert module.FACTS.title and module.FACTS.version and module.FACTS.caveat.endswith(".")
        assert Any not in annotations(module.build).values()


def test_help_shows_a_benchmark_s_options(capsys):
    for name in BENCHMARKS.names():
        call(["judge", name, "--help"])
        shown = capsys.readouterr().out
        for option in annotations(BENCHMARKS.load(name).build):
            assert f"--{option.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--device", "gpu"], "--device: expected auto, cpu, cuda or cuda:<number>, got 'gpu'"),
        (["--endpoint", "localhost:8000"], "--endpoint: expected a URL, http:// or https:// with a host"),
        (
            ["--endpoint", "http://me:pass@h/v1"],
            "--endpoint: expected a URL without user, password, query and fragment",
        ),
        (["--answered", "2"], "--answered: expected at most 1, got 2.0"),
        (["--timeout", "0"], "--timeout: expected more than 0, got 0.0"),
        (["--prompts", "/nowhere.jsonl"], "--prompts: expected the path of a file or folder that is there"),
        (["--vlm", "/nowhere"], "--vlm: expected a file or folder that is there, or a repository of the hub"),
    ],
)
def test_wrong_options_are_named_before_anything_is_judged(tmp_path, option, message):
    write_official(tmp_path / "d")
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        call(["judge", "ta", "--images", str(tmp_path / "d"), *option])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_benchmark_of_one_s_own_is_a_file(tmp_path, monkeypatch, capsys):
    """Nothing else needs to be touched: it is found, has options, and judges."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/brightness.py").write_text(BRIGHTNESS)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path / "own")])
    write_official(tmp_path / "d", [CUP], per_prompt=2)
    assert call(["judge", "brightness", "--images", str(tmp_path / "d"), "--scale", "2"]) == 0
    summary = read_json(tmp_path / "d.brightness/summary.json")
    assert summary["title"] == "Brightness" and summary["images"] == 2 and "brightness" in capsys.readouterr().out
    with pytest.raises(UserError, match="^--scale: expected more than 0, got -1.0"):
        call(["judge", "brightness", "--images", str(tmp_path / "d"), "--scale=-1"])
