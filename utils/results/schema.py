"""What runs write of their results, declared once: the keys of results.json, of args.json and of a log's rows.

A new figure is one field here. A field that is None does not apply, and its key is absent from the file.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

from utils.results.checking import Rule, damaged, misfit_keys, read_json
from utils.run.files import write_json

FEW_SHOT, FULL, TFML = "fewshot", "full", "tfml"

Count = Annotated[int, Rule(lambda value: value >= 0, "0 or more")]
Amount = Annotated[float, Rule(lambda value: value >= 0, "0 or more")]
Fraction = Annotated[float, Rule(lambda value: 0 <= value <= 1, "from 0 to 1")]
# An image inside the page, never an address from which a browser would fetch one.
DataUri = Annotated[
    str, Rule(re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*").fullmatch, "a data: URI of a PNG or JPEG")
]
Parts = dict[str, Amount]  # of a peak, by kind of tensor


def _is_cell(edges: list) -> bool:
    """Whether a cell has two edges a node, each from a state that comes before it."""
    return len(edges) % 2 == 0 and all(source < number // 2 + 2 for number, (_, source) in enumerate(edges))


Cell = Annotated[list[tuple[str, Count]], Rule(_is_cell, "a cell of two edges a node")]


class Cells(TypedDict):
    """A genotype in plain values: the (operation, input) pairs of each cell type."""

    normal: Cell
    reduce: Cell


class SplitSize(TypedDict):
    """How much of a few-shot data set there is."""

    split: str
    classes: Count
    images: Count


class FullTaskSize(TypedDict):
    """How much of a full task's data set there is."""

    classes: Count
    train_images: Count
    test_images: Count


# --- Settings: of args.json, what the report and the tables read ------------------------------------------------------


class OptionalSettings(TypedDict, total=False):
    """What may be missing, as a flag that a kind of run does not have."""

    name: str | None
    seed: Count | None
    split_num: Count | None
    schedule: str | None
    step_by_step: Count | None


class Settings(OptionalSettings):
    """What both scripts record; further flags are there as well."""

    script: str
    dataset: str
    n: Count
    k: Count
    q: Count
    eval_epochs: Count


class OnnasSettings(Settings):
    """What onnas.py records."""

    task: str
    search: str
    epochs: Count
    derived_epochs: Count
    genotype: str | None


class TfmlSettings(Settings):
    """What tfml.py records."""

    meta_epochs: Count


# --- results.json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FoundFigures:
    """Of the network that a task's genotype names, beside the relaxed one that it was read from.

    macs: of the relaxed network. agreement: the share of queries that both classify alike. candidate_entropy: the mean
        over the edges, in nats, of the candidates' probabilities.
    """

    found_accuracy: Fraction | None = None
    found_parameters: Count | None = None
    found_macs: Count | None = None
    found_storage_mib: Amount | None = None
    found_peak_memory_mib: Amount | None = None
    macs: Count | None = None
    agreement: Fraction | None = None
    candidate_entropy: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What every script's results.json holds. Memory is in MiB, time in seconds, accuracies are fractions."""

    dataset: str
    device: str
    network: dict[str, object]
    supernet_parameters: Count | None = None
    supernet_storage_mib: Amount | None = None
    meta_cell_storage_mib: Amount | None = None
    process_memory_mib: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class FewShotResults(FoundFigures, Results):
    """Of onnas.py on few-shot tasks: means over the tasks, peaks of the heaviest one.

    genotype: the one found most often.
    """

    writer: ClassVar[str] = "onnas.py"
    task: str = FEW_SHOT
    data: SplitSize
    search: str
    ways: Count
    shots: Count
    queries: Count
    tasks: Count
    accuracy: Fraction
    accuracy_ci95: Amount | None = None
    accuracy_before: Fraction
    found_accuracy_ci95: Amount | None = None
    seconds_per_task: Amount
    seconds_per_step: Amount
    peak_memory_mib: Amount | None = None
    peak_memory_breakdown_mib: Parts | None = None
    peak_memory_test_mib: Amount | None = None
    genotype: Cells
    settings: OnnasSettings


@dataclass(frozen=True, kw_only=True)
class FullTaskResults(Results):
    """Of onnas.py on a full task: the search, none where the genotype was given, then training what was found."""

    writer: ClassVar[str] = "onnas.py"
    task: str = FULL
    data: FullTaskSize
    classes: list[str]
    search: str | None = None
    accuracy: Fraction | None = None
    search_epochs: Count | None = None
    best_epoch: Count | None = None
    validation_accuracy: Fraction | None = None
    search_seconds: Amount | None = None
    seconds_per_step: Amount | None = None
    peak_memory_mib: Amount | None = None
    peak_memory_breakdown_mib: Parts | None = None
    peak_memory_test_mib: Amount | None = None
    macs: Count | None = None
    derived_accuracy: Fraction
    derived_parameters: Count
    derived_macs: Count
    derived_epochs: Count
    derived_seconds: Amount
    derived_split_num: Count
    derived_step_by_step: bool
    derived_peak_memory_mib: Amount | None = None
    derived_peak_memory_breakdown_mib: Parts | None = None
    derived_peak_memory_test_mib: Amount | None = None
    derived_peak_memory_inference_mib: Amount | None = None
    genotype: Cells
    settings: OnnasSettings


@dataclass(frozen=True, kw_only=True)
class MetaTrainingResults(Results):
    """Of tfml.py."""

    writer: ClassVar[str] = "tfml.py"
    task: str = TFML
    data: SplitSize
    meta_epochs: Count
    meta_cell_sha256: str = field(metadata={"key": "meta_cell (SHA-256)"})
    settings: TfmlSettings


