"""The one door for plug-ins: a kind of plug-in is a package, and a plug-in is a file of it (or a folder) that does not
start with an underscore. Its facts, a constant ``FACTS``, are read by importing it."""

import difflib
import importlib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from unigrpo.core.errors import UserError

PACKAGES: set[str] = set()  # that hold plug-ins
USED: set[str] = set()  # modules of plug-ins that this process works with, beside those whose facts it reads
_reading: list[bool] = []  # what is open of `declarations`


@contextmanager
def declarations() -> Iterator[None]:
    """Within it plug-ins are loaded for what they declare alone."""
    _reading.append(True)
    try:
        yield
    finally:
        _reading.pop()


def nearest(name: object, known: Iterable) -> str:
    """``; did you mean ...?`` for a misspelt name; else what it could have been, where that is a short list."""
    known = [str(k) for k in known]
    if near := difflib.get_close_matches(str(name), known, n=1):
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


@dataclass(frozen=True)
class Door:
    """A kind of plug-in."""

    package: str  # holds its files
    what: str  # names the kind in messages
    facts: type  # what FACTS are, which a file must define
    contract: tuple[str, ...] = ()  # that it must define besides

    def __post_init__(self):
        PACKAGES.add(self.package)

    def _found(self) -> dict[str, Path]:
        """Name -> file of all plug-ins of this kind. Imports none of them."""
        try:
            package = importlib.import_module(self.package)
        except ModuleNotFoundError:
            raise UserError(f"{self.package}: not found, expected a checkout of the project") from None
        found = {}
        for folder in map(Path, package.__path__):
            for path in sorted(folder.iterdir()):
                if path.stem[0].isalpha() and (path.suffix == ".py" or (path / "__init__.py").exists()):
                    found.setdefault(path.stem, path if path.suffix == ".py" else path / "__init__.py")
        return found

    def names(self) -> list[str]:
        """The plug-ins of this kind, sorted; none is imported."""
        return sorted(self._found())

    def source(self, name: str, key: str = "") -> Path:
        """The file of the plug-in called ``name``. Raises UserError, which begins with ``key``, for an unknown name."""
        found = self._found()
        if name not in found:
            where = f"{key}: " if key else ""
            raise UserError(f"{where}no {self.what} is called {name!r}{nearest(name, found)}")
        return found[name]

    def load(self, name: str, key: str = "") -> ModuleType:
        """The plug-in called ``name``. Raises UserError, in one line with file and line, for an unknown name, a file
        that cannot be imported, and one that does not define the contract."""
        path = self.source(name, key)
        where = f"{key}: " if key else ""
        try:
            module = importlib.import_module(f"{self.package}.{name}")
        except SyntaxError as error:
            raise UserError(f"{where}{error.filename}, line {error.lineno}: not Python ({error.msg})") from None
        except Exception as error:  # whatever a user's file raises at its top
            frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
            line = f", line {frames[-1].lineno}" if frames else ""
            why = error if isinstance(error, UserError) else f"cannot be imported ({type(error).__name__}: {error})"
            raise UserError(f"{where}{path}{line}: {why}") from error
        if missing := [word for word in ("FACTS", *self.contract) if not hasattr(module, word)]:
            raise UserError(f"{where}{path}: expected a {self.what} to define {', '.join(missing)}")
        if not isinstance(module.FACTS, self.facts):
            raise UserError(f"{where}{path}: FACTS: expected {self.facts.__name__}, got {module.FACTS!r}")
        if not _reading:
            USED.add(module.__name__)
        return module
