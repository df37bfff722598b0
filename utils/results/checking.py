"""Reads JSON that is not to be trusted, and holds it against annotated types."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from utils.errors import InputError
from utils.run.cli import LARGEST
from utils.run.files import read_file

LARGEST_FILE = 2**30  # bytes
LONGEST = 40  # characters of a wrong value that a message quotes
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


class Rule(NamedTuple):
    """What a value must fulfil beyond its type: ``Annotated[int, Rule(test, "0 or more")]``."""

    test: Callable[[Any], object]
    name: str


# --- Types ------------------------------------------------------------------------------------------------------------


def misfit(value: object, hint: object, name: str) -> str | None:
    """None if ``value`` is of the type ``hint``, else what is wrong, e.g. 'accuracy is "high", not a number'.

    Args:
        hint: int, float, str, bool, object, list[...], tuple[...], dict[str, ...], a TypedDict, a dataclass, a union of
            these, or one of them annotated with a Rule. A float is finite, and a whole number is one, too.
        name: what the message calls the value.
    """
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        inner, rule = arguments
        return misfit(value, inner, name) or (None if rule.test(value) else _wrong(value, name, rule.name))
    if kind in (types.UnionType, typing.Union):
        wrong = [misfit(value, option, name) for option in arguments]
        return None if None in wrong else wrong[0]
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _misfit_keys(value, kind, name)
    if not _is_a(value, list if kind is tuple else kind):
        return _wrong(value, name, WORDS.get(list if kind is tuple else kind, "null"))
    if kind is tuple and len(value) != len(arguments):
        return _wrong(value, name, f"a list of {len(arguments)}")
    if kind in (list, tuple):
        hints = arguments if kind is tuple else arguments * len(value)
        parts = enumerate(zip(value, hints, strict=True))
        return _first(misfit(part, hint, f"{name}[{number}]") for number, (part, hint) in parts)
    if kind is dict:
        return _first(misfit(part, arguments[1], f"{name}.{key}") for key, part in value.items())
    return None


def _misfit_keys(value: object, kind: type, name: str) -> str | None:
    """As :func:`misfit`, for an object with some keys; others are for a TypedDict only, and may hold anything."""
    if not isinstance(value, dict):
        return _wrong(value, name, WORDS[dict])
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        parts = dataclasses.fields(kind)
        required = {_key(part) for part in parts if part.default is dataclasses.MISSING}
        hints = {_key(part): hints[part.name] for part in parts}
    else:
        required = kind.__required_keys__
    missing = next((key for key in hints if key in required and key not in value), None)
    if missing is not None:
        return f"{name} has no {missing}"
    unknown = next((key for key in value if key not in hints), None)
    if unknown is not None and dataclasses.is_dataclass(kind):
        return f"{name} has a key {_shortened(json.dumps(unknown))} that is not known"
    within = "" if name == "it" else f"{name}."
    return _first(misfit(value[key], hint, f"{within}{key}") for key, hint in hints.items() if key in value)


def _key(part: dataclasses.Field) -> str:
    """The key in the file."""
    return part.metadata.get("key", part.name)


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind in (int, float) and isinstance(value, int):
        return abs(value) <= LARGEST
    return isinstance(value, kind) and not (kind is float and not math.isfinite(value))


def _first(wrong: Iterable[str | None]) -> str | None:
    return next((text for text in wrong if text), None)


def _wrong(value: object, name: str, expected: str) -> str:
    text = WORDS[type(value)] if isinstance(value, dict | list) else json.dumps(value)
    return f"{name} is {_shortened(text)}, not {expected}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


# --- Dataclasses and plain values -------------------------------------------------------------------------------------


def as_values(instance: Any) -> dict[str, Any]:
    """The keys and values that a file holds of a dataclass; what is None is left out."""
    values = {_key(part): getattr(instance, part.name) for part in dataclasses.fields(instance)}
    return {key: value for key, value in values.items() if value is not None}


def from_values(kind: type, values: object) -> Any:
    """The inverse of :func:`as_values`, for values that are not to be trusted.

    Raises:
        ValueError: a key is missing or a value is of a wrong type; the message names it.
    """
    wrong = misfit(values, kind, "it")
    if wrong:
        raise ValueError(wrong)
    return kind(**{part.name: values[_key(part)] for part in dataclasses.fields(kind) if _key(part) in values})


# --- Files ------------------------------------------------------------------------------------------------------------


def parse_json(text: bytes) -> object:
    """What a text in JSON says.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError("it is cut short or not JSON") from error


def read_json(path: Path, writer: str) -> object:
    """What a JSON file says.

    Args:
        writer: the script that writes the file, for the message.

    Raises:
        InputError: no such file, or one that cannot be read or holds no JSON.
    """
    try:
        return parse_json(read_bytes(path, writer))
    except ValueError as error:
        raise damaged(path, str(error), writer) from error


def read_bytes(path: Path, writer: str) -> bytes:
    """The content of a file on a disk; ``writer`` is the script that writes it.

    Raises:
        InputError: there is none, it is no regular file, it is too large, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"there is no {path}: {writer} writes it.")
    return read_file(path, LARGEST_FILE)


def damaged(path: Path, wrong: str, writer: str) -> InputError:
    """The refusal of a file that a run should have written."""
    return InputError(f"{path} is damaged ({wrong}): remove its folder and run {writer} again.")
