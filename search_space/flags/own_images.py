"""The flags of a task of one's own images, and where the values come from that the command line does not give."""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from search_space.flags.declare import OWN, Section, flag
from search_space.flags.shared import AdaptationFlags, fill_in, preset, rising_temperature
from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, whole

OF_CLASSIFYING = {"task", "path", "name", "device", "resume", "query", "adapted", "export"}  # what --adapted goes with


@dataclass(frozen=True)
class OwnFlags(Section):
    title = "own images: a few of each class in, a classifier out"
    support: Path | None = flag(
        place,
        "adapt to the images of DIR/<class>/, two classes or more, as the meta-cell says where flags do not",
        metavar="DIR",
        changes=True,
        only=(OWN,),
    )
    query: Path | None = flag(
        place,
        "classify the images in DIR, at any depth; in folders that are named like the classes they are labelled",
        metavar="DIR",
        changes=True,
        only=(OWN,),
    )
    folds: int | None = flag(
        whole(2, 1000),
        "say what to expect: adapt K times, each time without a part of the support images, and test on that part",
        metavar="K",
        only=(OWN,),
    )
    adapted: Path | None = flag(
        place,
        "classify with this adapted.pt of an earlier run, in place of adapting",
        metavar="FILE",
        changes=True,
        only=(OWN,),
    )


def settle_own_images(parser: ArgumentParser, values: dict[str, Any], of_method: Iterable[str]) -> None:
    """Refuses what own images have no use for; leaves open, as None, what the meta-cell is to say.

    Args:
        of_method: the flags that --search has settled.
    """
    given = parser.given()
    if values["adapted"] is not None:
        unused = sorted(given - OF_CLASSIFYING)
        if unused:
            parser.error(f"argument --{unused[0]}: --adapted classifies without a search: leave one of the two out")
        if values["query"] is None:
            parser.error("argument --adapted: needs --query DIR, the images to classify")
    elif values["support"] is None:
        parser.error("argument --task: own needs --support DIR, the images to adapt to, or --adapted FILE")
    if "transductive" in given and values["transductive"]:
        parser.error("argument --transductive: own images are classified one by one, which is 0")
    settled = given.union(of_method)
    values.update({part.name: None for part in fields(AdaptationFlags) if part.name not in settled}, transductive=0)
    if values["hp_setting"] is not None:
        _fill_in_preset(values, values["hp_setting"])


def complete(values: dict[str, Any], adaptation: Mapping[str, object], meta_cell: Path, parts: Iterable[Field]) -> None:
    """Gives the flags that say how to adapt the meta-cell's values, and where it says none the usual ones.

    Args:
        values: of all flags; only those are changed that are None.
        adaptation: values of flags by name, not to be trusted. meta_cell: where they were read.
        parts: the flags that say how to adapt.

    Raises:
        InputError: there is no such value, or T would rise over a task.
    """
    for part in parts:
        options = part.metadata["options"]
        if values[part.name] is None and part.name in adaptation:
            try:
                values[part.name] = options["type"](str(adaptation[part.name]))
            except ArgumentTypeError as error:
                raise InputError(f"{meta_cell} names a wrong --{part.name}: {error}.") from error
            if values[part.name] not in options.get("choices", [values[part.name]]):
                raise InputError(f"{meta_cell} names a wrong --{part.name}: {values[part.name]}.")
        fill_in(values, {part.name: options["default"]})
    _fill_in_preset(values, None)
    wrong = rising_temperature(values)
    if wrong:
        raise InputError(f"{wrong}.")


def _fill_in_preset(values: dict[str, Any], name: str | None) -> None:
    published = preset(name, dataset="", shots=0)
    fill_in(values, {**published, "batch_size": published["test_batch_size"]})
