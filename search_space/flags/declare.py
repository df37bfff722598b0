"""A flag is declared once, as a field of a frozen dataclass; the parser, args.json and --resume follow from it."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, ClassVar

from utils.run.cli import ArgumentParser
from utils.run.start import not_installed

FEW_SHOT, FULL, OWN = TASKS = ("fewshot", "full", "own")


def flag(
    kind: Callable,
    help: str,
    default: object = None,
    *,
    changes: bool = False,
    only: tuple[str, ...] = TASKS,
    needs: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A field of a :class:`Section`: the flag of its name.

    Args:
        kind: argparse's type; bool: the flag has no value.
        changes: a run that goes on (--resume) may have another value; otherwise the flag is part of its identity.
        only: the kinds of tasks that have a use for it.
        needs: the Python packages without which only 0, or no value, will do.
        options: further ones of argparse.
    """
    options |= {"action": "store_true", "default": False} if kind is bool else {"type": kind, "default": default}
    metadata = {"options": {**options, "help": help}, "changes": changes, "only": only, "needs": needs}
    return field(default=options["default"], metadata=metadata)


@dataclass(frozen=True)
class Section:
    """Flags that ``--help`` shows together, under ``title``."""

    title: ClassVar[str]


@dataclass(frozen=True)
class Flags:
    """All flags of a script: each field is a :class:`Section`."""

    def as_dict(self) -> dict[str, object]:
        """Every flag's value by its name."""
        sections = (getattr(self, part.name) for part in fields(self))
        return {name: value for section in sections for name, value in vars(section).items()}

    def may_change(self) -> set[str]:
        """The flags that a run that goes on may have another value of."""
        return {part.name for part in declared(type(self)) if part.metadata["changes"]}


def declared(kind: type[Flags]) -> list:
    """The fields of every section, in order."""
    return [part for section in fields(kind) for part in fields(section.type)]


def parse(parser: ArgumentParser, kind: type[Flags], own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every flag's value on the command line, by its name; None where it has no default and is not given.

    Args:
        own: what a script's own flags have in place of the declared options of argparse, as another default.
    """
    for section in fields(kind):
        group = parser.add_argument_group(section.type.title)
        for part in fields(section.type):
            group.add_argument(f"--{part.name}", **part.metadata["options"] | own.get(part.name, {}))
    values = vars(parser.parse_args())
    for part in declared(kind):
        absent = [name for name in part.metadata["needs"] if values[part.name] and find_spec(name) is None]
        if absent:
            instead = f"; or --{part.name} 0" if part.default else ""
            parser.error(f"argument --{part.name}: {not_installed(*absent)}{instead}")
    return values


def build(kind: type[Flags], values: dict[str, Any]) -> Flags:
    """The dataclasses of these values."""
    return kind(
        **{
            section.name: section.type(**{part.name: values[part.name] for part in fields(section.type)})
            for section in fields(kind)
        }
    )
