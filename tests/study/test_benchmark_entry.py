"""A benchmark's images, version and prompts, against counts by hand; what its judge cannot judge is named."""

import json
from collections import Counter

import pytest

from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.study import resolve
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.world import prompts

RING = {"prompt": "a photo of a ring", "tag": "one", "include": [{"class": "ring", "count": 1}]}


@pytest.fixture
def own(tmp_path):
    """A benchmark of a file with these prompts."""

    def make(*rows, **settings):
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Benchmark(prompts=str(tmp_path / "own.jsonl"), **{"judge": "official"} | settings)

    return make


def test_a_category_of_few_prompts_has_as_many_images_as_one_of_least_prompts():
    geneval, ta = (resolve.benchmarks()[name] for name in ("geneval", "ta"))
    for base in (1, 4):
        images = Counter(prompt.tag for prompt, _ in geneval.jobs(base))
        assert images == {tag: 40 * base for tag in prompts.CATEGORIES}
    assert [number for _, number in ta.jobs(4)] == [0, 1, 2, 3] * 150
    assert len(replace(ta, least_prompts=301).jobs(1)) == 3 * 150


def test_images_of_the_entry_come_before_the_scales(own):
    benchmark = own(RING, RING | {"id": "second"}, images=3)
    assert [(prompt.id, k) for prompt, k in benchmark.jobs(7)] == [
        (name, k) for name in ("custom/001", "second") for k in range(3)
    ]
    assert len(own(RING).jobs(7)) == 7


def test_other_prompts_are_another_version(own):
    assert resolve.benchmarks()["ta"].version == "1"
    first = own(RING).version
    assert own(RING).version == first != own(RING | {"tag": "two"}).version


def test_its_categories_are_those_of_the_file_in_order(own):
    assert own(RING, RING | {"id": "b", "tag": "a"}, RING | {"id": "c"}).categories() == ["one", "a"]


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"prompt": "a ring"}, {}, "line 2: needs 'include', the clauses that official judges"),
        ({"prompt": "a ring"}, {"judge": "ocr"}, "line 2: .*expected a text to render"),
        (RING | {"prompt": "ring " * 99}, {}, "line 2: expected at most .* words for the learned reward, got 99"),
        (RING | {"prompt": "a photo of a cat"}, {}, "line 2: the word 'cat' is not in this world's vocabulary"),
        (RING | {"include": [{"class": ""}]}, {}, "line 2: .* needs 'class'"),
        ({"text": "a ring"}, {}, "line 2: expected a JSON object with a non-empty string 'prompt'"),
    ],
)
def test_a_prompt_that_cannot_be_judged_is_named(own, row, settings, message):
    first = RING | {"prompt": 'a photo of a "ring"'} if settings else RING
    with pytest.raises(UserError, match=rf"own.jsonl, {message}"):
        own(first, row, **settings).check("benchmarks.own", closed_vocabulary=not settings)


def test_a_reward_needs_no_clauses_and_words_are_free_where_no_vocabulary_is_closed(own):
    own({"prompt": "a cat on a mat " * 20}, judge="clip_score").check("benchmarks.own")
    own(RING | {"prompt": "a cat"}).check("benchmarks.own")


def test_a_reward_that_sees_more_than_images_is_no_judge(own, monkeypatch):
    from rewards import jpeg

    monkeypatch.setattr(jpeg, "FACTS", replace(jpeg.FACTS, sees=("traces", "policy")))
    with pytest.raises(
        UserError, match="^benchmarks.own.judge: expected a judge of images, jpeg sees traces and policy"
    ):
        own(RING, judge="jpeg").check("benchmarks.own")
