"""Loading, checking and path lists: every helper of the workflow."""

from unigrpo.study import catalogue
from unigrpo.study import resolve
from unigrpo.core import registry
from unigrpo.study.facts import BACKBONES, REWARDS
from unigrpo.core.errors import UserError

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
TRAINED = catalogue.runs_in_use(STUDY.catalogue)
JUDGED = catalogue.runs_in_use(STUDY.catalogue, judged=True)
IS_SHIPPED = STUDY.scale["base"].get("source") == "shipped"
RUN = "results/{scale}/runs/{run}/seed{seed}"
PRETRAINED = "results/{scale}/pretrained/{run}/seed{seed}" if IS_SHIPPED else RUN
THREADS = STUDY.scale.get("threads", 1)
BACKBONE = BACKBONES.load(STUDY.scale["backbone"], f"{SCALE_FILE}: backbone").FACTS
GROUP = config.get("group")
GPUS = int(STUDY.scale.get("device") == "cuda")
PROCESSES = STUDY.scale.get("processes", 1)  # of SFT and reinforcement; every other step has one
MEMORY = STUDY.scale.get("memory", 4000)  # MB of the machine, for a process that holds a model
MEMORY_OF_ALL = STUDY.scale.get("memory_of_training", MEMORY * PROCESSES)  # for all processes of SFT or RL
MINUTES = 60 * STUDY.scale.get("hours", 24)
ALONE = {"gpu": GPUS, "first_gpu": GPUS, "mem_mb": MEMORY, "runtime": MINUTES}  # of a step that is one process


wildcard_constraints:
    scale=SCALE,
    run="[a-z][a-z0-9_]*",
    a="|".join(STUDY.runs()),
    b="|".join(STUDY.runs()),
    seed="[0-9]+",
    kind="table|figure",
    name="[a-z][a-z0-9_]*",


def processes(wildcards):
    """How many processes train the run."""
    return 1 if wildcards.run == catalogue.BASE else PROCESSES


def launcher(wildcards):
    """What starts a training: python, or as many processes as the scale asks for. On CPUs too it takes accelerate's
    option for several GPUs to get several processes without MPI."""
    if processes(wildcards) == 1:
        return "python -m"
    options = f"--multi_gpu --num_processes {PROCESSES} --num_machines 1 --mixed_precision no --dynamo_backend no"
    options += " --main_process_port 0"  # a free one: several jobs may run at once
    return f"python -m accelerate.commands.launch {options} -m"


def checkpoint_in(folder):
    """The files of a run, by what they are."""
    tokenizer = f"{folder}/{BACKBONE.tokenizer}"
    return {
        "model": f"{folder}/{BACKBONE.weights}",
        "card": f"{folder}/model.json",
        "tokenizer": tokenizer if Path(BACKBONE.tokenizer).suffix else directory(tokenizer),
        "record": f"{folder}/run.json",
    }


def any_of(*stages):
    """Pattern of the runs of these stages."""
    return "|".join(STUDY.runs(*stages)) or "(?!)"


def folder(run, seed):
    return f"results/{SCALE}/runs/{run}/seed{seed}"


def files(runs, name):
    """The file called ``name`` of every seed of these runs."""
    return [f"{folder(run, seed)}/{name}" for run in runs for seed in STUDY.seeds(run)]


def settings(part, run=None):
    """Fingerprint of the part of the run's configuration that a step depends on, so that the step is done anew where it
    has changed; of ``run`` at seed 0, or of the wildcards'."""

    def of(wildcards):
        chosen = (run, 0) if run else (wildcards.run, int(wildcards.seed))
        return resolve.fingerprint(resolve.part(STUDY.config(*chosen), part))

    return of


def modes(wildcards):
    """How the run is evaluated, as options."""
    return [word for mode in STUDY.modes(wildcards.run) for word in ("--mode", mode)]


def parent_model(wildcards):
    """The checkpoint that this run starts from."""
    return f"{folder(*STUDY.parent(wildcards.run, int(wildcards.seed)))}/{BACKBONE.weights}"


def model_of_sft(wildcards):
    """The checkpoint that decoding is chosen and the reward learned on."""
    return f"{folder(catalogue.SFT, 0)}/{BACKBONE.weights}"


def given(wildcards, input):
    """What a training starts from, as options."""
    named = {name: path for name, path in input.items() if name in ("init", "reward")}
    options = {name: Path(path).parent for name, path in named.items()}
    options |= {"decoding": input.decoding} if "decoding" in input.keys() else {}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def reward_model(wildcards):
    """The learned reward that the run is trained on."""
    name = STUDY.config(wildcards.run, int(wildcards.seed))["rl"]["reward"]
    return f"results/{SCALE}/{REWARDS.load(name).FACTS.trained or 'reward'}/model.safetensors"


def prompt_file(wildcards):
    """The file of prompts that the run is trained on, if it names one."""
    path = STUDY.config(wildcards.run, int(wildcards.seed))["rl"]["prompt_file"]
    return [path] if path else []


def one_run_scores(wildcards):
    """Scores of the run that `--config run=` names."""
    if "run" not in config:
        sys.exit("error: the target one_run needs a run: snakemake one_run --config run=unigrpo")
    return files([config["run"]], "scores.jsonl")
