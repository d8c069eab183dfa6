"""Settings and options: every error is one line that names the key, what was expected and what was found.

Settings are frozen, strict pydantic models. Options are the arguments of a plug-in's ``build``, checked by their
annotations before anything is built; one without an annotation takes anything. Both narrow a type by an annotation,
``Annotated[int, pydantic.Field(ge=1)]`` or a type of this file. Imports no torch.
"""

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.registry import nearest
from unigrpo.core.weights import ID

Kind = TypeVar("Kind")
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
MOST = 10**9  # of anything that is counted
Count = Annotated[int, Field(ge=1, le=MOST)]
Side = Annotated[int, Field(ge=16, le=MOST)]  # of a picture, in pixels
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]  # 0 is none
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=10)]  # a learning rate or a noise level
Share = Annotated[float, Field(ge=0, le=1)]
AsTuple = pydantic.BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Several = Annotated[tuple[Kind, ...], AsTuple, Field(min_length=1)]  # one or more


@dataclasses.dataclass(frozen=True)
class Decides:
    """Mark of a setting, in its annotation: the parts of a run (``study.resolve.part``) that it decides. One without a
    mark decides all that read its section."""

    parts: tuple[str, ...] = ()


BOOKKEEPING = Decides()  # how and where something is computed, what is kept of it, what it is called
LENGTHENS = Decides(("training",))  # but no step that is done already: a finished run goes on
EXPECTED = {  # kind of pydantic's error -> what a value should have been, in plain words
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "text",
    "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "dataclass_type": "a mapping", "greater_than": "more than {gt:g}", "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}", "less_than_equal": "at most {le:g}",
    "too_short": "{min_length} values", "too_long": "{max_length} values",
}  # fmt: skip


BARE = "a URL without user, password, query and fragment"  # what was found may hold a secret: no message shows it


def expect(expected: str, holds: Callable[[Any], bool], of: type | tuple[type, ...] = str) -> Callable[[Any], Any]:
    """A check of a value, of a type among ``of``, for an annotation; ``expected`` says in messages what is right."""

    def check(value: Any) -> Any:
        if not isinstance(value, of) or not holds(value):
            raise PydanticCustomError("secret" if expected == BARE else "option", expected)
        return value

    return check


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
    return complete and not re.search(r"\s", text)


_DEVICE = expect("auto, cpu, cuda or cuda:<number>", re.compile(r"auto|cpu|cuda(:\d{1,3})?").fullmatch)
_BARE = expect(BARE, lambda url: not re.search("[@?#]", url))
_URL = expect("a URL, http:// or https:// with a host", _is_url)
_KEY = expect("the name of an environment variable that ends in _API_KEY", re.compile(r"\w+_API_KEY").fullmatch)
_PATH = expect("the path of a file or folder that is there", os.path.exists, (str, Path))
_SOURCE = "a file or folder that is there, or a repository of the hub (owner/name, owner/name@revision)"
_PUBLISHED = expect(_SOURCE, lambda source: os.path.exists(source) or ID.fullmatch(str(source)), (str, Path))
Device = Annotated[str, pydantic.AfterValidator(_DEVICE)]
Url = Annotated[str, pydantic.AfterValidator(_BARE), pydantic.AfterValidator(_URL)]
KeyVariable = Annotated[str, pydantic.AfterValidator(_KEY)]  # whose value may be sent to a server
ExistingPath = Annotated[str, pydantic.PlainValidator(_PATH)]
Published = Annotated[str, pydantic.PlainValidator(_PUBLISHED)]


class Settings(BaseModel):
    """The base of all sections of a configuration. Unknown keys, other types and numbers out of range are refused."""

    model_config = STRICT


