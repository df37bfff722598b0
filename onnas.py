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

from utils.run import start

if __name__ == "__main__":
    start.begin("onnas.py")  # before PyTorch is imported

import json
import time
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from statistics import fmean, median

import torch

from models.derived_network import DerivedNetwork
from models.pruned_network import PrunedNetwork
from models.supernet import Supernet
from models.textbook_norm import count_macs, with_textbook_norm
from search_space.board.board import Board, FullTaskBoard
from search_space.board.search_record import record_of
from search_space.build import build_supernet, load_meta_cell
from search_space.evaluation import network_figures, search_task, start_task
from search_space.flags.less_memory import less_memory
from search_space.flags.onnas import (
    add_onnas_flags,
    check_agreement,
    check_flags,
    choose_settings,
    files_of_runs,
    first_settings,
    make_export_folder,
    settled_flags,
)
from search_space.flags.shared import evaluation_settings
from search_space.full_task.derived_training import DerivedTraining
from search_space.full_task.plan import (
    data_digest,
    derived_settings,
    derived_training_settings,
    epoch_log,
    full_task_network,
    load_searched,
    plan_full_task,
    resumed_epochs,
    task_size,
)
from search_space.full_task.search import FullTaskSearch
from search_space.genotype import Genotype, random_genotype, save_genotype
from search_space.memory.plan import TaskSize
from search_space.methods import network_of
from search_space.task_search import chunk_count
from torchmeta_loader import INPUT_SHAPES, content_digest, episode_loader, few_shot_tasks
from utils.data.full_task_data import DATASETS, load_full_task, stratified_halves
from utils.data.image_batches import image_batches
from utils.draws import derive_seed
from utils.errors import InputError
from utils.export import export_network
from utils.memory import PeakMemory
from utils.pictures.cells import cells_of, draw_genotype
from utils.pictures.event_log import EventLog
from utils.report.page import write_report
from utils.results.examples import EXAMPLES, example_of
from utils.results.intervals import mean_and_ci95
from utils.results.row_log import RowLog
from utils.results.schema import (
    DerivedEpochRow,
    ExampleRow,
    FewShotResults,
    FullTaskResults,
    SearchEpochRow,
    TaskRow,
    write_results,
)
from utils.run.cli import ArgumentParser, run
from utils.run.device import choose_device, device_name
from utils.run.files import file_digest, write_tensors
from utils.run.progress import progress_bar
from utils.run.ranks import join_ranks
from utils.run.run_directory import check_run, open_run
from utils.run.torchrun import is_restarted, refuse_processes, remember_run

METERED_TASKS = 5  # the first tasks are measured: the meter slows them down, and the others are timed
# What may differ between a run and its continuation.
MAY_CHANGE = ("path", "meta_cell", "name", "data_path", "download", "eval_epochs", "workers", "export")


def parse_args():
    parser = ArgumentParser(prog="onnas.py", description=__doc__.splitlines()[0])
    datasets = {"fewshot": tuple(INPUT_SHAPES), "full": DATASETS}
    add_onnas_flags(parser, datasets)
    args = parser.parse_args()
    check_flags(parser, args, datasets)
    return args


def may_change(args):
    """What may differ between a run and its continuation.

    Old runs recorded what was asked for of the flags that are settled, and 3 nodes whatever the genotype's; that counts
    by its content.
    """
    return (*MAY_CHANGE, *settled_flags(args), *(("genotype", "nodes") if args.genotype else ()))


