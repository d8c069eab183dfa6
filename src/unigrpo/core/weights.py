"""Published weights: a checkpoint's folder, from a local path or the hub, its hash and its device. What goes wrong is
one line with what to do instead. Imports no torch, and the hub's client when something is fetched.

A repository of the hub is ``owner/name``, or ``owner/name@revision``: a commit, a tag or a branch.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.core.errors import UserError
from unigrpo.core.files import opened

if TYPE_CHECKING:
    import torch

ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")  # of a repository of the hub, and of a revision of it
KINDS = ("*.safetensors", "*.bin", "*.pt", "*.pth")  # of weights, best first: a folder's first kind alone counts
TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")  # of a tokenizer or processor

_WATCHING: list[dict[str, Path]] = []


@contextmanager
def watched() -> Iterator[dict[str, Path]]:
    """The files of checkpoints that are found inside the block, by their path, those of the hub by
    ``owner/name@commit/file``: a revision is then the commit that it meant."""
    _WATCHING.append({})
    try:
        yield _WATCHING[-1]
    finally:
        _WATCHING.pop()


def _noted(name: str | Path, path: Path, found: Iterable[Path]) -> Path:
    repo = str(name).partition("@")[0]
    named = {f"{f}" if Path(name).exists() else f"{repo}@{f.parent.name}/{f.name}": f for f in found}
    for watcher in _WATCHING:
        watcher.update(named)
    return path


def folder(name: str | Path, needs: Sequence[str] = ("config.json",)) -> Path:
    """The folder of a checkpoint: ``name`` where it is one, else the hub's repository ``owner/name``, fetched once.
    Raises UserError, with what to place where, for a hub that cannot be reached, no weights, or a lack in ``needs``."""
    local, wanted = Path(name).is_dir(), "a checkpoint"
    path = Path(name) if local else repository(name, wanted, (*TEXTS, KINDS[0]))
    if not local and not files(path):  # published before safetensors
        path = repository(name, wanted, (*TEXTS, KINDS[1]))
    lacking = [file for file in needs if not (path / file).exists()]
    if not local and (lacking or not files(path)):  # offline the hub gives what its cache has: perhaps a part
        raise unfetched(name, wanted, f"{lacking[0]} is not in {path}" if lacking else f"no weights are in {path}")
    if lacking:
        raise UserError(f"{path / lacking[0]}: is missing, expected beside the weights of {name}")
    if not files(path):
        raise UserError(f"{path}: has no weights, expected {KINDS[0]} (or {', '.join(KINDS[1:])})")
    return _noted(name, path, [*files(path), *texts(path)])


def file(source: str | Path, name: str) -> Path:
    """The file ``name`` of ``source``: a folder, a repository of the hub, or the file itself. Raises UserError."""
    path, local = Path(source), Path(source).is_dir()
    found = path if path.is_file() else (path if local else repository(source, name, (name,))) / name
    if not found.is_file():
        raise UserError(f"{found}: is missing") if local else unfetched(source, name, f"it is not in {found.parent}")
    return _noted(source, found, [found])


def tokenizer(source: str | Path):
    """The tokenizer of transformers in a folder or repository of the hub. Raises UserError."""
    from transformers import AutoTokenizer

    path = Path(source) if Path(source).is_dir() else repository(source, "a tokenizer", TEXTS)
    with loading(_noted(source, path, texts(path)), "a tokenizer"):
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def repository(name: str | Path, wanted: str, patterns: Sequence[str]) -> Path:
    """The folder of the hub's repository ``name`` with the files that match ``patterns``. Raises as :func:`fetch`."""
    from huggingface_hub import snapshot_download

    return fetch(name, wanted, partial(snapshot_download, allow_patterns=list(patterns)))


def fetch(name: str | Path, wanted: str, get: Callable[..., str | Path]) -> Path:
    """The folder that ``get`` (repository, ``revision``) brings from the hub's repository ``name`` into its cache.
    Raises UserError for a name that no repository can have, and for what cannot be had: ``wanted``."""
    if not (parts := ID.fullmatch(str(name))):
        raise UserError(f"{name}: no such file or folder, expected {wanted}, or a repository of the hub (owner/name)")
    try:
        with quiet():
            return Path(get(parts[1], revision=parts[2]))
    except Exception as error:  # the hub's client raises its own errors, and those of its transport
        raise unfetched(name, wanted, sentence(error)) from None


def unfetched(name: str | Path, wanted: str, why: str) -> UserError:
    """The line for ``wanted`` of the repository ``name``, which cannot be had because of ``why``."""
    repo = str(name).replace("@", " --revision ")
    advice = f"`hf download {repo} --local-dir DIR` where there is a network, then give DIR"
    return UserError(f"{name}: no such folder here, and {wanted} cannot be fetched from the hub ({why}); {advice}")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries that fetch and load: what goes wrong is one line of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def sentence(error: Exception) -> str:
    """The kind of an error, and the first sentence of what may have many lines."""
    said = " ".join(str(error).split()).split(". ")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def loading(path: Path, kind: str) -> Iterator[None]:
    """What a library raises inside the block is a UserError of one line: ``path`` cannot be loaded as ``kind``."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise whatever reading a damaged file raises
        raise UserError(f"{path}: cannot be loaded as {kind} ({sentence(error)})") from None


def load_model(cls, path: Path, kind: str, **options):
    """``cls.from_pretrained(path)`` of transformers, frozen, for evaluation. Raises UserError of one line where it is
    damaged, or lacks parameters, which the library would draw at random."""
    with loading(path, kind):
        model, report = cls.from_pretrained(path, output_loading_info=True, trust_remote_code=False, **options)
    needed = dict(model.named_parameters())
    for what in ("missing", "mismatched"):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(f"{what}_keys", ()))
        if odd := [name for name in names if name in needed]:
            raise UserError(f"{path}: cannot be loaded as {kind} ({len(odd)} {what} parameters, among them {odd[0]})")
    return model.eval().requires_grad_(False)


def files(path: Path) -> list[Path]:
    """The weights in a folder, in the order of their names; of one kind."""
    found = (sorted(path.glob(kind)) for kind in KINDS)
    return next((kind for kind in found if kind), [])


def texts(path: Path) -> list[Path]:
    """The files of a tokenizer or processor in a folder, in the order of their names."""
    return sorted(file for kind in TEXTS for file in path.glob(kind))


def digest(path: Path) -> str:
    """12 hexadecimal digits of the sha256 of a folder's weights, file after file: the same wherever they lie."""
    content = hashlib.sha256()
    for file in files(path):
        with opened(file) as stream:
            hashlib.file_digest(stream, lambda: content)
    return content.hexdigest()[:12]


def pick_device(name: str) -> torch.device:
    """The device to load on: ``auto`` is CUDA if there is one, else the CPU. Raises UserError where it is absent."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected auto, cpu, cuda or cuda:<number>, got {name!r}") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device: {name!r} was asked for, but this machine has {count} CUDA devices")
    return device
