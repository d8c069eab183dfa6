"""Loading, checking and path lists: every helper of the workflow."""

import json

from snakemake.io import _IOFile

from unigrpo.core import code_identity, registry
from unigrpo.core.errors import UserError
from unigrpo.report.data import phrases
from unigrpo.study import catalogue, published, resolve, standing, starts
from unigrpo.study.config import LEARNED
from unigrpo.study.facts import BACKBONES
from unigrpo.study.training_inputs import judging, named_files

ROOT = Path(os.path.relpath(HERE))  # relative, so that a moved checkout has nothing to do anew
CATALOGUE_FILE = ROOT / "pipelines" / "experiments.yaml"
SCALES = ROOT / "pipelines" / "scales"
PAPER = ROOT / "results" / "reference" / "paper.csv"
DETECTOR = ROOT / "assets" / "detector"

try:
    STUDY = resolve.load_study(CATALOGUE_FILE, SCALES, config)
except UserError as error:
    sys.exit(f"error: {error}")

SCALE = STUDY.scale_name
BENCHMARKS = STUDY.catalogue["benchmarks"]
TABLES = STUDY.catalogue["tables"]
FIGURES = STUDY.catalogue["figures"]
TRAINED = catalogue.runs_in_use(STUDY.catalogue)
JUDGED = catalogue.runs_in_use(STUDY.catalogue, judged=True)
RUN = "results/{scale}/runs/{run}/seed{seed}"
START = "results/{scale}/starts/seed{seed}"
THREADS = STUDY.scale.get("threads", 1)
BACKBONE = BACKBONES.load(STUDY.scale["backbone"], f"{SCALES / SCALE}.yaml: backbone").FACTS
GROUP = config.get("group")
CLAIMS = f"results/{SCALE}/claims.csv"
GPUS = int(STUDY.scale.get("device") == "cuda")
PROCESSES = STUDY.scale.get("processes", 1)  # of steps that train or sample the model, but for the base's training
MEMORY = STUDY.scale.get("memory", 4000)  # MB of the machine, for a process that holds a model
MEMORY_OF_ALL = STUDY.scale.get("memory_of_training", MEMORY * PROCESSES)  # for all of them
MINUTES = 60 * STUDY.scale.get("hours", 24)
KEEP_CODE = config.get("code") == "keep"
STAGES = {"rl": "train", "sft": "sft", "base": "pretrain"}  # of runs, and the rules that train them
NOTICED = {}  # step -> why it is out of date
GIVEN_AS_FILES = ("decoding", "scores", "pictures")  # given to steps as they are; of everything else the folder
ALONE = {"gpu": GPUS, "first_gpu": GPUS, "mem_mb": MEMORY, "runtime": MINUTES}  # of a step that is one process
TOGETHER = ALONE | {"gpu": GPUS * PROCESSES, "mem_mb": MEMORY_OF_ALL}  # of a step that is all of them


if altered := standing.damaged(Path("results") / SCALE):
    if config.get("weights") != "accept":
        output, record = next(iter(altered.items()))
        ways = "restore it, delete both to make it anew, or accept it with weights=accept"
        sys.exit(f"error: {output}: differs from what its step has written ({record}); {ways}")
    standing.accept(altered)

USE_PUBLISHED = config.get("published") == "use"
try:  # (run, seed) -> its published line, which counts as done
    if workflow.is_main_process:
        starts.lay_out(STUDY, config.get("starts") == "train", KEEP_CODE, USE_PUBLISHED)
    LAID = published.lay_out(STUDY, KEEP_CODE) if USE_PUBLISHED else {}
except UserError as error:
    sys.exit(f"error: {error}")


wildcard_constraints:
    scale=SCALE,
    run="[a-z][a-z0-9_]*",
    a="|".join(STUDY.runs()),
    b="|".join(STUDY.runs()),
    seed="[0-9]+",
    kind="table|figure",
    group="|".join({each.group for each in BENCHMARKS.values() if each.group}) or "(?!)",
    name="[a-z][a-z0-9_]*",


def launcher(processes):
    """What starts a step: python, or accelerate with as many processes. On CPUs too it takes the option for several
    GPUs to get several processes without MPI."""
    if processes == 1:
        return "python -m"
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    options += " --main_process_port 0"  # a free one: several jobs may run at once
    return f"python -m accelerate.commands.launch {options} -m"


def checkpoint_in(folder):
    """The files of a run, by what they are. They stay until a training that is done anew replaces them, and come back
    where it fails."""
    names = {"model": BACKBONE.weights, "card": "model.json", "record": "run.json"}
    return {what: update(f"{folder}/{name}") for what, name in names.items()}


