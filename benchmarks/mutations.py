"""Small random damage to what a user may hand over: values of JSON and YAML, text, bytes, numpy arrays and weights.

Every function takes a value and a generator and returns the damaged value with a few words that say what was done.
Nothing is changed in place.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

Random = np.random.Generator

ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2.5,
    10**12,
    1e30,
    float("nan"),
    float("inf"),
    "",
    "ten",
    "../x",
    "é\n",
    [],
    {},
    [[]],
)
NOT_FINITE = "a value that is not finite"
INSERTED = ("{", "}", ":", ",", '"', "\t", "\0", "-", "&", "[", "\ufeff", "\u2028", " : ", "!!python/object:x ")


def pick(options: Sequence, rng: Random):
    return options[rng.integers(len(options))]


# ---- values ------------------------------------------------------------------------------------------------


def paths(value, here: tuple = ()) -> list[tuple]:
    """The keys that lead to every value inside ``value``, outer ones first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inner for path in [(*here, key), *paths(item, (*here, key))]]


def _odd(value, rng: Random):
    return copy.deepcopy(pick(ODD, rng))


def _near(value, rng: Random):
    """A value of the same kind: another number, another word, a list with an item more or less."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return pick((value + 1, value - 1, 2 * value, 10 * value, -value, value / 2), rng)
    if isinstance(value, float):
        return pick((value / 2, 2 * value, 100 * value, -value, value + 1e-9), rng)
    if isinstance(value, str):
        return pick((value + "x", value[:-1], value.upper(), f" {value}"), rng)
    if isinstance(value, list) and value:
        i = int(rng.integers(len(value)))
        return pick((value[:i] + value[i + 1 :], [*value, value[i]], value[::-1], [value]), rng)
    return _odd(value, rng)


def mutate_value(value, rng: Random) -> tuple[object, str]:
    """One place inside a JSON-like object is removed, renamed, doubled, replaced, or changed a little."""
    value = copy.deepcopy(value)
    *outer, key = pick(paths(value), rng)
    holder = value
    for name in outer:
        holder = holder[name]
    where = ".".join(map(str, [*outer, key]))
    how = pick(("near", "near", "odd", "odd", "remove", "rename", "add"), rng)
    if how == "near":
        holder[key] = _near(holder[key], rng)
    elif how == "odd":
        holder[key] = _odd(holder[key], rng)
    elif how == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, _odd(None, rng))
    elif how == "rename":
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder["extra"] = _odd(None, rng)
    return value, f"{how} {where}"


def mutate_json_lines(data: bytes, rng: Random) -> tuple[bytes, str]:
    """One line of a JSONL file, as a value."""
    lines = data.decode().splitlines()
    i = int(rng.integers(len(lines)))
    value, what = mutate_value(json.loads(lines[i]), rng)
    lines[i] = json.dumps(value)
    return ("\n".join(lines) + "\n").encode(), f"line {i + 1}: {what}"


def mutate_json(data: bytes, rng: Random) -> tuple[bytes, str]:
    value, what = mutate_value(json.loads(data), rng)
    return json.dumps(value).encode(), what


# ---- text and bytes ----------------------------------------------------------------------------------------


def mutate_text(data: bytes, rng: Random) -> tuple[bytes, str]:
    """A slip of the hand or of an editor: text cut, characters lost or inserted, lines doubled, swapped or lost."""
    text = data.decode()
    at = int(rng.integers(len(text)))
    lines = text.splitlines(keepends=True)
    i, j = (int(k) for k in rng.integers(len(lines), size=2))
    inserted = pick(INSERTED, rng)
    swapped = {i: lines[j], j: lines[i]}
    changed, what = pick(
        (
            (text[:at], f"cut at {at}"),
            (text[:at] + text[at + 1 :], f"character {at} lost"),
            (text[:at] + inserted + text[at:], f"{inserted!r} inserted at {at}"),
            ("".join([*lines[: i + 1], *lines[i:]]), f"line {i + 1} doubled"),
            ("".join([*lines[:i], *lines[i + 1 :]]), f"line {i + 1} lost"),
            ("".join(swapped.get(k, line) for k, line in enumerate(lines)), f"lines {i + 1} and {j + 1} swapped"),
            ("".join([*lines[:i], "\n", *lines[i:]]), f"empty line {i + 1}"),
        ),
        rng,
    )
    return changed.encode(), what


def mutate_bytes(data: bytes, rng: Random) -> tuple[bytes, str]:
    """A damaged file: cut, emptied, of other content, with a flipped bit or bytes that are lost."""
    at = int(rng.integers(min(len(data), 4096) if rng.random() < 0.5 else len(data)))
    flipped = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    return pick(
        (
            (data[:at], f"cut at {at}"),
            (b"", "empty"),
            (data + b"\0", "one byte more"),
            (bytes(rng.integers(256, size=64, dtype=np.uint8)), "64 random bytes"),
            (flipped, f"a bit of byte {at} flipped"),
            (flipped, f"a bit of byte {at} flipped"),
            (data[:at] + data[at + 16 :], f"16 bytes from {at} lost"),
        ),
        rng,
    )


# ---- arrays and weights ------------------------------------------------------------------------------------


def _damage_tensor(tensor: Tensor, rng: Random) -> tuple[Tensor, str]:
    flat = tensor.flatten().clone()
    bad = pick((float("nan"), float("inf")), rng)
    if len(flat) and flat.is_floating_point():
        flat[int(rng.integers(len(flat)))] = bad
    return pick(
        (
            (flat.view_as(tensor), NOT_FINITE if tensor.is_floating_point() else "as it was"),
            (tensor[None].contiguous(), "a dimension more"),
            (torch.cat([tensor.flatten(), tensor.flatten()]), "flat and doubled"),
            (tensor.to(torch.int32), "whole numbers"),
            (tensor.half(), "half precision"),
            (tensor.flatten()[:0], "empty"),
        ),
        rng,
    )


def mutate_weights(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Well-formed safetensors of other content: a tensor lost, renamed, added, or of other values, shape or kind."""
    tensors = load(data)
    name = pick(sorted(tensors), rng)
    how = pick(("lost", "renamed", "added", "changed", "changed", "changed"), rng)
    if how == "changed":
        tensors[name], how = _damage_tensor(tensors[name], rng)
    elif how == "added":
        tensors["extra"] = torch.zeros(2)
    else:
        tensor = tensors.pop(name)
        tensors |= {f"{name}x": tensor} if how == "renamed" else {}
    return save(tensors, _header(data).get("__metadata__")), f"{name}: {how}"


def _header(data: bytes) -> dict:
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def mutate_header(data: bytes, rng: Random) -> tuple[bytes, str]:
    """The JSON header of safetensors, as a value; its length is kept right."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header, what = mutate_json(data[8:end], rng)
    return struct.pack("<Q", len(header)) + header + data[end:], f"header: {what}"


Mutation = Callable[[bytes, Random], tuple[bytes, str]]
JSON: tuple[Mutation, ...] = (mutate_json, mutate_json, mutate_json, mutate_text)
JSON_LINES: tuple[Mutation, ...] = (mutate_json_lines, mutate_json_lines, mutate_json_lines, mutate_text)
WEIGHTS: tuple[Mutation, ...] = (mutate_weights, mutate_weights, mutate_header, mutate_bytes)
ARRAY: tuple[Mutation, ...] = (mutate_bytes,)
