"""Published weights: the folder of a checkpoint, from a local path or the hub, and its hash. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unigrpo.types import UserError

KINDS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""File names of weights, best first: where a folder has several kinds, only the first kind counts."""

FETCHED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")


def folder(name: str | Path, needs: Sequence[str] = ("config.json",)) -> Path:
    """The folder of a checkpoint: ``name`` where it is one, else the hub's repository ``owner/name``, fetched once.

    ``needs`` are files that must be there beside the weights. Raises UserError, in one line with what to place where,
    for a hub that cannot be reached and for a folder that lacks a file or has no weights.
    """
    path = Path(name)
    if not path.is_dir():
        path = _fetch(str(name))
    if lacking := [file for file in needs if not (path / file).exists()]:
        raise UserError(f"{path / lacking[0]}: is missing, expected beside the weights of {name}")
    if not files(path):
        raise UserError(f"{path}: has no weights, expected {KINDS[0]} (or {', '.join(KINDS[1:])})")
    return path


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    by_hand = f"`hf download {name} --local-dir DIR` where there is a network, then give DIR"
    if name.startswith(("/", "./", "../", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: expected a folder that holds a checkpoint, or a repository of the hub (owner/name)")
    try:
        path = Path(snapshot_download(name, allow_patterns=list(FETCHED)))
        if not files(path):  # published before safetensors
            path = Path(snapshot_download(name, allow_patterns=[*FETCHED, "*.bin"]))
    except HFValidationError:
        raise UserError(f"{name}: is no folder, nor a name that a repository of the hub can have") from None
    except Exception as error:  # the hub's client raises its own errors and those of its transport
        raise UserError(
            f"{name}: is no folder here and cannot be fetched from the hub ({type(error).__name__}); {by_hand}"
        ) from None
    return path


@contextmanager
def loading(path: Path, kind: str) -> Iterator[None]:
    """What a library raises inside the block on a damaged or unfit checkpoint is a UserError of one line: ``path``
    cannot be loaded as ``kind``."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: cannot be loaded as {kind} ({type(error).__name__}: {reason})") from None


def load_model(cls, path: Path, kind: str, **options):
    """``cls.from_pretrained(path)`` of transformers, frozen, for evaluation. Raises UserError of one line where it is
    damaged, or lacks parameters, which the library would draw at random."""
    with loading(path, kind):
        model, report = cls.from_pretrained(path, output_loading_info=True, **options)
    needed = dict(model.named_parameters())
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(problem, ()))
        if odd := [name for name in names if name in needed]:
            what = problem.removesuffix("_keys")
            raise UserError(f"{path}: cannot be loaded as {kind} ({len(odd)} {what} parameters, among them {odd[0]})")
    return model.eval().requires_grad_(False)


def files(path: Path) -> list[Path]:
    """The weights in a folder, in the order of their names; of one kind."""
    found = (sorted(path.glob(kind)) for kind in KINDS)
    return next((kind for kind in found if kind), [])


def digest(path: Path) -> str:
    """12 hexadecimal digits of the sha256 of a folder's weights, file after file: the same wherever they lie."""
    content = hashlib.sha256()
    for file in files(path):
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    content.update(chunk)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error})") from None
    return content.hexdigest()[:12]
