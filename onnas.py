"""On-device search: a network for each new few-shot task, or for one full data set.

    python onnas.py --meta_cell runs/omniglot/meta_cell.pt --dataset omniglot --path runs/omniglot_onnas
    torchrun --standalone --nproc_per_node 2 -- onnas.py ...  # test tasks side by side, as on one thread
    python onnas.py --task full --dataset imagefolder --data_path photographs --path runs/photographs

Few-shot: unfolds a meta-cell, searches and trains it on each task's support set, and tests it on the queries; writes
tasks.jsonl (a line a task), examples.jsonl, results.json, args.json and report.html into --path. Full task: searches on
the two halves of the training set, from a meta-cell or from scratch, then trains the network that was found; writes
search.jsonl, derived.jsonl (a line an epoch), genotype.json, .txt and .png, results.json, args.json, report.html and
what --resume needs. Both write TensorBoard events into tb/.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("onnas.py")

from search_space.flags.onnas import OnnasFlags, parse_onnas_flags

if __name__ == "__main__":
    parse_onnas_flags(__doc__)  # --help and a refusal come before PyTorch is imported, which takes seconds

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor, nn

from models.derived_network import DerivedNetwork
from models.pruned_network import PrunedNetwork
from models.textbook_norm import with_textbook_norm
from search_space.agreement import searched_network
from search_space.board.opening import open_board
from search_space.board.search_record import record_of
from search_space.evaluation import TEST_TASK, Start, search_task
from search_space.flags.declare import FULL
from search_space.flags.less_memory import less_memory
from search_space.full_task.plan import FullTaskPlan, data_digest, derived_settings, plan_full_task
from search_space.full_task.run import run_search, train_derived
from search_space.genotype import save_genotype
from search_space.memory.fit import plan_search
from search_space.memory.size import Size
from search_space.resume import checked_values
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from torchmeta_loader import FewShotTasks, content_digest, episodes, few_shot_tasks
from utils.data.datasets import INPUT_SHAPES
from utils.data.full_task_data import FullTask, load_full_task, stratified_halves
from utils.data.image_batches import ImageSet, image_batches
from utils.draws import derive_seed
from utils.export_path import check_export_path
from utils.results.examples import EXAMPLES, example_of
from utils.results.exports import ExportedFile, exports_text
from utils.results.intervals import mean_and_ci95
from utils.results.row_log import RowLog, read_rows
from utils.results.schema import (
    ExampleRow,
    FewShotResults,
    FullTaskResults,
    TaskRow,
    write_results,
)
from utils.run.cli import run
from utils.run.device import choose_device, device_name
from utils.run.files import file_digest
from utils.run.progress import progress_bar
from utils.run.ranks import join_ranks
from utils.run.report import draw_genotype, make_report
from utils.run.run_directory import open_run
from utils.run.torchrun import refuse_processes, remember_run

EXPORT_IMAGES = 200  # of a full task, at most: INT8 takes its ranges of values from so many, as many test the files
METERED_TASKS = 5  # the first tasks are measured: the meter slows them down, and the others are timed


def parse_args() -> OnnasFlags:
    return parse_onnas_flags(__doc__)


def say_if_lowered(asked: int, size: Size, settings: SearchSettings) -> None:
    """No micro-batch may hold a single image."""
    number = min(map(settings.schedule.count, size.batch_sizes(settings)))
    if number < asked:
        print(f"--split_num {asked} would leave single images: the smallest batch is split in {number}.")


# --- Few-shot tasks -------------------------------------------------------------------------------------------------


def search_few_shot_tasks(flags: OnnasFlags, device: torch.device) -> None:
    tasks, path, seed = flags.tasks, flags.run.path, flags.run.seed
    ranks = join_ranks(device)

    # Settings: the meta-cell brings its network; the memory budget, if there is one, chooses the schedule.
    shape = INPUT_SHAPES[tasks.dataset]
    meta_cell, network_settings = searched_network(flags, shape[0])
    size = Size(tasks.n, tasks.n * tasks.k, tasks.n * tasks.q, shape)
    settings, prediction = plan_search(flags.search_settings(), flags.memory, network_settings, size)
    if prediction is not None:
        print(prediction.as_text(settings))
    if flags.memory.dry_run:
        return
    say_if_lowered(flags.memory.split_num or 1, size, settings)

    # Data, and what every task starts from.
    test_tasks = few_shot_tasks(
        tasks.dataset,
        "test",
        ways=tasks.n,
        shots=tasks.k,
        queries=tasks.q,
        seed=seed,
        data_path=tasks.data_path,
        use_vinyals_split=bool(tasks.use_vinyals_split),
        download=tasks.download,
    )
    for note in test_tasks.notes:
        print(note)
    start = Start(meta_cell, SearchNetwork.build(network_settings, tasks.n, seed, device), settings, seed)

    def open_or_resume() -> tuple[dict, RowLog[TaskRow]]:
        """The values for args.json, and the log with the rows of the tasks that are done."""
        found = {"data_path (SHA-256)": content_digest(test_tasks)}
        values = checked_values(flags, settings, "tasks.jsonl", found)
        read_rows(path / "tasks.jsonl", TaskRow)  # a damaged one is refused before anything is written
        remember_run(path)
        open_run(path, values)
        return values, RowLog(path / "tasks.jsonl", TaskRow)

    values, log = ranks.from_first(open_or_resume)
    rows = log.rows
    if ranks.is_first:
        examples = RowLog(path / "examples.jsonl", ExampleRow, before=len(rows))
        board = open_board(flags.run.tensorboard, path / "tb", network_settings, len(rows))

    # The loop: as many tasks at a time as there are processes.
    left = range(len(rows), flags.search.eval_epochs)
    test_episodes = episodes(test_tasks, ranks.share(left), tasks.workers)

    def search(number: int):
        """Its row, and what there is to show of it."""
        episode, record = next(test_episodes), record_of(number) if flags.run.tensorboard else None
        search = start.unfold(TEST_TASK, episode.number)
        row = search_task(search, episode, number < METERED_TASKS, record)
        search.refuse_divergence(f"the search of task {number}")
        return row, record, example_of(episode, row.predictions) if number < EXAMPLES else None

    name = flags.run.name or flags.search.search
    with progress_bar(None, name, "task", len(rows), flags.search.eval_epochs, ranks.is_first) as progress:
        for place in range(0, len(left), ranks.size):
            for row, record, example in ranks.gather(search, left[place : place + ranks.size]):
                if not ranks.is_first:
                    continue
                if example is not None:
                    examples.append(ExampleRow(**example))
                log.append(row)
                board.add_task(row, record)
                progress.update()
                progress.set_postfix(accuracy=f"{fmean(row.accuracy for row in rows):.4f}", refresh=False)
    ranks.leave()
    if not ranks.is_first:
        return

    results = few_shot_results(flags, test_tasks, start, rows, values)
    write_results(path / "results.json", results)
    if flags.run.report:
        make_report(path)
    if flags.derived.export is not None:
        export_last_task(flags, test_tasks, start, len(rows) - 1)
    ci95 = "" if results.accuracy_ci95 is None else f" +- {results.accuracy_ci95:.4f}"
    print(f"accuracy {results.accuracy:.4f}{ci95} over {len(rows)} tasks; {path / 'results.json'}")


def few_shot_results(
    flags: OnnasFlags, tasks: FewShotTasks, start: Start, rows: list[TaskRow], values: dict
) -> FewShotResults:
    """Means over the tasks; memory is of the heaviest of the measured ones, times are of the others."""
    accuracy, ci95 = mean_and_ci95([row.accuracy for row in rows])
    measured, timed = rows[:METERED_TASKS], rows[METERED_TASKS:] or rows
    heaviest = max(measured, key=lambda row: row.peak_memory_mib)
    genotypes = Counter(json.dumps(row.genotype) for row in rows)
    return FewShotResults(
        dataset=flags.tasks.dataset,
        data=asdict(tasks.size),
        device=device_name(start.network.device),
        network=start.network.settings.as_dict(),
        search=flags.search.search,
        ways=flags.tasks.n,
        shots=flags.tasks.k,
        queries=flags.tasks.q,
        tasks=len(rows),
        accuracy=accuracy,
        accuracy_ci95=ci95,
        accuracy_before=fmean(row.accuracy_before for row in rows),
        seconds_per_task=fmean(row.seconds for row in timed),
        seconds_per_step=median(row.seconds_per_step for row in timed),
        peak_memory_mib=heaviest.peak_memory_mib,
        peak_memory_breakdown_mib=heaviest.peak_memory_breakdown_mib,
        peak_memory_test_mib=max(row.peak_memory_test_mib for row in measured),
        genotype=json.loads(genotypes.most_common(1)[0][0]),
        settings=values,
        **start.network.sizes(start.meta_cell),
    )


def export_last_task(flags: OnnasFlags, tasks: FewShotTasks, start: Start, number: int) -> None:
    """Adapts to the last task once more, and exports the relaxed network with the support set's BN statistics."""
    (episode,) = episodes(tasks, [number])
    network = start.network
    images, labels = episode.support.to(network.device), episode.support_labels.to(network.device)
    search = start.unfold(TEST_TASK, number)
    search.adapt(images, labels)
    mixtures = search.mixtures()
    search.average_batch_statistics(images, mixtures)
    channels = network.settings.in_channels
    relaxed = with_textbook_norm(PrunedNetwork(network.supernet, mixtures))
    exports = export_and_measure(
        relaxed,
        flags.derived.export,
        (episode.query, episode.query_labels),
        calibration=episode.support,
        classes=episode.class_names,
        mean=[0.0] * channels,  # few-shot images are in [0, 1]
        std=[1.0] * channels,
        extra={"dataset": flags.tasks.dataset, "task": number, "seed": flags.run.seed},
    )
    print(f"task {number}'s network:\n{exports_text(exports)}")


