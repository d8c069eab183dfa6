"""What leaves the suite: a run's checkpoint as a folder that stands for itself."""

import shutil
import tempfile
from pathlib import Path

from unigrpo.core import tensor_files
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import digest, new_folder, read_json, read_text, write_json, write_text
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.models import checkpoint, lora
from unigrpo.report.data.results import PAPER, Folder, Paper, Row, Scores, Sources, write_scores
from unigrpo.report.data.stats import written
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig
from unigrpo.study.facts import BACKBONES
from unigrpo.study.resolve import MODES
from unigrpo.tools import describe

STAGES = {"base": "supervised pretraining from scratch", "sft": "supervised fine-tuning"}
PARTS = {"text": "reasoning", "image": "denoising"}  # of a reinforced run, as the card calls them
SECTIONS = {"rl": "rl", "sft": "supervised", "base": "supervised"}  # stage -> settings that its training read

CARD = Path(__file__).with_name("model_card.md")  # a text with names in braces


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def changed_settings(cfg: RunConfig) -> str:
    """Those of the stage, the model and sampling that are not the default."""
    rows = []
    for section in ("model", SECTIONS[cfg.stage], "sampling"):
        settings = getattr(cfg, section)
        for name in settings.model_dump(exclude_defaults=True):
            field = type(settings).model_fields[name]
            usual = "none" if field.is_required() else str(field.get_default(call_default_factory=True))
            rows.append([f"`{section}.{name}`", str(getattr(settings, name)), usual])
    return table(["setting", "value", "default"], rows) if rows else "None."


def scores(folder: Path, cfg: RunConfig) -> str:
    """Means with 95 % intervals over prompts, as the tables make them; says so where the run was not judged."""
    path = folder / "scores.jsonl"
    if not path.exists():
        return "Not measured."
    with tempfile.TemporaryDirectory() as place:
        write_scores({(cfg.run, cfg.seed): path}, Path(place) / "scores.csv")
        sources = Sources(Scores(Path(place) / "scores.csv"), Paper(PAPER), Folder(folder))
    rows = []
    for thinking, mode in MODES.items():
        for guidance in ("unguided", "tuned"):
            row = Row(cfg.run, thinking, guidance)
            found = [sources.estimate(row, name, each.metrics[0]) for name, each in sources.benchmarks.items()]
            if any(found):
                protocols = sorted(folder.glob(f"samples/*.{mode}.{guidance}/protocol.json"))
                scales = [f" ({read_json(path, 'guidance')['guidance']:g})" for path in protocols[:1]]
                intervals = [written(e.mean, e.lo, e.hi) if e else "" for e in found]
                images = sources.scores.images(row, sources.benchmarks)
                rows.append([thinking, "".join([guidance, *scales]), *intervals, str(images)])
    head = ["thinking", "guidance", *(each.label for each in sources.benchmarks.values()), "images"]
    note = (
        "One seed, held-out prompts; 95 % intervals over prompts. `tuned` is the guidance scale "
        "chosen on validation prompts for the mode."
    )
    return f"{table(head, rows)}\n\n{note}"


def card(folder: Path, cfg: RunConfig) -> str:
    """The model card of a run's checkpoint."""
    facts, backbone = describe.checkpoint(folder), checkpoint.backbone_of(folder)
    kind, licence = backbone.LICENCE
    parts = " and the ".join(PARTS[part] for part in (cfg.rl.train if cfg.rl else ()))
    return read_text(CARD).format(
        label=cfg.label,
        kind=kind,
        licence=licence,
        what=backbone.WHAT.format(**facts),
        method=STAGES.get(cfg.stage) or f"`{cfg.rl.method}`: reinforcement of the {parts} part",
        base=f"the run `{cfg.init}` of the same scale" if cfg.init else "none, trained from scratch",
        run=f"{cfg.run}, seed {cfg.seed}, scale {cfg.scale}",
        **facts["parameters"],
        commit=facts["commit"] or "not recorded",
        sha256=facts["sha256"],
        settings=changed_settings(cfg),
        scores=scores(folder, cfg),
    )


def export(folder: Path, out: Path, at: str | None = None) -> None:
    """Write ``out`` from a finished run: weights, tokenizer, configuration, provenance, licence, the model card, and
    adapters of released models as peft and diffusers read them. ``at`` chooses a validation whose weights were kept:
    its update, or ``best``. Raises UserError where the run lacks something or ``out`` is there already."""
    where, data = provenance.needed_configuration(folder)
    with error_prefix(where):
        cfg = from_dict(RunConfig, data)
    backbone = BACKBONES.load(cfg.backbone)
    for name in (*backbone.FILES, "run.json"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: not found, expected a finished run")
    with new_folder(out) as temporary:
        for name in (*backbone.FILES, "run.json"):
            copy = shutil.copytree if (folder / name).is_dir() else shutil.copyfile
            copy(folder / name, temporary / name)
        if at is not None:
            _put_weights(folder, temporary, cfg, at)
        if hasattr(backbone, "convert"):
            backbone.convert(temporary, temporary)
        shutil.copyfile(provenance.ROOT / "LICENSE", temporary / "LICENSE")
        write_json(temporary / "config.json", to_dict(cfg))
        write_text(temporary / "README.md", card(folder if at is None else temporary, cfg))


def _put_weights(folder: Path, out: Path, cfg: RunConfig, at: str) -> None:
    """Put the weights of a validation of the run in ``folder``, and a record of them, into its copy ``out``. Kept
    adapters go into the weights of the parent beside the run. Raises UserError where something is not there."""
    record, kept = provenance.read_record(out), folder / "validation"
    update = record.get("best_update") if at == "best" else int(at) if at.isdecimal() else None
    path = kept / f"{-1 if update is None else update:06d}.safetensors"
    if not path.exists():
        there = ", ".join(f"{int(each.stem)}" for each in sorted(kept.glob("*.safetensors"))) or "none"
        raise UserError(f"--at {at}: expected an update whose weights were kept (rl.keep_weights): {there}")
    if cfg.rl.lora_rank and not cfg.backbone_facts.adapters_only:
        wanted = record.get("inputs", {}).get("parent")
        seeds = folder.parents[1] / cfg.init
        parents = [each for each in seeds.glob("seed*") if digest(provenance.weights_file(each)) == wanted]
        if not parents:
            raise UserError(f"{seeds}: expected the parent that the adapters in {path} belong to")
        model = checkpoint.load_model(parents[0], "cpu", cfg.model)
        lora.inject(model, cfg.rl.lora_rank, cfg.rl.experts, cfg.seed)
        tensor_files.load_weights(lora.trained(model), tensor_files.read_tensors(path), path)
        lora.merge(model)
        tensor_files.write_tensors(provenance.weights_file(out), model.weights())
    else:
        shutil.copyfile(path, provenance.weights_file(out))
    write_json(out / "run.json", record | {"update": update, "weights": digest(provenance.weights_file(out))})
