"""Published weights: the folder of a checkpoint, from a local path or the hub, and its hash. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unigrpo.core import hub
from unigrpo.core.errors import UserError

KINDS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""File names of weights, best first: where a folder has several kinds, only the first kind counts."""

TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Of a tokenizer or processor."""


def folder(name: str | Path, needs: Sequence[str] = ("config.json",)) -> Path:
    """The folder of a checkpoint: ``name`` where it is one, else the hub's repository ``owner/name``, fetched once.

    ``needs`` are files that must be there beside the weights. Raises UserError, in one line with what to place where,
    for a hub that cannot be reached and for a folder that lacks a file or has no weights.
    """
    path = Path(name)
    if not path.is_dir():
        return _fetched(str(name), needs)
    if lacking := _lacking(path, needs):
        raise UserError(f"{path / lacking[0]}: is missing, expected beside the weights of {name}")
    if not files(path):
        raise UserError(f"{path}: has no weights, expected {KINDS[0]} (or {', '.join(KINDS[1:])})")
    return path


def _fetched(name: str, needs: Sequence[str]) -> Path:
    """As ``folder``, from the hub, which offline gives what its cache has: perhaps a part."""
    wanted = "a checkpoint"
    path = hub.repository(name, wanted, (*TEXTS, KINDS[0]))
    if not files(path):  # published before safetensors
        path = hub.repository(name, wanted, (*TEXTS, KINDS[1]))
    if lacking := _lacking(path, needs):
        raise hub.unfetched(name, wanted, f"{lacking[0]} is not in {path}")
    if not files(path):
        raise hub.unfetched(name, wanted, f"no weights are in {path}")
    return path


def _lacking(path: Path, needs: Sequence[str]) -> list[str]:
    return [file for file in needs if not (path / file).exists()]


def file(source: str | Path, name: str) -> Path:
    """The file ``name`` of ``source``, which is a folder, a repository of the hub, or the file itself. Raises
    UserError."""
    path = Path(source)
    if path.is_file() or (path / name).is_file():
        return path if path.is_file() else path / name
    if path.is_dir():
        raise UserError(f"{path / name}: is missing")
    folder = hub.repository(str(source), name, (name,))
    if not (folder / name).is_file():
        raise hub.unfetched(str(source), name, f"it is not in {folder}")
    return folder / name


def tokenizer(source: str | Path):
    """The tokenizer of transformers in a folder or repository of the hub. Raises UserError."""
    from transformers import AutoTokenizer

    path = Path(source) if Path(source).is_dir() else hub.repository(str(source), "a tokenizer", TEXTS)
    with loading(path, "a tokenizer"):
        return AutoTokenizer.from_pretrained(path, local_files_only=True)


@contextmanager
def loading(path: Path, kind: str) -> Iterator[None]:
    """What a library raises inside the block on a damaged or unfit checkpoint is a UserError of one line: ``path``
    cannot be loaded as ``kind``."""
    try:
        with hub.quiet():
            yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise whatever reading a damaged file raises
        raise UserError(f"{path}: cannot be loaded as {kind} ({hub.sentence(error)})") from None


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
