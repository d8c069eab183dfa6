"""What the rules of the report ask of the study: inputs, captions, fingerprints."""

from unigrpo.report.data import phrases

SECTIONS = {"table": "tables", "figure": "figures"}
SCALE_NOTE = phrases.scale_note(SCALE, not BACKBONE.released).replace("`", "``")
CLAIMS = (
    "Which of the paper's claims hold here, which do not, and which stay undecided at this number of seeds and prompts: each"
    " by a rule that stood beforehand, with its weakest comparison, and whether the synthetic world designs it in."
)
GALLERY = (
    "Every prompt of the evaluation, the same noise in every run side by side, with the reasoning trace that each wrote"
    " before painting, verdicts and scores. Marked are the words of a trace that the verdict turned on. The filters show"
    " one category, or the prompts whose official verdict differs between two runs."
)


def entry(kind, name):
    """The catalogue's entry of a table or figure."""
    entries = STUDY.catalogue[SECTIONS[kind]]
    if name not in entries:
        sys.exit(f"error: {CATALOGUE_FILE}: no {kind} is called {name!r}{registry.nearest(name, entries)}")
    return entries[name]


def facts(kind, name):
    """What the entry's kind declares of itself."""
    return catalogue.facts_of(SECTIONS[kind], entry(kind, name))


def content(kind):
    """Fingerprint of the entry, and of what its runs are called and what they are."""

    def of(wildcards):
        wanted = entry(kind, wildcards.name)
        return resolve.fingerprint([wanted, described(catalogue.runs_read(wanted))])

    return of


def described(runs):
    """Fingerprint of what these runs are called and what they are."""
    return resolve.fingerprint([STUDY.config(run, 0) for run in runs])


def caption_of(kind):
    """What the report says below the table or figure."""
    return lambda wildcards: facts(kind, wildcards.name).caption


def collected(runs):
    """``run=folder`` for every seed of these runs."""
    return [f"{run}={folder(run, seed)}" for run in runs for seed in STUDY.seeds(run)]


def named(wildcards):
    """The runs that a table or figure names, or the two that are compared."""
    if "name" in wildcards.keys():
        return catalogue.runs_read(entry(wildcards.kind, wildcards.name))
    return [wildcards.a, wildcards.b]


def scores_of(kind):
    """The collection that a table or figure is made from: a separate one if it is not made by default, none if it shows
    training alone."""

    def path(wildcards):
        by_default = entry(kind, wildcards.name).get("default", True)
        collection = "scores" if by_default else f"scores/{kind}.{wildcards.name}"
        return [f"results/{SCALE}/{collection}.csv"] if facts(kind, wildcards.name).scores else []

    return path


def scores_option(wildcards, input):
    return ["--scores", *input.scores] if input.scores else []


def records_of(kind):
    """What a table or figure reads of its runs besides the scores."""

    def paths(wildcards):
        record = facts(kind, wildcards.name).reads
        return files(catalogue.runs_read(entry(kind, wildcards.name)), record) if record else []

    return paths


def shared_mode(wildcards):
    """With thinking where both runs are evaluated so, else without."""
    both = all("think" in STUDY.modes(run) for run in (wildcards.a, wildcards.b))
    return "--thinking" if both else "--no-thinking"


def claimed(wildcards=None):
    """The runs whose records claims read beside the scores: those made by default, and of the others that a claim names
    those that are asked for or there already."""
    asked = {run for name in catalogue.of_group(TABLES, GROUP) for run in catalogue.runs_read(TABLES[name])}
    read = dict.fromkeys(run for claim in STUDY.catalogue["claims"].values() for run in catalogue.runs_read(claim))
    there = [run for run in read if run in asked or all(map(os.path.exists, files([run], "run.json")))]
    return list(dict.fromkeys(TRAINED + there))