def search_few_shot_tasks(args, device):
    ranks = join_ranks(device)
    meta_cell = load_meta_cell(args.meta_cell)
    check_agreement(args, meta_cell, INPUT_SHAPES[args.dataset][0])
    network = network_of(args.search, meta_cell.settings)
    size = TaskSize(args.n, args.k, args.q, INPUT_SHAPES[args.dataset])
    shared = evaluation_settings(args, args.batch_size, **first_settings(args))
    settings, prediction = choose_settings(args, network, size, shared)
    if prediction is not None:
        print(prediction.as_text(settings))
    if args.dry_run:
        return
    say_if_lowered(args.split_num or 1, size, settings)
    args.split_num, args.schedule = settings.split_num, settings.schedule
    tasks = few_shot_tasks(
        args.dataset,
        "test",
        ways=args.n,
        shots=args.k,
        queries=args.q,
        seed=args.seed,
        data_path=args.data_path,
        use_vinyals_split=bool(args.use_vinyals_split),
        download=args.download,
    )
    supernet, architecture = build_supernet(network, args.n, args.seed, device)

    for note in tasks.notes:
        print(note)

    def open_or_resume():
        """The plain values of the flags, and the rows of the tasks that are done."""
        flags = {
            **vars(args),
            # What counts is the content, not the place: a run is not to go on with others.
            "data_path (SHA-256)": content_digest(tasks),
            "meta_cell (SHA-256)": file_digest(args.meta_cell),
            "resume": args.resume or is_restarted(args.path),
        }
        values = check_run(args.path, flags, "onnas.py", files_of_runs("tasks.jsonl"), may_change(args))
        make_export_folder(args.export)
        remember_run(args.path)
        open_run(args.path, values)
        return values, RowLog(args.path / "tasks.jsonl", TaskRow)

    values, log = ranks.from_first(open_or_resume)
    rows = log.rows
    left = range(len(rows), args.eval_epochs)
    batches = iter(episode_loader(tasks, ranks.share(left), workers=args.workers))
    if ranks.is_first:
        examples = RowLog(args.path / "examples.jsonl", ExampleRow, before=len(rows))
        board = Board(args.path / "tb", network, len(rows))

    def search(task):
        """Its result, and what there is to show of it."""
        batch, measure, record = next(batches), task < METERED_TASKS, record_of(task)
        result = search_task(meta_cell, supernet, architecture, settings, batch, args.seed, task, measure, record)
        example = example_of(batch, result.predictions, tasks.class_names(task)) if task < EXAMPLES else None
        return result, record, example

    name = args.name or args.search
    with progress_bar(None, name, "task", len(rows), args.eval_epochs, ranks.is_first) as progress:
        for place in range(0, len(left), ranks.size):
            for result, record, example in ranks.gather(search, left[place : place + ranks.size]):
                row = TaskRow(**asdict(result))
                if not ranks.is_first:
                    rows.append(row)
                else:
                    board.add_task(row, record)
                    if example is not None:
                        examples.append(ExampleRow(**example))
                    log.append(row)
                progress.update()
            progress.set_postfix(accuracy=f"{fmean(row.accuracy for row in rows):.4f}", refresh=False)
    ranks.leave()
    if not ranks.is_first:
        return

    accuracy, ci95 = mean_and_ci95([row.accuracy for row in rows])
    measured = rows[:METERED_TASKS]
    timed = rows[METERED_TASKS:] or rows
    heaviest = max(measured, key=lambda row: row.peak_memory_mib)
    genotypes = Counter(json.dumps(row.genotype) for row in rows)
    write_results(
        args.path / "results.json",
        FewShotResults(
            dataset=args.dataset,
            data=asdict(tasks.size),
            device=device_name(device),
            network=network.as_dict(),
            search=args.search,
            ways=args.n,
            shots=args.k,
            queries=args.q,
            tasks=len(rows),
            accuracy=accuracy,
            accuracy_ci95=ci95,
            accuracy_before=fmean(row.accuracy_before for row in rows),
            seconds_per_task=fmean(row.seconds for row in timed),
            seconds_per_step=median(row.seconds_per_step for row in timed),
            peak_memory_mib=heaviest.peak_memory_mib,
            peak_memory_breakdown_mib=heaviest.peak_memory_breakdown_mib,
            peak_memory_test_mib=max(row.peak_memory_test_mib for row in measured),
            **network_figures(supernet, architecture, meta_cell),
            genotype=json.loads(genotypes.most_common(1)[0][0]),  # the one most often found
            settings=values,
        ),
    )
    write_report(args.path)
    if args.export is not None:
        export_last_task(args, tasks, meta_cell, supernet, architecture, settings, len(rows) - 1)
    interval = "" if ci95 is None else f" +- {ci95:.4f}"
    print(f"accuracy {accuracy:.4f}{interval} over {len(rows)} tasks; {args.path / 'results.json'}")