def any_of(*stages):
    """Pattern of the runs of these stages."""
    return "|".join(STUDY.runs(*stages)) or "(?!)"


def folder(run, seed):
    return f"results/{SCALE}/runs/{run}/seed{seed}"


MODEL_OF_SFT = f"results/{{scale}}/runs/{catalogue.SFT}/seed{{seed}}/{BACKBONE.weights}"


def files(runs, name):
    """The file called ``name`` of every seed of these runs, a record of those with weights of their own; in place of
    what a published line does not make, the line."""
    seeds = STUDY.trained_seeds if name == "run.json" else STUDY.seeds
    chosen = [(run, seed) for run in runs for seed in seeds(run)]
    lines = {} if name.endswith("scores.jsonl") else LAID
    return [str(lines[each]) if each in lines else f"{folder(*each)}/{name}" for each in chosen]


def unless_published(path):
    """An input of scores, which a published line has already."""

    def of(wildcards):
        run, seed = wildcards.run, int(wildcards.seed)
        there = (run, seed) in LAID and os.path.exists(f"{folder(run, seed)}/scores.jsonl")
        return [] if there else path.format(**words(wildcards))

    return of


def words(wildcards):
    """The wildcards by name; the scale where a rule has none."""
    return {"scale": SCALE} | dict(wildcards.items())


def decides(step):
    """The settings that decide a step."""
    return lambda wildcards: standing.settings_of(step.format(**words(wildcards)), STUDY)


def logs(step):
    """What a step prints, and the record of it: what it has used and what it was made from."""
    return {"text": f"results/{{scale}}/logs/{step}.log", "record": f"results/{{scale}}/steps/{step}.jsonl"}


def anew(step, output, current):
    """A place among the inputs that stays empty, where a step that is out of date, or has not ended, is noticed:
    Snakemake is to do it, and what rests on it, anew. ``output`` is its first; ``current`` its settings now."""

    def notice(wildcards):
        name, made_before = (text.format(**words(wildcards)) for text in (step, output))
        counts = "run" in wildcards.keys() and (wildcards.run, int(wildcards.seed)) in LAID
        if name not in NOTICED and not counts:
            NOTICED[name] = standing.reasons(record_of(name), made_before, current(wildcards), KEEP_CODE)
            if NOTICED[name] or not standing.read(record_of(name)):  # one that has not ended is not what others rest on
                workflow.dag.forcefiles.add(made_before)  # Snakemake's own triggers know dates, or what it did itself
            if NOTICED[name]:
                print(f"{name} is out of date: {'; '.join(NOTICED[name])}", file=sys.stderr)
        return []

    return notice


async def never(file, time):
    """Snakemake takes a file that is newer than what was made from it for a change, whatever its triggers are."""
    return False


_IOFile.is_newer = never


def record_of(step):
    """The record of a step."""
    return Path(f"results/{SCALE}/steps/{step}.jsonl")


def step_of(run, seed):
    """The step that trains a run."""
    return f"{STAGES[STUDY.catalogue['runs'][run]['stage']]}.{run}.{seed}"


def lengthened(run, seed):
    """Whether a finished run is to go on."""
    step = step_of(run, seed)
    return standing.lengthened(record_of(step), standing.settings_of(step, STUDY), NOTICED.get(step, []))


def training(wildcards):
    """The command of a training. One that was finished starts anew, unless it is to be longer."""
    run, seed = wildcards.run, wildcards.seed
    finished = Path(folder(run, seed), "run.json").exists() and not lengthened(run, seed)
    words = ["--with code=keep"] * KEEP_CODE + ["--with state=anew"] * (finished or config.get("state") == "anew")
    return " ".join([f"train --scale {SCALE} --run {run} --seed {seed}", *words])


