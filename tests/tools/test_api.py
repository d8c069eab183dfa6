"""The suite from Python: load, generate, judge."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import unigrpo
from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace, to_dict
from unigrpo.sampling.engine import Decoding, sample
from unigrpo.study.config import SamplingConfig
from unigrpo.tools.api import LONGEST, Painting, as_prompt
from unigrpo.world import prompts
from unigrpo.world.render import render
from unigrpo.world.scenes import scene_for
from unigrpo.world.traces import plan_of, write_plan

TEXT = "a photo of a red circle and a star"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save(folder, {})
    return unigrpo.load(folder, max_tokens=24)


def test_three_lines_are_enough(root):
    painting = unigrpo.load(root / "assets/base").generate(TEXT, seed=1)
    assert painting.image.mode == "RGB" and painting.trace.startswith("<think> ")
    assert {"gold", "strict", "official", "trace_correct"} <= unigrpo.judge(painting).keys()


def test_it_paints_what_the_sampler_paints(model):
    painting = model.generate(TEXT, thinking=True, guidance=2.0, temperature=0.7, steps=4, seed=5)
    job = (Prompt("prompt", TEXT, "custom", {}), 0)
    expected = sample(tiny.model(), [job], SamplingConfig(steps=4), Decoding(True, 2.0, 0.7), 5)
    assert painting.trace == expected.traces[0]
    assert np.array_equal(np.asarray(painting.image), expected.images[0])
    assert model.generate(TEXT, thinking=False, steps=4).trace is None


@pytest.mark.parametrize(
    "option, message",
    [
        ({"guidance": 0.5}, "guidance: expected at least 1, got 0.5"),
        ({"temperature": float("nan")}, "temperature: expected at least 0, got nan"),
        ({"steps": 1}, "steps: expected at least 2, got 1"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(model, option, message):
    with pytest.raises(UserError, match=message):
        model.generate(TEXT, **option)
    with pytest.raises(UserError, match="'dog' is not in this model's vocabulary"):
        model.generate("a photo of a dog")


def test_a_run_is_sampled_as_it_is_evaluated(tmp_path):
    """Grid, longest trace and precision are those of its configuration, where no option says otherwise."""
    tiny.model().save(tmp_path, {})
    cfg = tiny.run_config("rl", precision="bf16", device="auto")
    settings = replace(cfg.sampling, shift=2.0, max_trace_tokens=5)
    assert unigrpo.load(tmp_path).settings.max_trace_tokens == LONGEST
    write_json(tmp_path / "run.json", {"config": to_dict(replace(cfg, sampling=settings))})
    model = unigrpo.load(tmp_path)
    assert (model.settings, model.precision) == (settings, "bf16")
    told = unigrpo.load(tmp_path, precision="no", max_tokens=7)
    assert (told.settings.max_trace_tokens, told.precision) == (7, "no")
    job = (as_prompt(TEXT), 0)
    expected = sample(tiny.model(), [job], replace(settings, steps=4, max_trace_tokens=7), Decoding(True, 1.0, 1.0), 1)
    assert np.array_equal(np.asarray(told.generate(TEXT, steps=4, seed=1).image), expected.images[0])
    for option in ({"device": "gpu"}, {"precision": "fp16"}, {"max_tokens": 0}):
        with pytest.raises(UserError, match=rf"{next(iter(option)).split('_')[-1]}: expected"):
            unigrpo.load(tmp_path, **option)


def test_a_perfect_picture_is_judged_right_and_a_blank_one_wrong():
    prompt = as_prompt("a photo of a red circle left of a blue star and two hearts")
    scene = scene_for(prompt.meta, np.random.default_rng(0))
    image = Image.fromarray(render([scene], 48)[0])
    verdict = Painting(prompt, write_plan(plan_of(scene)), image).judge()
    assert [verdict[name] for name in ("gold", "strict", "soft", "official", "trace_correct")] == [1, 1, 1, 1, 1]
    blank = Painting(prompt, None, Image.new("RGB", (48, 48), "white"))
    assert blank.judge()["gold"] == 0 and "trace_correct" not in blank.judge()


def test_any_reward_judges_by_name():
    prompt = as_prompt(TEXT)
    scene = scene_for(prompt.meta, np.random.default_rng(0))
    painting = Painting(prompt, None, Image.fromarray(render([scene], 48)[0]))
    assert painting.judge("verifier") == {"verifier": 1.0}
    with pytest.raises(UserError, match="nothing"):
        painting.judge("nothing")


def test_wording_that_is_not_the_worlds_has_no_verdict():
    painting = Painting(as_prompt("a nice picture"), None, Image.new("RGB", (48, 48)))
    with pytest.raises(UserError, match="prompt 'a nice picture': expected the wording of the synthetic world"):
        painting.judge()


@pytest.mark.parametrize("name", prompts.SETS)
def test_what_a_prompt_states_is_read_from_its_text(name):
    for prompt in prompts.prompt_set(name):
        assert prompts.read_statement(prompt.text).include() == prompt.meta["include"]


def test_the_package_is_imported_without_torch(root):
    code = "import sys, unigrpo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root / "src").returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        unigrpo.lod  # noqa: B018