def export_last_task(args, tasks, meta_cell, supernet, architecture, settings, task):
    """Adapts to the last task once more, and exports the relaxed network with the support set's BN statistics."""
    (batch,) = episode_loader(tasks, range(task, task + 1))
    images, labels = (tensor[0].to(supernet.head.weight.device) for tensor in batch["support"])
    search = start_task(meta_cell, supernet, architecture, settings, args.seed, task)
    search.adapt(images, labels)
    mixtures = search.mixtures()
    search.average_batch_statistics(images, mixtures)
    channels = supernet.settings.in_channels
    files = export_network(
        with_textbook_norm(PrunedNetwork(supernet, mixtures)),
        INPUT_SHAPES[args.dataset],
        args.export,
        classes=tasks.class_names(task),
        mean=[0.0] * channels,  # few-shot images are in [0, 1]
        std=[1.0] * channels,
        extra={"dataset": args.dataset, "task": task, "seed": args.seed},
    )
    print(f"task {task}'s network: {' and '.join(map(str, files))}")


def say_if_lowered(asked, size, settings):
    """No micro-batch may hold a single image."""
    number = min(chunk_count(images, asked) for images in size.batch_sizes(settings))
    if number < asked:
        print(f"--split_num {asked} would leave single images: the smallest batch is split in {number}.")


# --- Full task ------------------------------------------------------------------------------------------------------


def search_full_task(args, device):
    data = load_full_task(
        args.dataset, args.data_path, seed=args.seed, input_size=args.input_size, download=args.download
    )
    for note in data.notes:
        print(note)
    ways = len(data.classes)
    halves = stratified_halves(data.train.labels, args.seed)
    meta_cell, network = full_task_network(args, data)
    if network.partial_channels not in (1, 4):
        print(f"--partial_channels {network.partial_channels}: the candidates see that part of the channels.")
    genotype = None if args.genotype is None else Genotype.load(args.genotype)
    if genotype is not None and args.nodes not in (None, genotype.nodes):
        raise InputError(f"{args.genotype} has --nodes {genotype.nodes}, not {args.nodes}: leave the flag out.")
    if genotype is not None:
        network = replace(network, nodes=genotype.nodes)  # which is what the derived network has
    # Before hours of search: whether whatever network it finds can be built and trained, too.
    any_genotype = random_genotype(network.primitives, network.nodes, torch.Generator())
    expected = derived_settings(args, network, genotype or any_genotype)
    if args.inherit_weights:
        with torch.device("meta"):
            DerivedNetwork(expected, ways).inherit(Supernet(network, ways))
    size = task_size(args, data, halves)
    if args.memory_budget is not None or args.dry_run:
        print("Working out the memory of searching and training, a minute or two ...", flush=True)
    settings, said = plan_full_task(args, data, network, genotype, expected, size)
    for line in said:
        print(line)
    if args.dry_run:
        return
    if genotype is None:
        say_if_lowered(args.split_num or 1, size, settings)

    # What counts is the content, not the place; None where there is none, so that none is added either.
    flags = {
        **vars(args),
        **{flag: value for flag, value in network.as_dict().items() if flag in vars(args)},
        "split_num": settings.split_num,
        "schedule": settings.schedule,
        "data_path (SHA-256)": data_digest(data),
        "meta_cell (SHA-256)": args.meta_cell and file_digest(args.meta_cell),
        "genotype (SHA-256)": args.genotype and file_digest(args.genotype),
    }
    log = "search.jsonl" if genotype is None else "derived.jsonl"  # the first that a run writes
    values = check_run(args.path, flags, "onnas.py", files_of_runs(log), may_change(args))
    make_export_folder(args.export)
    open_run(args.path, values)

    size_of_data = {"classes": ways, "train_images": len(data.train), "test_images": len(data.test)}
    results = {"dataset": args.dataset, "data": size_of_data, "device": device_name(device)}
    results |= {"network": network.as_dict(), "classes": list(data.classes)}
    searched = None
    if genotype is None:
        searched, genotype, figures = run_search(args, device, data, halves, meta_cell, network, settings, size)
        results |= {"search": args.search, **figures}
    save_genotype(genotype, args.path / "genotype.json")
    save_genotype(genotype, args.path / "genotype.txt")
    draw_genotype(cells_of(genotype.as_dict()), args.path / "genotype.png")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.seed, "derived initial weights"))
        derived = DerivedNetwork(derived_settings(args, network, genotype), ways).to(device)
    if args.inherit_weights:
        derived.inherit(searched)
    del searched  # its memory is for the training
    results |= train_derived(args, device, data, derived)
    write_results(args.path / "results.json", FullTaskResults(**results, genotype=genotype.as_dict(), settings=values))
    write_report(args.path)
    if args.export is not None:
        files = export_network(
            with_textbook_norm(derived),
            data.shape,
            args.export,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            extra={"dataset": args.dataset, "accuracy": results["derived_accuracy"], "genotype": genotype.as_dict()},
        )
        print(f"derived network: {' and '.join(map(str, files))}")
    print(f"derived network: test accuracy {results['derived_accuracy']:.4f}; {args.path / 'results.json'}")


