"""Options of a plug-in: the arguments of its ``build``, checked by their annotations before anything is built.

An annotation may narrow its type: ``Annotated[int, pydantic.Field(ge=1)]``, or a type of this file. An argument without
one takes anything. Imports no torch.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.registry import nearest
from unigrpo.core.settings import STRICT, explain


def expect(expected: str, holds: Callable[[Any], bool], of: type | tuple[type, ...] = str) -> Callable[[Any], Any]:
    """A check of a value, of a type among ``of``, for an annotation; ``expected`` says in messages what is right."""

    def check(value: Any) -> Any:
        if not isinstance(value, of) or not holds(value):
            raise PydanticCustomError("option", expected)
        return value

    return check


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
    return complete and not re.search(r"\s", text)


def _exists(path: str | Path) -> bool:
    try:
        return bool(str(path)) and Path(path).exists()
    except (OSError, ValueError):
        return False


def _is_published(source: str | Path) -> bool:
    return _exists(source) or weights.ID.fullmatch(str(source)) is not None


_DEVICE = expect("auto, cpu, cuda or cuda:<number>", re.compile(r"auto|cpu|cuda(:\d{1,3})?").fullmatch)
_URL = expect("a URL, http:// or https:// with a host", _is_url)
_PATH = expect("the path of a file or folder that is there", _exists, (str, Path))
_SOURCE = "a file or folder that is there, or a repository of the hub (owner/name)"
Device = Annotated[str, AfterValidator(_DEVICE)]
Url = Annotated[str, AfterValidator(_URL)]
ExistingPath = Annotated[str, PlainValidator(_PATH)]
Published = Annotated[str, PlainValidator(expect(_SOURCE, _is_published, (str, Path)))]


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


def check(function: Callable, options: Mapping, name: Callable[[str], str], supplied: Collection[str] = ()) -> None:
    """Raise UserError unless ``function`` can be called with ``options``, and those in ``supplied`` that are missing.
    ``name`` gives an option's name in messages."""
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
    try:
        text = json.dumps(str(value) if isinstance(value, Path) else value)
    except TypeError:
        text = None
    try:
        if text is None:
            adapter.validate_python(value)
        else:  # as a file holds it: a list is a tuple too, and a text a path
            adapter.validate_json(text)
    except ValidationError as error:
        kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        raise UserError(explain(error, key, kind)) from None
