"""What a plug-in declares of itself in its constant ``FACTS``, which code asks in place of names; and the doors by
which plug-ins are loaded (``unigrpo.core.registry``). Imports no torch."""

import math
from collections.abc import Callable
from typing import Literal, dataclass_transform

import pydantic

from unigrpo.core.errors import UserError
from unigrpo.core.registry import Door
from unigrpo.core.settings import explain

Part = Literal["text", "image"]


@dataclass_transform(frozen_default=True)
def facts(kind: type) -> type:
    """A frozen dataclass whose values are checked when it is made. Raises UserError naming the one of another type."""
    made = pydantic.dataclasses.dataclass(kind, frozen=True, config=pydantic.ConfigDict(strict=True, extra="forbid"))
    check = made.__init__

    def init(self, *values: object, **named: object) -> None:
        try:
            check(self, *values, **named)
        except pydantic.ValidationError as error:
            raise UserError(explain(error, "FACTS", made)) from error

    made.__init__ = init
    return made


@facts
class MethodFacts:
    """An update rule (``unigrpo.methods``)."""

    trains: tuple[tuple[Part, ...], ...]  # the values of `train` that it can work with
    noise_inside: bool  # whether it draws noise inside the trajectory, hence has transition densities
    needs: tuple[Literal["reward_gradient", "sft_data"], ...] = ()
    copies: tuple[str, ...] = ()  # names of further copies of the policy, which `follow` moves and a checkpoint holds
    acts: str | None = None  # the copy that makes the rollouts; None: the policy itself
    ratio: bool = True  # whether it compares the policy with the one that made the rollout
    guided: bool = True  # whether it can train with classifier-free guidance
    holds: tuple[str, str | None] | None = None  # what holds it near its start: label, setting (or the regulariser's)
    moves_reference: bool = False  # whether the reference follows the policy
    schedule: bool = False  # whether what it does at a rollout depends on `rollouts`, so that no run can go on longer


@facts
class RegulariserFacts:
    """A distance to the reference (``unigrpo.objectives.regularisers``)."""

    weight: str  # the setting of a run that weighs it
    label: str  # as tables say it
    needs_noise: bool = False  # whether it compares transition densities


@facts
class RewardFacts:
    """A reward (``rewards``)."""

    what: str
    weights: str = "none"  # where they come from by default: a hub id, a package, or none
    licence: str = "none"  # of the weights
    range: tuple[float, float] = (-math.inf, math.inf)  # least and largest score
    input_size: int | None = None  # pixels a side that images are resized to; None: seen as they are
    differentiable: bool = False  # in the pixels, hence whether a method may use its gradient
    trained: str | None = None  # the folder of a scale's results that holds its weights, where the workflow trains it
    reads: Literal["statements", "text"] | None = None  # what it needs of a prompt: clauses to judge, a text to render
    most_words: int | None = None  # longest prompt that it reads; a longer one is refused
    most_tokens: int | None = None  # the same in tokens of its published weights; a longer one is cut
    sees: tuple[Literal["traces", "policy"], ...] = ()  # what it is called with by name, beside images and prompts
    parts: Callable[[dict], dict[str, tuple[str, dict]]] | None = None  # options -> part -> (reward, options)


@facts
class BenchmarkFacts:
    """A benchmark on real images (``evals.benchmarks``)."""

    title: str
    version: str
    caveat: str  # always shown beside its numbers
    by_task: bool = False  # whether its number is the mean of its tasks' means
    shares: tuple[str, ...] = ()  # those of its metrics that lie in [0, 1]
    averages_pictures: bool = False  # whether the official number weighs pictures, not prompts, alike
    samples: int = 1  # images that a prompt should have


STATISTICS = {
    "edge_density": "is the share of pixels at an edge",
    "dark": "is the share of dark pixels",
    "color_entropy": "is the entropy of the colours, 1 where all are equally frequent",
    "saturation": "is the mean saturation of the colours",
    "diversity": "is how unlike an image is the others of its prompt",
}
"""Numbers in [0, 1] of an image that nothing has to be known for (``evals.instruments.pixel_statistics``) -> what each
says."""


@facts
class BackboneFacts:
    """A kind of model (``unigrpo.models.backbones``)."""

    released: bool  # whether its base is a published release; else it is trained from nothing
    weights: str = "model.safetensors"  # the file of a run's folder that holds them
    tokenizer: str = "tokenizer"  # the same of the tokenizer: a file or a folder
    language_model: bool = False  # whether a second release, of a language model, belongs to it
    adapters_only: bool = False  # whether it trains adapters in place of weights
    splits: bool = True  # whether its network can be split among processes
    recomputes: bool = True  # whether its activations can be computed again in the backward pass
    gradient_through_trace: bool = True  # whether the image loss can reach the reasoning expert
    closed_vocabulary: bool = False  # whether prompts must use the world's words


@facts
class KindFacts:
    """A kind of table or figure (``unigrpo.report.tables``, ``unigrpo.report.figures``)."""

    title: str
    caption: str  # what it shows, in the workflow's report and in lists of kinds: the docstring of its file
    number: str = ""  # of the paper's table, before the title
    best: tuple[str, ...] = ()  # heads of columns of a table in which more is better, beside those of scores
    notes: tuple[str, ...] = ()  # sentences below a table, which depend on nothing
    rewards: bool = False  # whether the rewards that its runs are trained on are described below it
    printed: tuple[str, ...] = ()  # those that a paper prints besides
    shows: Literal["rows", "runs"] = "runs"  # the key of the catalogue's entry: runs, or runs with a mode each
    most_runs: int | None = None  # that it has room for
    reads: Literal["run.json", "samples/done.json"] | None = None  # of every run, beside the scores
    scores: bool = True  # whether it needs the runs' images judged
    reinforced: bool = False  # whether all its runs must be trained by reinforcement
    mode: Literal["no", "yes"] | None = None  # thinking that its runs must be evaluated with

    def __post_init__(self):
        object.__setattr__(self, "caption", " ".join(self.caption.split()))


TRAINING = {"scores": False, "reinforced": True, "reads": "run.json"}
"""Facts of a kind that shows reinforced runs, whether they are judged or not."""

METHODS = Door("unigrpo.methods", "method", MethodFacts, ("roll_out", "make_slices", "losses"))
REGULARISERS = Door("unigrpo.objectives.regularisers", "regulariser", RegulariserFacts, ("Settings", "distance"))
BACKBONES = Door("unigrpo.models.backbones", "backbone", BackboneFacts)
REWARDS = Door("rewards", "reward", RewardFacts, ("build",))
BENCHMARKS = Door("evals.benchmarks", "benchmark", BenchmarkFacts, ("build",))
TABLES = Door("unigrpo.report.tables", "kind of table", KindFacts, ("line", "text"))
FIGURES = Door("unigrpo.report.figures", "kind of figure", KindFacts, ("COLUMNS", "draw"))