def require(condition: bool, key: str, expected: str) -> None:
    """Raise :class:`UserError` naming ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{key}: expected {expected}")


@cache
def _adapter(kind: type) -> TypeAdapter:
    if dataclasses.is_dataclass(kind):
        kind.__pydantic_config__ = STRICT
    return TypeAdapter(kind)


def from_dict(kind: type[Kind], data: object, where: str = "") -> Kind:
    """An instance of a settings model or a plain dataclass. Raises UserError naming ``where`` and the key."""
    if not isinstance(data, dict):
        raise UserError(f"{where or kind.__name__}: expected a mapping, got {type(data).__name__}")
    try:
        if dataclasses.is_dataclass(kind):  # pydantic takes a mapping for a strict one from JSON alone
            return _adapter(kind).validate_json(json.dumps(data))
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise UserError(explain(error, where, kind)) from None


def checked(kind: type, data: dict, where: object) -> dict:
    """``data``, which was read at ``where``, as it is. Raises UserError where it is no ``kind``."""
    with error_prefix(where):
        from_dict(kind, data)
    return data


def distinct(kind: type, lines: Iterable[tuple[str, dict]], *keys: str) -> Iterator[tuple[str, dict]]:
    """The ``lines`` ("file, line n", image). Raises UserError naming one that is no ``kind``, or whose ``keys`` came
    before."""
    seen: dict[tuple, str] = {}
    for where, row in lines:
        checked(kind, row, where)
        first = seen.setdefault(tuple(row[key] for key in keys), where)
        if first != where:
            raise UserError(f"{where}: prompt {row['prompt_id']!r}, sample {row['sample']} is already in {first}")
        yield where, row


def to_dict(settings: object) -> dict:
    """A plain dict of a settings model or a dataclass, as JSON holds it."""
    return _adapter(type(settings)).dump_python(settings, mode="json", serialize_as_any=True)


def deciding(kind: type[BaseModel], values: dict, part: str) -> dict:
    """Those of the ``values`` of a section that decide ``part`` of a run, by the marks of its class."""
    marks = {name: m.parts for name, f in kind.model_fields.items() for m in f.metadata if isinstance(m, Decides)}
    return {name: value for name, value in values.items() if part in marks.get(name, (part,))}


def flat(settings: dict, prefix: str = "") -> dict:
    """``{"rl.lr_text": 3e-4, ...}`` of nested settings."""
    rows = {}
    for name, value in settings.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return rows


def replace(settings: Kind, **changes: Any) -> Kind:
    """The settings with some changed, all checked again, by their method ``changed`` if any. Raises UserError."""
    if not isinstance(settings, BaseModel):
        return dataclasses.replace(settings, **changes)
    if hasattr(settings, "changed"):
        return settings.changed(changes)
    return from_dict(type(settings), {name: getattr(settings, name) for name in type(settings).model_fields} | changes)


def explain(error: ValidationError, where: str, kind: type | None = None) -> str:
    """One line for the first of the errors: the key, what was expected, what was found."""
    first = min(error.errors(include_url=False), key=lambda e: (len(e["loc"]), e["type"] == "missing"))
    place = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
    key = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    key, got = key.removeprefix("."), f"got {first['input']!r}"
    context, sort = first.get("ctx", {}), first["type"]
    if sort in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key{nearest(place[-1], _fields(kind, place[:-1]))}"
    if sort in ("missing", "missing_argument"):
        return f"{key}: missing"
    if sort == "secret":
        return f"{key}: expected {first['msg']}"
    if "literal" in sort:
        known = [word.strip().strip("'") for word in context["expected"].replace(" or ", ",").split(",")]
        hint = nearest(first["input"], known) if isinstance(first["input"], str) else ""
        return f"{key}: expected {context['expected']}, {got}{hint if 'did you mean' in hint else ''}"
    expected = EXPECTED[sort].format(**context) if sort in EXPECTED else first["msg"][0].lower() + first["msg"][1:]
    return f"{key}: expected {expected}, {got}"


def _fields(kind: type | None, place: list) -> list[str]:
    """Names of the settings at ``place`` below ``kind``."""
    for part in place:
        field = getattr(kind, "model_fields", {}).get(part)
        values = get_args(kind)[-1] if get_origin(kind) is dict else None
        kind = values if field is None else field.annotation
    return list(getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", ()))


def annotations(function: Callable) -> dict[str, Any]:
    """Name -> annotation of each argument of ``function``; Any where there is none, or one that cannot be read."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        alone = SimpleNamespace(__annotations__={name: parameter.annotation})
        try:
            hints = get_type_hints(alone, getattr(function, "__globals__", {}), include_extras=True)
        except (NameError, TypeError):  # a name that a type checker alone imports
            hints = {name: Any}
        found[name] = Any if parameter.annotation is parameter.empty else hints[name]
    return found


def check_options(
    function: Callable, options: Mapping, name: Callable[[str], str], supplied: Collection[str] = ()
) -> None:
    """Raise UserError, where ``name`` names options, unless ``function`` takes ``options`` and those ``supplied``."""
    parameters = inspect.signature(function).parameters
    known = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise UserError(f"{name(option)}: unknown option{nearest(option, known)}")
    for option in known:
        if parameters[option].default is inspect.Parameter.empty and option not in (*options, *supplied):
            raise UserError(f"{name(option)}: missing")
    for option, annotation in annotations(function).items():
        if option in options and parameters[option].kind is not inspect.Parameter.VAR_KEYWORD:
            check_value(options[option], annotation, name(option))


def check_value(value: object, annotation: Any, key: str) -> None:
    """Raise UserError, which begins with ``key``, unless ``value`` is of the annotated type."""
    if get_origin(annotation) in (Union, UnionType):
        if value is None and NoneType in get_args(annotation):
            return
        annotation = Union[tuple(a for a in get_args(annotation) if a is not NoneType)]  # noqa: UP007
    model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    adapter = TypeAdapter(annotation, config=None if model else ConfigDict(**STRICT, arbitrary_types_allowed=True))
    try:  # as a file holds it: a list is a tuple too, and a text a path
        check = partial(adapter.validate_json, json.dumps(str(value) if isinstance(value, Path) else value))
    except TypeError:
        check = partial(adapter.validate_python, value)
    try:
        check()
    except ValidationError as error:
        kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        raise UserError(explain(error, key, kind)) from None