def run_search(args, device, data, halves, meta_cell, network, settings, size):
    """Searches, epoch by epoch; returns the searched supernet of the best epoch, its genotype, and the figures."""
    supernet, architecture = build_supernet(network, size.ways, args.seed, device)
    if meta_cell is not None:
        meta_cell.unfold(supernet, architecture)
    search = FullTaskSearch(supernet, architecture, settings, args.seed)
    checkpoint, searched = args.path / "checkpoint.pt", args.path / "searched.pt"
    first = resumed_epochs(checkpoint, search, args.epochs)
    log = epoch_log(args.path / "search.jsonl", SearchEpochRow, first)
    rows = log.rows

    def half(name, indices, epoch):
        order = (args.seed, name, epoch)
        return image_batches(
            data.train, indices, args.batch_size, epoch_order=order, augment=True, workers=args.workers
        )

    steps = min(len(half("weights", indices, 0)) for indices in halves)
    board = FullTaskBoard(args.path / "tb" / "search", search, first, steps)
    with progress_bar(None, args.name or args.search, "step", first * steps, args.epochs * steps) as progress:
        for epoch in range(first, args.epochs):
            started = time.perf_counter()
            search.search.step_seconds.clear()
            result = search.train_epoch(
                epoch,
                half("weights", halves[0], epoch),
                half("architecture", halves[1], epoch),
                steps,
                on_step=lambda step: progress.update(),
            )
            seconds, of_step = time.perf_counter() - started, median(search.search.step_seconds)
            row = SearchEpochRow(epoch=epoch, **asdict(result), seconds=seconds, seconds_per_step=of_step)
            board.add_epoch(row)
            log.append(row)
            if search.best is not None and search.best.epoch == epoch:
                states = {"supernet": supernet.state_dict(), "architecture": architecture.state_dict()}
                write_tensors(searched, {"epoch": epoch, **states})
            write_tensors(checkpoint, {"epoch": epoch + 1, "state": search.state_dict()})
            shown = {"accuracy": result.accuracy, "validation": result.validation_accuracy}
            shown = {name: f"{value:.3f}" for name, value in shown.items() if value is not None}
            progress.set_postfix(epoch=epoch + 1, **shown, refresh=False)

    for optimizer in search.optimizers:
        optimizer.state.clear()  # its memory is for testing
    load_searched(searched, search.best.epoch, supernet, architecture)
    test = image_batches(data.test, range(len(data.test)), size.test_batch(settings), workers=args.workers)
    with PeakMemory(device, search.search.resident()) as testing:
        search.accuracy(islice(test, 1))
    heaviest = max(rows, key=lambda row: row.peak_memory_mib)
    searching = [row for row in rows if row.validation_accuracy is not None]
    figures = {
        "accuracy": search.accuracy(test),
        "search_epochs": args.epochs,
        "best_epoch": search.best.epoch,
        "validation_accuracy": search.best.accuracy,
        "search_seconds": sum(row.seconds for row in rows),
        "seconds_per_step": median(row.seconds_per_step for row in searching),
        "peak_memory_mib": heaviest.peak_memory_mib,
        "peak_memory_breakdown_mib": heaviest.peak_memory_breakdown_mib,
        "peak_memory_test_mib": testing.mib,
        **network_figures(supernet, architecture, meta_cell),
    }
    return supernet, search.best.genotype, figures


