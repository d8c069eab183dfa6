"""Loading, checking and path lists: every helper of the workflow."""

from unigrpo import resolve
from unigrpo.types import UserError

ROOT = Path(os.path.relpath(HERE))  # relative, so that a moved checkout has nothing to do anew
CATALOGUE_FILE = ROOT / "pipelines" / "experiments.yaml"
SCALES = ROOT / "pipelines" / "scales"
PAPER = ROOT / "results" / "reference" / "paper.csv"
SHIPPED = ROOT / "assets" / "base"
SHIPPED_FILES = [
    SHIPPED / name
    for name in ("model.safetensors", "model.json", "metrics.jsonl", "run.json", "tokenizer/tokenizer.json")
]
DETECTOR = ROOT / "assets" / "detector"

try:
    STUDY = resolve.load_study(CATALOGUE_FILE, SCALES, config)
except UserError as error:
    sys.exit(f"error: {error}")

SCALE = STUDY.scale_name
SCALE_FILE = SCALES / f"{SCALE}.yaml"
TABLES = STUDY.catalogue["tables"]
FIGURES = STUDY.catalogue["figures"]
USED = resolve.runs_in_use(STUDY.catalogue)
IS_SHIPPED = STUDY.scale["base"].get("source") == "shipped"
PRETRAINED = "results/{scale}/base" if IS_SHIPPED else "results/{scale}/runs/base/seed0"
THREADS = STUDY.scale.get("threads", 1)
GPUS = int(STUDY.scale.get("device") == "cuda")


wildcard_constraints:
    scale=SCALE,
    run="[a-z][a-z0-9_]*",
    seed="[0-9]+",
    name="[a-z][a-z0-9_]*",


def any_of(*stages):
    """Pattern of the runs of these stages."""
    return "|".join(STUDY.runs(*stages)) or "(?!)"


def folder(run, seed):
    return f"results/{SCALE}/runs/{run}/seed{seed}"


def files(runs, name):
    """The file called ``name`` of every seed of these runs."""
    return [f"{folder(run, seed)}/{name}" for run in runs for seed in STUDY.seeds(run)]


def settings(wildcards):
    """Fingerprint of the part of the run's configuration that the step reading this file depends on."""
    config = STUDY.config(wildcards.run, int(wildcards.seed))
    return resolve.fingerprint(resolve.part(config, wildcards.part))


def modes(wildcards):
    """How the run is evaluated, in the names of its sample sets."""
    return STUDY.modes(wildcards.run)


def parent_model(wildcards):
    """The checkpoint that this run starts from."""
    return f"{folder(*STUDY.parent(wildcards.run, int(wildcards.seed)))}/model.safetensors"


def prompt_file(wildcards):
    """The prompts that the run is trained on, where it has its own."""
    path = STUDY.config(wildcards.run, int(wildcards.seed))["rl"]["prompt_file"]
    return [path] if path else []


def spec(wildcards):
    """Fingerprint of the catalogue's entry of a table or figure."""
    return resolve.fingerprint({"table": TABLES, "figure": FIGURES}[wildcards.kind][wildcards.name])


def kind_of_table(wildcards):
    """What the table's caption in the report turns on."""
    return TABLES[wildcards.name]["kind"]


def kind_of_figure(wildcards):
    """What the figure's caption in the report turns on."""
    return FIGURES[wildcards.name]["kind"]


def collected(wildcards):
    """``run=folder`` for every run and seed that a table or figure needs."""
    return [f"{run}={folder(run, seed)}" for run in USED for seed in STUDY.seeds(run)]


def table_inputs(wildcards):
    """What a table reads besides the scores: its runs' configurations, for their labels."""
    return [f"{folder(run, 0)}/config.json" for run in resolve.named(TABLES[wildcards.name])]


def figure_inputs(wildcards):
    """What a figure reads besides the scores."""
    figure = FIGURES[wildcards.name]
    record = {"curves": "run.json", "grid": "samples/done.json", "traces": "samples/done.json"}.get(figure["kind"])
    configs = [f"{folder(run, 0)}/config.json" for run in resolve.named(figure)]
    return configs + (files(figure["runs"], record) if record else [])


def gallery_inputs(wildcards):
    return [f"{folder(run, 0)}/config.json" for run in USED] + files(USED, "samples/done.json")


def claims_inputs(wildcards):
    """What the claims read besides the scores: what trained runs cost, which collapsed, and their labels."""
    return [f"{folder(run, 0)}/config.json" for run in USED] + files(USED, "run.json")


def one_run_scores(wildcards):
    """Scores of the run that `--config run=` names."""
    if "run" not in config:
        sys.exit("error: the target one_run needs a run: snakemake one_run --config run=unigrpo")
    return files([config["run"]], "scores.jsonl")
