"""Settings are pydantic models: frozen, strict, and every error one line that names the key and what was expected."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from unigrpo.core.errors import UserError
from unigrpo.core.registry import nearest

Kind = TypeVar("Kind")
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

MOST = 10**9  # of anything that is counted
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]  # 0 is none
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=10)]  # a learning rate or a noise level
Share = Annotated[float, Field(ge=0, le=1)]
AsTuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Several = Annotated[tuple[Kind, ...], AsTuple, Field(min_length=1)]  # one or more
EXPECTED = {  # kind of pydantic's error -> what a value should have been, in plain words
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "text",
    "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "dataclass_type": "a mapping", "greater_than": "more than {gt:g}", "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}", "less_than_equal": "at most {le:g}",
    "too_short": "{min_length} values", "too_long": "{max_length} values",
}  # fmt: skip


class Settings(BaseModel):
    """The base of all sections of a configuration. Unknown keys, other types and numbers out of range are refused."""

    model_config = STRICT

    def changed(self, changes: dict[str, Any]) -> Self:
        """These settings with some changed, all checked again. Raises UserError."""
        return from_dict(type(self), {name: getattr(self, name) for name in type(self).model_fields} | changes)


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


def to_dict(settings: object) -> dict:
    """A plain dict of a settings model or a dataclass, as JSON holds it."""
    return _adapter(type(settings)).dump_python(settings, mode="json", serialize_as_any=True)


def replace(settings: Kind, **changes: Any) -> Kind:
    """The settings with some changed, all checked again. Raises UserError."""
    if not isinstance(settings, BaseModel):
        return dataclasses.replace(settings, **changes)
    return settings.changed(changes)


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
