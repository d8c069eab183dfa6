"""Which code makes a number: the modules that a process works with, each with a hash of its syntax tree.

Docstrings, comments and formatting are no part of the hash. A process loads more modules than it works with: it reads
what every plug-in declares. Those count that are reached from its entry, by import statements, or from a plug-in that
was loaded to be used. Import statements are read for this alone: a module's own list of names cannot tell them.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path

from unigrpo.core import registry

ROOT = Path(__file__).resolve().parents[3]
PLACES = (ROOT / "src", ROOT)  # of modules
ROOMS = ("objectives", "models", "world", "sampling", "episodes", "methods", "training", "judges", "report")
NUMBERS = (*(f"unigrpo.{room}" for room in ROOMS), "rewards", "evals")
NUMBERS += tuple(f"unigrpo.core.{name}" for name in ("seeding", "distributed", "tensor_files", "records"))
NUMBERS += tuple(f"unigrpo.study.{name}" for name in ("config", "benchmark_entry", "training_inputs"))
LIBRARY = re.compile(rf"^(?!/)|^{re.escape(str(Path(ast.__file__).parent))}|/(site|dist)-packages/")  # files of others


@cache
def _tree(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


def _plain(node: object) -> object:
    """A tree as lists, the same in every version of Python; without docstrings."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    first = fields["body"][0] if isinstance(fields.get("body"), list) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, _plain(value)] for name, value in fields.items())]


@cache
def hash_of(path: Path) -> str:
    """Hash of a module's syntax tree; of its bytes where it is not Python. As the file was when first asked for."""
    tree = _tree(path)
    content = path.read_bytes() if tree is None else repr(_plain(tree)).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def _imports(name: str, path: Path) -> Iterator[str]:
    """Dotted names that a module may import: modules, their attributes, attributes of lazily loaded packages."""
    tree, known = _tree(path), {}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from accumulate(alias.name.split("."), "{}.{}".format)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # of a module that is loaded by its name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            for alias in node.names:
                known[alias.asname or alias.name] = f"{base}.{alias.name}"
                yield f"{base}.{alias.name}"
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            yield f"{known[node.value.id]}.{node.attr}"


def _plugin(name: str) -> str | None:
    """The plug-in, or the help of plug-ins, that a module belongs to."""
    package = next((each for each in registry.PACKAGES if name.startswith(f"{each}.")), None)
    return package and f"{package}.{name[len(package) + 1 :].partition('.')[0]}"


def loaded(rooms: Iterable[str] = NUMBERS) -> dict[str, str]:
    """Module -> hash, of those in ``rooms`` that this process works with so far, and what plug-ins import outside."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    ours = {name: Path(file) for name, file in files.items() if file.endswith(".py") and not LIBRARY.search(file)}
    ours.pop("__main__", None)  # it has its own name beside
    imports = {name: set(_imports(name, path)) & ours.keys() - {name} for name, path in ours.items()}
    imported = set().union(*imports.values())
    waiting = [name for name in ours if _plugin(name) in registry.USED or (not _plugin(name) and name not in imported)]
    reached = set(waiting)
    while waiting:
        new = imports[waiting.pop()] - reached
        reached |= new
        waiting += new
    within = tuple(f"{room}." for room in rooms)
    others = {name for name in imported if not name.startswith("unigrpo")}
    counted = sorted(name for name in reached if f"{name}.".startswith(within) or name in others)
    return {name: hash_of(ours[name]) for name in counted}


def changed(recorded: Mapping[str, str]) -> list[str]:
    """The modules, by their last names, whose file has another hash now than ``recorded``, or is gone."""
    return [name.rpartition(".")[2] for name, value in recorded.items() if _now(name) != value]


def _now(name: str) -> str | None:
    path = name.replace(".", "/")
    for file in (place / f"{path}{end}" for place in PLACES for end in (".py", "/__init__.py")):
        if file.exists():
            return hash_of(file)
    module = sys.modules.get(name)  # a user's, from elsewhere
    return hash_of(Path(module.__file__)) if module is not None and module.__file__ else None