def train_derived(args, device, data, derived):
    """Trains a derived network on the whole training set and tests it; returns the figures."""
    training, _ = derived_training_settings(args, derived.settings, data)
    trainer = DerivedTraining(derived, training, args.seed)
    checkpoint = args.path / "derived_checkpoint.pt"
    first = resumed_epochs(checkpoint, trainer, args.derived_epochs)
    log = epoch_log(args.path / "derived.jsonl", DerivedEpochRow, first)
    events = EventLog(args.path / "tb" / "derived", first)
    rows = log.rows

    def epoch_batches(epoch):
        return image_batches(
            data.train,
            range(len(data.train)),
            args.batch_size,
            epoch_order=(args.seed, "derived", epoch),
            augment=True,
            cutout=args.cutout,
            workers=args.workers,
        )

    steps = len(epoch_batches(0))
    name = f"{args.name or args.search}, derived"
    with progress_bar(None, name, "step", first * steps, args.derived_epochs * steps) as progress:
        for epoch in range(first, args.derived_epochs):
            result = trainer.train_epoch(epoch, epoch_batches(epoch), on_step=progress.update)
            row = DerivedEpochRow(epoch=epoch, **asdict(result))
            events.add_row(row, {"lr": training.lr_at(epoch)})
            log.append(row)
            write_tensors(checkpoint, {"epoch": epoch + 1, "state": trainer.state_dict()})
            progress.set_postfix(epoch=epoch + 1, accuracy=f"{result.accuracy:.3f}", refresh=False)

    trainer.optimizer.state.clear()  # its memory is for testing
    chunk = -(-args.batch_size // chunk_count(args.batch_size, training.split_num))
    test = image_batches(data.test, range(len(data.test)), chunk, workers=args.workers)
    peaks = {}
    for use, batch in (("test", next(iter(test))), ("inference", next(iter(image_batches(data.test, [0], 1))))):
        with PeakMemory(device, [*derived.parameters(), *derived.buffers()], batch) as memory:
            trainer.accuracy([batch])
        peaks[use] = memory.mib
    heaviest = max(rows, key=lambda row: row.peak_memory_mib, default=None)
    figures = {
        "derived_accuracy": trainer.accuracy(test),
        "derived_parameters": derived.parameter_count,
        "derived_macs": count_macs(derived, data.shape),
        "derived_epochs": args.derived_epochs,
        "derived_seconds": sum(row.seconds for row in rows),
        "derived_split_num": training.split_num,
        "derived_step_by_step": training.step_by_step,
        "derived_peak_memory_mib": heaviest and heaviest.peak_memory_mib,
        "derived_peak_memory_breakdown_mib": heaviest and heaviest.peak_memory_breakdown_mib,
        "derived_peak_memory_test_mib": peaks["test"],
        "derived_peak_memory_inference_mib": peaks["inference"],
    }
    return {name: value for name, value in figures.items() if value is not None}


def main():
    args = parse_args()
    device = choose_device(args.device, tf32=bool(args.tf32))
    if args.task == "full":
        refuse_processes("--task full")
        search_full_task(args, device)
    else:
        search_few_shot_tasks(args, device)


if __name__ == "__main__":
    run(
        main,
        "onnas.py",
        "--resume goes on after the last whole task or epoch.",
        less_memory=lambda: less_memory(vars(parse_args())),
    )