def to_train():
    """One line on the trainings of this call."""
    todo, up_to_date = {}, 0
    for job in workflow.dag.jobs:
        if job.rule.name not in STAGES.values():
            continue
        run, seed = job.wildcards.run, job.wildcards.seed
        step = step_of(run, seed)
        why = NOTICED.get(step, [])
        if not workflow.dag.needrun(job):
            up_to_date += 1
        elif lengthened(run, seed):
            todo[step] = "longer", why
        elif why or standing.read(record_of(step)):
            todo[step] = "anew" if why else "after", why
        else:
            todo[step] = "continued" if Path(folder(run, seed), "state").exists() else "new", []
    at_once = max(1, workflow.cores // (THREADS * PROCESSES))
    standing.TO_TRAIN.write_text(json.dumps({"steps": [*todo], "at_once": at_once}))
    line = standing.summary(todo, up_to_date, standing.duration(todo, SCALE, at_once))
    return line + f"; published lines: {len(LAID)}" * bool(LAID)


def made(current=None):
    """What the record of a step needs to know: its files, and of a result what it shows, which the step cannot tell."""

    def of(wildcards, input, output):
        about = {"settings": current(wildcards)} if current else {}
        return json.dumps(about | {"inputs": [*map(str, input)], "outputs": [*map(str, output)]})

    return of


def modes(wildcards):
    """How the run is evaluated, as options."""
    return " ".join(f"--mode {mode}" for mode in STUDY.modes(wildcards.run))


def parent_model(wildcards):
    """The checkpoint that this run starts from."""
    return f"{folder(*STUDY.parent(wildcards.run, int(wildcards.seed)))}/{BACKBONE.weights}"


def its_model(wildcards):
    """The checkpoint that this run samples from."""
    return f"{folder(*STUDY.weights(wildcards.run, int(wildcards.seed)))}/{BACKBONE.weights}"


def whole_starts(wildcards):
    """The base, and what reinforcement and judging by default need of every start."""
    named = ("decoding.json", f"{LEARNED[0]}/model.safetensors")
    found = [f"results/{SCALE}/starts/seed{k}/{name}" for k in range(STUDY.scale["seeds"]) for name in named]
    return [*files([catalogue.BASE, catalogue.SFT], "run.json"), *found]


def traces_of_parent(wildcards):
    """The sets of the run that a ceiling bounds, where it is their traces that are painted."""
    painted = STUDY.catalogue["runs"][wildcards.run].get("ceiling") == "painter"
    sets = f"samples_{wildcards.group}" if "group" in wildcards.keys() else "samples"
    return f"{folder(*STUDY.parent(wildcards.run, int(wildcards.seed)))}/{sets}/done.json" if painted else []


def options(named):
    """Named files as options."""
    return [word for name, path in named.items() if path for word in (f"--{name}", str(path))]


def step_options(wildcards, input, output):
    """A step's named inputs and its first output, as options: of most the folder."""
    places = {name: path if name in GIVEN_AS_FILES else Path(path).parent for name, path in input.items() if path}
    name, path = next(iter(output.items()))
    return options(places | {"out": path if name in GIVEN_AS_FILES else Path(path).parent})


def reward_model(wildcards):
    """The learned reward that the run is trained on, alone or among others."""
    rl = STUDY.config(wildcards.run, int(wildcards.seed))["rl"]
    trained = [facts.trained for facts in judging(rl["reward"], rl["reward_options"]).values() if facts.trained]
    return f"{START}/{trained[0]}/model.safetensors".format(**words(wildcards)) if trained else []


def given_files(wildcards):
    """The files that the run's line names: prompts, weights of its reward."""
    rl = STUDY.config(wildcards.run, int(wildcards.seed))["rl"]
    return [*filter(None, [rl["prompt_file"]]), *map(str, named_files(rl["reward_options"]))]


def one_run_scores(wildcards):
    """Scores of the run that `--config run=` names."""
    if "run" not in config:
        sys.exit("error: the target one_run needs a run: snakemake one_run --config run=unigrpo")
    return files([config["run"]], "scores.jsonl")


# What the rules of the report ask of the study.

SCALE_NOTE = phrases.scale_note(SCALE, not BACKBONE.released, STUDY.scale.get("trial", False)).replace("`", "``")


def in_report(path, category, **label):
    """An output that the report of the workflow shows."""
    return report(path, caption="captions/result.rst", category=category, labels=label)


def entry(wildcards):
    """The catalogue's entry of a table or figure."""
    kind, name = wildcards.kind, wildcards.name
    entries = STUDY.catalogue[f"{kind}s"]
    if name not in entries:
        sys.exit(f"error: {CATALOGUE_FILE}: no {kind} is called {name!r}{registry.nearest(name, entries)}")
    return entries[name]


def facts(wildcards):
    """What the entry's kind declares of itself."""
    return catalogue.facts_of(f"{wildcards.kind}s", entry(wildcards))


def described(runs, *more):
    """Fingerprint of what these runs and the benchmarks are called and what they are, and of ``more``."""
    shown = [*(STUDY.config(run, 0) for run in runs), *map(repr, BENCHMARKS.items()), *more]
    return {"content": resolve.fingerprint(shown)}


def named(wildcards):
    """The runs that a table or figure names, those of a group, the two that are compared, or all that are judged."""
    if "name" in wildcards.keys():
        return catalogue.runs_read(entry(wildcards))
    if "group" in wildcards.keys():
        return runs_of(wildcards.group)
    return [wildcards.a, wildcards.b] if "a" in wildcards.keys() else JUDGED


def runs_of(group):
    """The runs that tables of a group name, in the catalogue's order."""
    read = {run for name in catalogue.of_group(TABLES, group) for run in catalogue.runs_read(TABLES[name])}
    return [run for run in STUDY.runs() if run in read]


def sets(wildcards):
    """Where the scores of a table or figure lie in the folder of a run: '' but for benchmarks of a group."""
    shown = entry(wildcards).get("benchmarks") if "name" in wildcards.keys() else None
    group = BENCHMARKS[shown[0]].group if shown else words(wildcards).get("group")
    return f"samples_{group}/" if group else ""


def collected(wildcards):
    """What a collection of scores depends on beside them."""
    where = sets(wildcards)
    return {"runs": [f"{folder(run, seed)}/{where}" for run in named(wildcards) for seed in STUDY.seeds(run)]}


def shown(wildcards):
    """What a result depends on beside its inputs: its entry, and what its runs are."""
    chosen = entry(wildcards) if "name" in wildcards.keys() else None
    return described(named(wildcards), chosen, collected(wildcards), older(named(wildcards)))


def shown_in_claims(wildcards):
    """The same of the claims."""
    return described(claimed(), STUDY.catalogue["claims"], older(claimed()))


def older(runs):
    """The code by which these runs were made and which has changed since, where that is kept: results say so."""
    seeds = [(run, seed) for run in runs * KEEP_CODE for seed in STUDY.seeds(run)]
    codes = [code for each in seeds for code in standing.codes_of(Path("results") / SCALE, *each)]
    return list(filter(None, map(code_identity.changed, codes)))


def collection(wildcards, output):
    """The command that collects the scores of every seed of the named runs."""
    where = sets(wildcards)
    folders = [f"{run}={folder(run, seed)}/{where}" for run in named(wildcards) for seed in STUDY.seeds(run)]
    part = any(STUDY.catalogue["runs"][run].get("partial") for run in named(wildcards))
    return ["collect", "--out", output.scores, *["--partial"] * part, *folders]


def scores(wildcards):
    """The collection that a table or figure is made from: a separate one if it is not made by default, none if it shows
    training alone."""
    by_default = wildcards.name in catalogue.by_default(STUDY.catalogue[f"{wildcards.kind}s"])
    collection = "scores" if by_default else f"scores/{wildcards.kind}.{wildcards.name}"
    return f"results/{SCALE}/{collection}.csv" if facts(wildcards).scores else []


def records(wildcards):
    """What a table or figure reads of its runs besides the scores."""
    record = facts(wildcards).reads
    return files(named(wildcards), record.replace("samples/", sets(wildcards) or "samples/")) if record else []


def claimed(wildcards=None):
    """The runs whose records claims read beside the scores: those made by default, and of the others that a claim names
    those that are asked for or there already."""
    read = dict.fromkeys(run for claim in STUDY.catalogue["claims"].values() for run in catalogue.runs_read(claim))
    there = [run for run in read if run in runs_of(GROUP) or all(map(os.path.exists, files([run], "run.json")))]
    return list(dict.fromkeys(TRAINED + there))


def results(chosen):
    """The tables and figures that ``chosen`` picks of a section of the catalogue."""
    kinds = ("html", "md", "tex")
    tables = collect("results/{scale}/tables/{name}.{kind}", scale=SCALE, name=chosen(TABLES), kind=kinds)
    figures = collect("results/{scale}/figures/{name}.png", scale=SCALE, name=chosen(FIGURES))
    return [*tables, *figures]


def listed():
    """The results of this call: those of its group, or those made by default. Claims are among them where they read
    runs of the group that are not made by default, a gallery where the group has benchmarks."""
    if not GROUP:
        return [*results(catalogue.by_default), CLAIMS, f"results/{SCALE}/gallery.html"]
    gallery = [f"results/{SCALE}/gallery_{GROUP}.html"] * any(each.group == GROUP for each in BENCHMARKS.values())
    claims = [CLAIMS] * any(run not in TRAINED for run in runs_of(GROUP) if run in claimed())
    return [*results(lambda entries: catalogue.of_group(entries, GROUP)), *claims, *gallery]


def shown_in_front(wildcards):
    """What the front page depends on beside them: those that are there already."""
    there = [path for path in [*results(list), CLAIMS] if path in listed() or os.path.exists(path)]
    names = {Path(path).stem for path in there}
    shown = [each for entries in (TABLES, FIGURES) for each in entries.items() if each[0] in names]
    return described(claimed(), shown, there)
