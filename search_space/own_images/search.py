"""Adapts to a support set of the user's own, says what to expect of the network, and classifies images with it."""

import hashlib
from dataclasses import dataclass, replace

import torch

from models.adapted_network import AdaptedNetwork
from models.meta_cell import MetaCell
from models.supernet import SupernetSettings
from search_space.agreement import head_note, head_start, image_side, searched_network
from search_space.evaluation import Start
from search_space.exporting import EXPORTING, export_task_network
from search_space.flags.onnas import OnnasFlags
from search_space.memory.fit import split_note
from search_space.memory.process import plan_within
from search_space.memory.size import Size
from search_space.own_images.adapting import adapt, judge_folds
from search_space.own_images.files import classify_files, query_images
from search_space.resume import checked_values
from search_space.search_network import SearchNetwork
from search_space.settings import AUTO, SearchSettings
from utils.data.own_task import OwnTask, Queries, list_queries, load_own_task, stratified_folds
from utils.results.confusion import judged_text
from utils.results.exports import ExportedFile, exports_text
from utils.results.schema import OwnResults, write_results
from utils.run.device import device_name
from utils.run.files import file_digest
from utils.run.process_memory import process_memory
from utils.run.report import make_report
from utils.run.run_directory import open_run


@dataclass(frozen=True)
class OwnPlan:
    """What is adapted to what.

    flags: with what the meta-cell says where the command line does not. settings: of the search, within the memory
    budget. queries: listed only; None: there are none.
    """

    flags: OnnasFlags
    meta_cell: MetaCell
    network: SupernetSettings
    settings: SearchSettings
    task: OwnTask
    queries: Queries | None


def search_own_images(flags: OnnasFlags, device: torch.device) -> None:
    plan = plan_own_images(flags, device)
    flags, task, queries = plan.flags, plan.task, plan.queries
    path, seed, export = flags.run.path, flags.run.seed, flags.derived.export
    folds = [] if flags.own.folds is None else stratified_folds(task.labels.tolist(), flags.own.folds, seed)
    if flags.memory.dry_run:
        return
    values = checked_values(flags, plan.settings, "adapted.pt", {"support (SHA-256)": digest(task)})
    open_run(path, values)

    # Adapt to all images, and keep the network; then without each part in turn.
    network = SearchNetwork.build(plan.network, len(task.class_names), seed, device)
    start = Start(plan.meta_cell, network, plan.settings, seed)
    done = adapt(start, flags.search.export_network or AUTO, 0, task, measure=True)
    which, _, why = done.chosen
    if why is not None:
        print(why)
    origin = {"search": flags.search.search, "network": which, "meta_cell (SHA-256)": file_digest(flags.kind.meta_cell)}
    adapted = AdaptedNetwork(done.chosen.network, task.class_names, task.preparation, origin)
    adapted.save(path / "adapted.pt")
    labelled = queries is not None and any(query.label is not None for query in queries.files)
    judged, of_folds = (
        judge_folds(start, which, task, folds, export is not None and not labelled) if folds else (None, [])
    )

    # Classify the others.
    figures = {} if queries is None else classify_files(path, adapted, queries)
    if judged is not None:
        print(f"each image classified without having been adapted to: accuracy {judged_text(judged)}")
    results = OwnResults(
        device=device_name(device),
        network=plan.network.as_dict(),
        search=flags.search.search,
        classes=list(task.class_names),
        support_images=task.labels.bincount().tolist(),
        folds=judged,
        parameters=adapted.network.parameter_count,
        settings=values,
        **network.sizes(plan.meta_cell),
        **done.figures,
        **figures,
        **process_memory(),
    )
    write_results(path / "results.json", results)
    if export is not None:
        print(f"{EXPORTING} ...", flush=True)
        exports = export_adapted(adapted, task, queries, flags, of_folds)
        print(exports_text(exports))
        write_results(path / "results.json", replace(results, exports=exports))
    shown = f"{path / 'report.html'} shows it; " if flags.run.report else ""
    if flags.run.report:
        make_report(path)
    print(f"{shown}more images: python onnas.py --adapted {path / 'adapted.pt'} --query DIR")


def plan_own_images(flags: OnnasFlags, device: torch.device) -> OwnPlan:
    """Reads the meta-cell and the support set, and says what is done to the images.

    Raises:
        InputError: meta-cell, flags and images do not go together, or the memory budget is too little.
    """
    own, file = flags.own, flags.kind.meta_cell
    meta_cell, network = searched_network(flags, None)
    flags = flags.completed({} if meta_cell.trained_on is None else meta_cell.trained_on.adaptation)
    side = image_side(meta_cell, flags.tasks.input_size, file)
    task = load_own_task(own.support, channels=network.in_channels, side=side)
    queries = None if own.query is None else list_queries(own.query, task.class_names)
    ways = len(task.class_names)

    size = Size(ways, len(task.images), 1, task.preparation.shape)
    asked = replace(flags.search_settings(), head_init=head_start(flags.adaptation.head_init, meta_cell))
    settings, prediction = plan_within(asked, flags.memory, network, size, device)
    notes = [
        None if flags.tasks.input_size else f"Images are taken at {side}x{side} pixels, as {file} was trained.",
        *task.notes,
        *(queries.notes if queries else ()),
        head_note(meta_cell, file, ways, settings),
        split_note(flags.memory.split_num, size, settings),
        None if prediction is None else prediction.as_text(settings),
    ]
    for note in filter(None, notes):
        print(note)
    return OwnPlan(flags, meta_cell, network, settings, task, queries)


def digest(task: OwnTask) -> str:
    """The SHA-256 of a support set: classes, labels and pixels."""
    told = [task.class_names, task.labels.tolist(), task.preparation.shape]
    return hashlib.sha256(repr(told).encode() + task.images.numpy().tobytes()).hexdigest()


def export_adapted(
    adapted: AdaptedNetwork, task: OwnTask, queries: Queries | None, flags: OnnasFlags, of_folds: list[ExportedFile]
) -> list[ExportedFile]:
    """Writes the files of a network; their accuracy is on the labelled queries, else over the folds if there are any.

    Args:
        of_folds: the figures of the folds' files, if there are any.
    """
    images, labels = (task.images, None) if queries is None else query_images(queries.files, adapted)
    exports = export_task_network(
        adapted.network,
        flags.derived.export,
        images,
        labels,
        calibration=task.images,
        classes=task.class_names,
        bits=task.preparation.bits,
        extra=adapted.made_from,
    )
    return [file | fold for file, fold in zip(exports, of_folds or [{}] * len(exports), strict=True)]