AnyResults = FewShotResults | FullTaskResults | MetaTrainingResults
KINDS = {FEW_SHOT: FewShotResults, FULL: FullTaskResults, TFML: MetaTrainingResults}


# --- The rows of logs, a line each ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TaskRow(FoundFigures):
    """A test task, in tasks.jsonl: accuracies before and after adapting; the loss is that of the queries, after.

    loss: None if it is not finite. seconds: of adapting. seconds_per_step: median; a step is an architecture and a
    weight step on one batch. peak_memory_mib, peak_memory_test_mib: of adapting and of testing, None if not measured.
    predictions: the class that each query was given, after.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "task"
    task: Count
    accuracy: Fraction
    accuracy_before: Fraction
    loss: Amount | None = None
    seconds: Amount
    seconds_per_step: Amount
    peak_memory_mib: Amount | None = None
    peak_memory_breakdown_mib: Parts | None = None
    peak_memory_test_mib: Amount | None = None
    genotype: Cells
    predictions: list[Count]


@dataclass(frozen=True, kw_only=True)
class MetaEpochRow:
    """A meta-epoch, in metrics.jsonl; of one with a meta-test also its figures, and the first task's peak memory."""

    writer: ClassVar[str] = "tfml.py"
    index: ClassVar[str] = "meta_epoch"
    meta_epoch: Count
    train_loss: Amount
    train_accuracy: Fraction
    seconds: Amount
    tasks_per_second: Amount
    peak_memory_mib: Amount | None = None
    peak_memory_breakdown_mib: Parts | None = None
    test_loss: Amount | None = None
    test_accuracy: Fraction | None = None
    test_accuracy_ci95: Amount | None = None
    found_accuracy: Fraction | None = None
    found_accuracy_ci95: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class SearchEpochRow:
    """An epoch of a full task's search, in search.jsonl: means over its steps.

    validation_accuracy: on the architecture's half, each batch before it was stepped on; None while warming up.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "epoch"
    epoch: Count
    loss: Amount
    accuracy: Fraction
    validation_accuracy: Fraction | None = None
    peak_memory_mib: Amount
    peak_memory_breakdown_mib: Parts
    seconds: Amount
    seconds_per_step: Amount


@dataclass(frozen=True, kw_only=True)
class DerivedEpochRow:
    """An epoch of a derived network's training, in derived.jsonl; the loss includes the auxiliary head's share."""

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "epoch"
    epoch: Count
    loss: Amount
    accuracy: Fraction
    seconds: Amount
    peak_memory_mib: Amount
    peak_memory_breakdown_mib: Parts


class ShownQuery(TypedDict):
    """A query image and the class that it was given."""

    image: DataUri
    predicted: Count


class ShownClass(TypedDict):
    """Some images of one class."""

    support: list[DataUri]
    queries: list[ShownQuery]


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """Some images of one of the first tasks, in examples.jsonl.

    classes: their names. shown: the images of the first so many of them.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str | None] = None
    classes: list[str]
    shown: list[ShownClass]


AnyRow = TaskRow | MetaEpochRow | SearchEpochRow | DerivedEpochRow | ExampleRow


# --- Objects and plain values -----------------------------------------------------------------------------------------


def as_values(results: AnyResults | AnyRow) -> dict[str, Any]:
    """The keys and values of a file; what is None is left out."""
    values = {key: getattr(results, name) for name, key in _keys(type(results)).items()}
    return {key: value for key, value in values.items() if value is not None}


def from_values(kind: type, values: object) -> Any:
    """The inverse of :func:`as_values`, for values that are not to be trusted.

    Raises:
        ValueError: a key is missing or a value is of a wrong type; the message names it.
    """
    names, hints = _keys(kind), typing.get_type_hints(kind, include_extras=True)
    required = [names[part.name] for part in dataclasses.fields(kind) if part.default is dataclasses.MISSING]
    wrong = misfit_keys(values, {key: hints[name] for name, key in names.items()}, required, "it")
    if wrong:
        raise ValueError(wrong)
    return kind(**{name: values[key] for name, key in names.items() if key in values})


def _keys(kind: type) -> dict[str, str]:
    """The key in the file of each of a dataclass's fields."""
    return {part.name: part.metadata.get("key", part.name) for part in dataclasses.fields(kind)}


def write_results(path: Path, results: AnyResults) -> None:
    """Writes results.json, whole or not at all."""
    write_json(path, as_values(results))


def read_results(path: Path) -> AnyResults:
    """Reads what :func:`write_results` wrote.

    Raises:
        InputError: there is no such file, or it is damaged; the message names the key.
    """
    values = read_json(path, "onnas.py or tfml.py")
    task = values.get("task") if isinstance(values, dict) else None
    kind = KINDS.get(task) if isinstance(task, str) else None
    if kind is None:
        raise damaged(path, "it is not of a run", "onnas.py or tfml.py")
    try:
        return from_values(kind, values)
    except ValueError as error:
        raise damaged(path, str(error), kind.writer) from error


def read_settings(path: Path) -> OnnasSettings | TfmlSettings:
    """Reads a run's args.json.

    Raises:
        InputError: there is no such file, or it is damaged or of another program.
    """
    values = read_json(path, "onnas.py or tfml.py")
    script = values.get("script") if isinstance(values, dict) else None
    kind = {"onnas.py": OnnasSettings, "tfml.py": TfmlSettings}.get(script) if isinstance(script, str) else None
    if kind is None:
        raise damaged(path, "it is not of a run of onnas.py or tfml.py", "one of them")
    hints = typing.get_type_hints(kind, include_extras=True)
    wrong = misfit_keys(values, hints, kind.__required_keys__, "it")
    if wrong:
        raise damaged(path, wrong, script)
    return values
