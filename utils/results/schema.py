"""What runs write of their results, declared once: the keys of results.json; those of logs are in log_rows.py.

A new figure is one field here. A field that is None does not apply, and its key is absent from the file. Memory is in
MiB, time in seconds; accuracies are fractions, their ci95 half of the 95 % interval.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, TypedDict

from utils.results.checking import Rule, as_values, damaged, from_values, read_json
from utils.results.exports import ExportedFile
from utils.results.settings import OWN, SCRIPTS, Count, Method, OnnasSettings, OwnSettings, TfmlSettings
from utils.run.files import write_json

FEW_SHOT, FULL, TFML = "fewshot", "full", "tfml"

Amount = Annotated[float, Rule(lambda value: value >= 0, "0 or more")]
Seconds = Annotated[float, Rule(lambda value: 0 <= value < 1e10, "a time in seconds")]
Storage = Annotated[float, Rule(lambda value: value > 0, "more than 0")]
Fraction = Annotated[float, Rule(lambda value: 0 <= value <= 1, "from 0 to 1")]
# An image inside the page, never an address from which a browser would fetch one.
DataUri = Annotated[
    str, Rule(re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*").fullmatch, "a data: URI of a PNG or JPEG")
]


def _is_cell(edges: list) -> bool:
    """Whether a cell has two edges a node, each from a state that comes before it."""
    return len(edges) % 2 == 0 and all(source < number // 2 + 2 for number, (_, source) in enumerate(edges))


Operation = Annotated[str, Rule(lambda name: 0 < len(name) <= 40, "the name of an operation")]
Cell = Annotated[list[tuple[Operation, Count]], Rule(_is_cell, "a cell of two edges a node")]


class Cells(TypedDict):
    """A genotype in plain values: the (operation, input) pairs of each cell type."""

    normal: Cell
    reduce: Cell


class Network(TypedDict):
    """The settings of a supernet, among others."""

    init_channels: Count
    layers: Count
    nodes: Count
    reduction_layers: list[Count]


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


class Judged(TypedDict):
    """How right the classes of labelled images are; confusion: a row a class, what its images were taken for.

    accuracy_interval: the ends of its 95 % interval.
    """

    labelled_images: Count
    accuracy: Fraction
    accuracy_interval: tuple[Fraction, Fraction]
    confusion: list[list[Count]]


# --- What several have in common --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Peak memory of adapting (or searching, or training), its parts by kind of tensor, and that of testing."""

    peak_memory_mib: Amount | None = None
    peak_memory_breakdown_mib: dict[str, Amount] | None = None
    peak_memory_test_mib: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class FoundFigures:
    """Of the network that a task's genotype names, beside the relaxed one that it was read from.

    macs: of the relaxed network. agreement: the share of queries that both classify alike. candidate_entropy: of the
        candidates' probabilities, in nats, the mean over the edges.
    """

    found_accuracy: Fraction | None = None
    found_parameters: Count | None = None
    found_macs: Count | None = None
    found_storage_mib: Storage | None = None
    found_peak_memory_mib: Amount | None = None
    macs: Count | None = None
    agreement: Fraction | None = None
    candidate_entropy: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What every script's results.json holds."""

    dataset: str
    device: str
    network: Network
    supernet_parameters: Count | None = None
    supernet_storage_mib: Storage | None = None
    meta_cell_storage_mib: Storage | None = None
    process_memory_mib: Amount | None = None
    process_memory_anonymous_mib: Amount | None = None


# --- results.json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FewShotResults(FoundFigures, Peaks, Results):
    """Of onnas.py on few-shot tasks: means over the tasks, peaks of the heaviest one, the genotype found most often."""

    writer: ClassVar[str] = "onnas.py"
    task: str = FEW_SHOT
    data: SplitSize
    search: Method
    ways: Count
    shots: Count
    queries: Count
    tasks: Count
    accuracy: Fraction
    accuracy_ci95: Amount | None = None
    accuracy_before: Fraction
    found_accuracy_ci95: Amount | None = None
    seconds_per_task: Seconds
    seconds_per_step: Seconds
    genotype: Cells
    exports: list[ExportedFile] | None = None
    settings: OnnasSettings


@dataclass(frozen=True, kw_only=True)
class OwnResults(Peaks, Results):
    """Of onnas.py on one's own images; accuracy and what belongs to it are of those that are labelled.

    support_images: of each class. folds: of the support images, each left out once.
    parameters: of the network that classifies.
    """

    writer: ClassVar[str] = "onnas.py"
    task: str = OWN
    dataset: str = "own images"
    search: Method | None = None
    classes: list[str]
    support_images: list[Count] | None = None
    query_images: Count | None = None
    unread_images: Count | None = None
    labelled_images: Count | None = None
    accuracy: Fraction | None = None
    accuracy_interval: tuple[Fraction, Fraction] | None = None
    confusion: list[list[Count]] | None = None
    folds: Judged | None = None
    seconds_per_task: Seconds | None = None
    seconds_per_step: Seconds | None = None
    parameters: Count
    genotype: Cells | None = None
    exports: list[ExportedFile] | None = None
    settings: OwnSettings


@dataclass(frozen=True, kw_only=True)
class SearchFigures(Peaks):
    """Of a full task's search; accuracy is the searched supernet's on the test images."""

    search: Method | None = None
    accuracy: Fraction | None = None
    search_epochs: Count | None = None
    best_epoch: Count | None = None
    validation_accuracy: Fraction | None = None
    search_seconds: Seconds | None = None
    seconds_per_step: Seconds | None = None
    macs: Count | None = None


@dataclass(frozen=True, kw_only=True)
class FullTaskResults(SearchFigures, Results):
    """Of onnas.py on a full task: of the search, none where the genotype was given, and of training what was found."""

    writer: ClassVar[str] = "onnas.py"
    task: str = FULL
    data: FullTaskSize
    classes: list[str]
    derived_accuracy: Fraction
    derived_accuracy_interval: tuple[Fraction, Fraction] | None = None
    derived_confusion: list[list[Count]] | None = None
    derived_parameters: Count
    derived_macs: Count
    derived_epochs: Count
    derived_seconds: Seconds
    derived_split_num: Count
    derived_step_by_step: bool
    derived_peak_memory_mib: Amount | None = None
    derived_peak_memory_breakdown_mib: dict[str, Amount] | None = None
    derived_peak_memory_test_mib: Amount | None = None
    derived_peak_memory_inference_mib: Amount | None = None
    genotype: Cells
    exports: list[ExportedFile] | None = None
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


AnyResults = FewShotResults | OwnResults | FullTaskResults | MetaTrainingResults
KINDS = {FEW_SHOT: FewShotResults, OWN: OwnResults, FULL: FullTaskResults, TFML: MetaTrainingResults}


def write_results(path: Path, results: AnyResults) -> None:
    """Writes results.json, whole or not at all."""
    write_json(path, as_values(results))


def read_results(path: Path) -> AnyResults:
    """Reads what :func:`write_results` wrote.

    Raises:
        InputError: there is no such file, or it is damaged; the message names the key.
    """
    values = read_json(path, SCRIPTS)
    task = values.get("task") if isinstance(values, dict) else None
    if not isinstance(task, str) or task not in KINDS:
        raise damaged(path, "it is not of a run", SCRIPTS)
    try:
        return from_values(KINDS[task], values)
    except ValueError as error:
        raise damaged(path, str(error), KINDS[task].writer) from error
