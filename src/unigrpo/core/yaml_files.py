"""YAML 1.2, read by ruamel.yaml: ``010`` is ten, ``no`` and ``1:30`` are texts. An error is one line with its place."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_text

DEEPEST = 20  # levels of nesting; a configuration needs five
LARGEST = 10**6  # entries of a file, aliases spelt out


class _Plain(SafeConstructor):
    """Dates stay texts: no setting is one."""


_Plain.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read_yaml(path: str | Path) -> object:
    """The content of a YAML file. Raises UserError naming the file, and the line of what is not YAML, a key given twice
    or a tag; and for an anchor that contains itself, nesting deeper than DEEPEST and more entries than LARGEST."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Plain
    try:
        content = yaml.load(read_text(path))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {line}{_sentence(error.problem)}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({_sentence(str(error))})") from None
    except RecursionError:
        raise UserError(f"{path}: expected at most {DEEPEST} levels of nesting") from None
    _check(content, path, (), [0])
    return content


def _sentence(problem: str | None) -> str:
    """The first line of what the library says."""
    return (problem or "not YAML").strip().splitlines()[0].removeprefix("found ")


def _check(node: object, path: str | Path, parents: tuple[int, ...], seen: list[int]) -> None:
    """Refuse a node that contains itself, and a tree that is too deep or too large."""
    seen[0] += 1
    if seen[0] > LARGEST:
        raise UserError(f"{path}: expected at most {LARGEST:,} entries, aliases spelt out")
    if id(node) in parents:
        raise UserError(f"{path}: an anchor contains itself")
    if len(parents) > DEEPEST:
        raise UserError(f"{path}: expected at most {DEEPEST} levels of nesting")
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            _check(child, path, (*parents, id(node)), seen)
