"""TA: one exam point a stated fact, answered from detections that are placed by hand."""

import hashlib
import json

import pytest

from tests._support.command import unigrpo
from unigrpo.core.records import Detection, Prompt
from unigrpo.world import exam_points
from unigrpo.world.geneval_verdict import CLASSES


def shape(color, cls, x, y, score=1.0):
    return Detection(cls, color, (x - 4, y - 4, x + 4, y + 4), score)


META = {
    "tag": "compound",
    "include": [
        {"class": "square", "count": 1, "color": "blue"},
        {"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]},
        {"class": "star", "count": 1},
    ],
    "prompt": "a photo of two red circles left of a blue square and a star",
}
RIGHT = [shape("blue", "square", 40, 24), shape("red", "circle", 8, 22), shape("red", "circle", 8, 36)]
RIGHT += [shape("black", "star", 24, 8)]

QUESTIONS = [
    ["Is there a square in the image?", "yes"],
    ["Is there a blue square in the image?", "yes"],
    ["Are there circles in the image?", "yes"],
    ["Are there red circles in the image?", "yes"],
    ["How many red circles are in the image?", "two"],
    ["Are the red circles left of the blue square?", "yes"],
    ["Is there a star in the image?", "yes"],
]


def failed(detections):
    reasons = exam_points.score(META, detections)["reason"].split("\n")
    return [number for number, (question, _) in enumerate(QUESTIONS) if question in reasons]


def test_row_has_one_natural_question_a_fact():
    assert exam_points.row(Prompt("p", META["prompt"], "compound", META)) == {
        "prompt": META["prompt"],
        "atom_count": 7,
        "vqa_list": QUESTIONS,
        "skills": ["object", "attribute", "object", "attribute", "count", "position", "object"],
    }


def test_article_follows_the_color():
    meta = {"include": [{"class": "star", "count": 1, "color": "orange"}]}
    assert [p.question for p in exam_points.exam_points(meta)][1] == "Is there an orange star in the image?"


SEVERAL = """
people bicycles cars motorcycles airplanes buses trains trucks boats traffic_lights fire_hydrants stop_signs
parking_meters benches birds cats dogs horses sheep cows elephants bears zebras giraffes backpacks umbrellas
handbags ties suitcases frisbees pairs_of_skis snowboards sports_balls kites baseball_bats baseball_gloves skateboards
surfboards tennis_rackets bottles wine_glasses cups forks knives spoons bowls bananas apples sandwiches oranges
pieces_of_broccoli carrots hot_dogs pizzas donuts cakes chairs couches potted_plants beds dining_tables toilets tvs
laptops computer_mice tv_remotes computer_keyboards cell_phones microwaves ovens toasters sinks refrigerators books
clocks vases pairs_of_scissors teddy_bears hair_driers toothbrushes
"""
ONE = {"skis": "pair of skis", "scissors": "pair of scissors", "broccoli": "piece of broccoli"}
AN = {"airplane", "elephant", "umbrella", "apple", "orange", "oven"}


def test_questions_are_grammatical_for_every_class_of_geneval():
    """The plurals as people write them, and not as GenEval's prompts do (two knifes)."""
    plurals = [words.replace("_", " ") for words in SEVERAL.split()]
    for cls, several in zip(CLASSES, plurals, strict=True):
        one = f"{'an' if cls in AN else 'a'} {ONE.get(cls, cls)}"
        red = several.replace(cls, f"red {cls}") if cls in ONE else f"red {several}"
        meta = {"include": [{"class": cls, "count": 1}, {"class": cls, "count": 2, "color": "red"}]}
        meta["include"][1]["position"] = ["left of", 0]
        assert [p.question for p in exam_points.exam_points(meta)] == [
            f"Is there {one} in the image?",
            f"Are there {several} in the image?",
            f"Are there {red} in the image?",
            f"How many {red} are in the image?",
            f"Are the {red} left of the {ONE.get(cls, cls)}?",
        ]


def test_the_worlds_questions_stay_what_they_were(capsys):
    """Byte for byte: published scores are of these."""
    unigrpo("prompts ta")
    text = capsys.readouterr().out
    assert hashlib.sha256(text.encode()).hexdigest().startswith("b5ed2591a0fcbbfd8890db708d285afe")


@pytest.mark.parametrize(
    ("detections", "wrong"),
    [
        (RIGHT, []),
        (RIGHT[1:], [0, 1, 5]),  # without its square a relation fails too
        ([shape("green", "square", 40, 24), *RIGHT[1:]], [1, 5]),  # the relation is to the blue square
        ([RIGHT[0], RIGHT[1], RIGHT[3]], [4]),  # one circle is still left of the square
        ([*RIGHT, shape("red", "circle", 8, 8)], [4]),  # a third circle is one too many
        ([*RIGHT, shape("green", "circle", 40, 40)], []),  # a circle of another colour is not counted
        ([*RIGHT[:2], shape("red", "circle", 44, 44), RIGHT[3]], [5]),  # both must be left of it
        ([RIGHT[0], shape("pink", "circle", 8, 22), shape("pink", "circle", 8, 36), RIGHT[3]], [3, 4, 5]),
        ([], [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_points_answered_from_detections(detections, wrong):
    assert failed(detections) == wrong
    result = exam_points.score(META, detections)
    assert (result["ta"], result["atoms"]) == (pytest.approx(1 - len(wrong) / 7), 7)


def test_relation_reads_the_best_scored_objects():
    left, right = shape("red", "circle", 8, 8, 0.9), shape("red", "circle", 44, 44, 0.95)
    meta = {"include": [META["include"][0], {"class": "circle", "count": 1, "position": ["left of", 0]}]}
    square = shape("blue", "square", 24, 24)
    assert "left of" in exam_points.score(meta, [square, left, right])["reason"]
    weaker = shape("red", "circle", 44, 44, 0.8)
    assert not exam_points.score(meta, [square, left, weaker])["reason"]


def test_a_prompt_that_states_nothing_scores_full_marks():
    assert exam_points.score({"include": []}, [])["ta"] == 1


def test_many_objects_are_counted_in_figures():
    crowd = [shape("red", "circle", 8, 8)] * 12
    count = next(p for p in exam_points.exam_points(META) if p.skill == "count")
    assert exam_points.answer(count, crowd) == "12"
    asked = exam_points.exam_points({"include": [{"class": "circle", "count": 12}]})
    assert asked[-1].expected == "12" and exam_points.answer(asked[-1], crowd) == "12"


def test_prompts_command_prints_the_worlds_150_rows(capsys):
    unigrpo("prompts ta")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 150
    for row in rows:
        assert row["atom_count"] == len(row["vqa_list"]) == len(row["skills"]) >= 3
