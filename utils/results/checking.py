"""Reads JSON that is not to be trusted and holds it against annotated types."""

import json
import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from utils.errors import InputError

LONGEST = 40  # characters of a wrong value that a message quotes


class Rule(NamedTuple):
    """What a value must fulfil beyond its type: ``Annotated[int, Rule(test, name)]``."""

    test: typing.Callable[[Any], bool]
    name: str


WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object"}


def misfit(value: object, hint: object, name: str) -> str | None:
    """None if ``value`` is of the type ``hint``, else what is wrong, e.g. 'accuracy is "high", not a number'.

    Args:
        hint: int, float, str, bool, dict, list[...], tuple[...], dict[str, ...], a TypedDict, a union of these, or one
            of them annotated with a Rule. A float is finite; a whole number is one, too.
        name: what the message calls the value.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rules = [rule for rule in arguments[1:] if isinstance(rule, Rule)]
        wrong = misfit(value, arguments[0], name)
        return wrong or next((_wrong(value, name, rule.name) for rule in rules if not rule.test(value)), None)
    if origin in (types.UnionType, typing.Union):
        wrong = [misfit(value, kind, name) for kind in arguments]
        return None if None in wrong else wrong[0]
    if origin is list:
        if not isinstance(value, list):
            return _wrong(value, name, "a list")
        return _first(misfit(part, arguments[0], f"{name}[{number}]") for number, part in enumerate(value))
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            return _wrong(value, name, f"a list of {len(arguments)}")
        return _first(
            misfit(*pair, f"{name}[{number}]") for number, pair in enumerate(zip(value, arguments, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            return _wrong(value, name, WORDS[dict])
        return _first(misfit(part, arguments[1], f"{name}.{key}") for key, part in value.items())
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        return misfit_keys(value, hints, hint.__required_keys__, name)
    if hint is types.NoneType:
        return None if value is None else _wrong(value, name, "null")
    if hint is float:
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return None if right else _wrong(value, name, WORDS[hint])


def misfit_keys(value: object, hints: dict[str, object], required: typing.Collection[str], name: str) -> str | None:
    """As :func:`misfit`, for an object with some keys; those that ``hints`` does not name may hold anything."""
    if not isinstance(value, dict):
        return _wrong(value, name, WORDS[dict])
    within = "" if name == "it" else f"{name}."
    missing = next((key for key in hints if key in required and key not in value), None)
    if missing is not None:
        return f"{name} has no {missing}"
    return _first(misfit(value[key], hint, f"{within}{key}") for key, hint in hints.items() if key in value)


def _first(wrong: typing.Iterable[str | None]) -> str | None:
    return next((text for text in wrong if text), None)


def _wrong(value: object, name: str, expected: str) -> str:
    text = json.dumps(value)
    return f"{name} is {text if len(text) <= LONGEST else text[:LONGEST] + '...'}, not {expected}"


def parse_json(text: str | bytes) -> object:
    """What a text in JSON says.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
        raise damaged(path, "it is cut short or not JSON", writer) from error


def read_bytes(path: Path, writer: str) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise damaged(path, "it is not a file", writer)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {writer} writes it.") from error


def damaged(path: Path, wrong: str, writer: str) -> InputError:
    return InputError(f"{path} is damaged ({wrong}): remove its folder and run {writer} again.")
