"""Reading the workflow's YAML files and checking them by ``pipelines/schemas``; every error is one message.

A schema says what a file may hold. Where it lists dataclasses of :mod:`unigrpo.study.config` under ``settings``, it
admits their fields too, so that a setting is declared once. Imports no torch.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import yaml

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_text
from unigrpo.study import config

SCHEMAS = Path(__file__).resolve().parents[3] / "pipelines" / "schemas"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values (``no`` is text, ``1e-4`` is a number), and no key twice in one mapping."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if key.value in names and names.count(key.value) > 1:
                problem = f"{key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_PLAIN = {"bool": (r"true|false", "tf"), "float": (r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", "-+0123456789")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml(path: str | Path) -> object:
    """Read a YAML file. Raises UserError naming the file and the line."""
    try:
        return yaml.load(read_text(Path(path)), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{path}: line {mark.line + 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error})") from None


def nearest(name: object, known: Iterable) -> str:
    """``; did you mean ...?`` for a misspelt name; else what it could have been, where that is a short list."""
    known = [str(k) for k in known]
    if near := difflib.get_close_matches(str(name), known, n=1):
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(sorted(known))}" if len(known) <= 12 else ""


def check(data: object, schema: str, path: str | Path) -> None:
    """Validate ``data``, read from ``path``, against ``schemas/<schema>.yaml``. Raises UserError."""
    validator = jsonschema.Draft202012Validator(_expand(read_yaml(SCHEMAS / f"{schema}.yaml")))
    error = min(validator.iter_errors(data), key=lambda e: (len(e.absolute_path), e.json_path), default=None)
    if error is not None:
        raise UserError(f"{path}: {_explain(error)}")


def _expand(node):
    """A schema with the fields of the dataclasses that it names under ``settings`` filled in."""
    if isinstance(node, list):
        return [_expand(item) for item in node]
    if not isinstance(node, dict):
        return node
    expanded = {key: _expand(value) for key, value in node.items() if key != "settings"}
    for name in node.get("settings", []):
        hints = typing.get_type_hints(getattr(config, name))
        expanded.setdefault("properties", {}).update({key: _json_type(hint) for key, hint in hints.items()})
    return expanded


def _json_type(hint) -> dict:
    """The JSON schema of a configuration field's type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _json_type(args[0])}
    if origin is types.UnionType:  # None is said by leaving it out
        return _json_type(args[0])
    return {"type": {int: "integer", float: "number", str: "string", bool: "boolean", dict: "object"}[hint]}


def _explain(error: jsonschema.ValidationError) -> str:
    """One line for one schema error: the key, then what was expected."""
    key = ".".join(str(part) for part in error.absolute_path)
    prefix = f"{key}." if key else ""
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next(name for name in error.instance if name not in known)
        return f"{prefix}{unknown}: unknown key{nearest(unknown, known)}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{prefix}{missing}: missing"
    if "propertyNames" in error.absolute_schema_path:
        return f"{key}.{error.instance}: a name has small letters, digits and underscores only"
    expected, got = error.validator_value, f"got {error.instance!r}"
    if error.validator == "type":
        return f"{key or 'the file'}: expected {expected}, {got}"
    if error.validator == "enum":
        return f"{key}: expected one of {', '.join(expected)}, {got}{nearest(error.instance, expected)}"
    return f"{key or 'the file'}: {error.message}"