# --- Full task ------------------------------------------------------------------------------------------------------


def search_full_task(flags: OnnasFlags, device: torch.device) -> None:
    path, tasks = flags.run.path, flags.tasks

    # Data, and what is run on them: networks, settings, memory.
    data = load_full_task(
        tasks.dataset,
        tasks.data_path,
        seed=flags.run.seed,
        input_size=flags.full_task.input_size,
        download=tasks.download,
    )
    for note in data.notes:
        print(note)
    halves = stratified_halves(data.train.labels, flags.run.seed)
    if flags.memory.is_planned:
        print("Working out the memory of searching and training, a minute or two ...", flush=True)
    plan = plan_full_task(flags, data, halves)
    for line in plan.said:
        print(line)
    if flags.memory.dry_run:
        return
    values = open_full_task(flags, data, plan)

    # Search, unless the genotype is given; then train what was found, and test it.
    genotype, supernet, searched = plan.genotype, None, {}
    if genotype is None:
        search, searched = run_search(flags, device, data, halves, plan)
        genotype, supernet = search.best.genotype, search.network.supernet
        del search
    save_genotype(genotype, path / "genotype.json")
    save_genotype(genotype, path / "genotype.txt")
    if flags.run.report:
        draw_genotype(genotype.as_dict(), path / "genotype.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(flags.run.seed, "derived initial weights"))
        derived = DerivedNetwork(derived_settings(flags, plan.network, genotype), len(data.classes)).to(device)
    if flags.derived.inherit_weights:
        derived.inherit(supernet)
    del supernet  # its memory is for the training
    trained = train_derived(flags, data, derived)
    results = FullTaskResults(
        dataset=tasks.dataset,
        data={"classes": len(data.classes), "train_images": len(data.train), "test_images": len(data.test)},
        device=device_name(device),
        network=plan.network.as_dict(),
        classes=list(data.classes),
        genotype=genotype.as_dict(),
        settings=values,
        **searched,
        **trained,
    )
    write_results(path / "results.json", results)
    if flags.run.report:
        make_report(path)
    if flags.derived.export is not None:
        exports = export_and_measure(
            with_textbook_norm(derived),
            flags.derived.export,
            _some_of(data.test),
            calibration=_some_of(data.train)[0],
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            bits=data.train.bits,
            extra={"dataset": tasks.dataset, "accuracy": results.derived_accuracy, "genotype": genotype.as_dict()},
        )
        print(f"derived network, on some of the test images:\n{exports_text(exports)}")
    print(f"derived network: test accuracy {results.derived_accuracy:.4f}; {path / 'results.json'}")


def export_and_measure(network: nn.Module, path: Path, tested: tuple[Tensor, Tensor], **about) -> list[ExportedFile]:
    """Writes the files of a network, see :func:`utils.export.export_network`; how each classifies ``tested``."""
    # ONNX takes a second and 100 MiB, which only a run that exports is to pay.
    from utils.export import export_network
    from utils.exported import measure_files

    print("Exporting the network, up to a minute ...", flush=True)
    return measure_files(export_network(network, path, **about), network, *tested)


def _some_of(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Images of all classes, enough to see how an exported network does: float32 (N, C, H, W), normalised; (N,)."""
    spread = range(0, len(images), -(-len(images) // EXPORT_IMAGES))
    (batch,) = image_batches(images, spread, EXPORT_IMAGES)
    return batch


def open_full_task(flags: OnnasFlags, data: FullTask, plan: FullTaskPlan) -> dict:
    """Opens the run's folder, new or to go on with; returns the values for args.json."""
    if plan.network.partial_channels not in (1, 4):
        print(f"--partial_channels {plan.network.partial_channels}: the candidates see that part of the channels.")
    if plan.genotype is None:
        say_if_lowered(flags.memory.split_num or 1, plan.size, plan.settings)
    genotype = flags.full_task.genotype
    found = {flag: value for flag, value in plan.network.as_dict().items() if flag in vars(flags.network)}
    found |= {"data_path (SHA-256)": data_digest(data), "genotype (SHA-256)": genotype and file_digest(genotype)}
    log = "search.jsonl" if plan.genotype is None else "derived.jsonl"
    values = checked_values(flags, plan.settings, log, found)
    open_run(flags.run.path, values)
    return values


def main():
    flags = parse_args()
    if flags.derived.export is not None:
        check_export_path(flags.derived.export)
    device = choose_device(flags.run.device, tf32=bool(flags.run.tf32))
    if flags.kind.task == FULL:
        refuse_processes("--task full")
        search_full_task(flags, device)
    else:
        search_few_shot_tasks(flags, device)


if __name__ == "__main__":
    run(
        main,
        "onnas.py",
        "--resume goes on after the last whole task or epoch.",
        less_memory=lambda: less_memory(parse_args().as_dict()),
    )
