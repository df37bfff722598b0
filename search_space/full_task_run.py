"""One full task from its images to a trained network: the search, and what is derived from it."""

import hashlib
import json
from dataclasses import asdict
from statistics import median

import torch

from models.derived_network import DerivedNetwork, DerivedSettings
from models.supernet import Supernet, SupernetSettings
from models.textbook_norm import with_textbook_norm
from search_space.build import build_supernet, load_meta_cell
from search_space.derived_plan import count_macs, fit_training, heaviest_genotype, predict_training_mib
from search_space.derived_training import DerivedTraining, TrainingSettings
from search_space.evaluation import network_figures
from search_space.flags import normalizer
from search_space.full_task import FullTaskSearch
from search_space.genotype import Genotype, random_genotype, save_genotype
from search_space.memory_plan import FullTaskSize
from search_space.methods import network_of
from search_space.onnas_flags import (
    check_agreement,
    choose_settings,
    files_of_runs,
    first_settings,
    make_export_folder,
)
from search_space.primitives import FULL_TASK
from search_space.task_search import SearchSettings, batches, chunk_count
from utils.cell_picture import draw_genotype
from utils.draws import derive_seed
from utils.errors import BudgetError, InputError
from utils.export import export_network
from utils.files import file_digest, read_tensors, write_json, write_tensors
from utils.full_task_data import image_batches, load_full_task, stratified_halves
from utils.memory import PeakMemory
from utils.progress import progress_bar
from utils.run_directory import JsonLines, check_run, open_run

# What may differ between a run and its continuation.
MAY_CHANGE = ("path", "meta_cell", "genotype", "name", "data_path", "download", "workers", "export")


def search_full_task(args, device):
    data = load_full_task(
        args.dataset, args.data_path, seed=args.seed, input_size=args.input_size, download=args.download
    )
    for note in data.notes:
        print(note)
    halves = stratified_halves(data.train.labels, args.seed)
    meta_cell, network = full_task_network(args, data)
    ways = len(data.classes)
    # The two differ by an image at most, and the smaller may have the larger batch.
    half = max(map(len, halves), key=lambda images: largest_batch(images, args.batch_size))
    size = FullTaskSize(ways, half, data.shape)
    shared = SearchSettings(
        epochs=args.epochs,
        architecture_epochs=args.epochs - args.warm_up_epochs,
        batch_size=args.batch_size,
        w_lr=args.w_lr,
        alpha_lr=args.alpha_lr,
        normalizer=normalizer(args),
        prune_threshold=args.alpha_prune_threshold,
        transductive=False,
        **first_settings(args),
    )
    training = TrainingSettings(
        args.derived_epochs,
        lr=args.derived_lr,
        drop_path_prob=args.drop_path_prob,
        split_num=args.split_num or 1,
        step_by_step=bool(args.step_by_step),
    )
    genotype = None if args.genotype is None else Genotype.load(args.genotype)
    if genotype is not None and args.nodes not in (None, genotype.nodes):
        raise InputError(f"{args.genotype} has --nodes {genotype.nodes}, not {args.nodes}: leave the flag out.")
    # Before hours of search: whether whatever network it finds can be built and trained, too.
    expected = derived_settings(
        args, network, genotype or random_genotype(network.primitives, network.nodes, torch.Generator())
    )
    if args.inherit_weights:
        with torch.device("meta"):
            DerivedNetwork(expected, ways).inherit(Supernet(network, ways))
    settings = plan_full_task(args, data, network, genotype, expected, size, shared, training)
    if args.dry_run:
        return
    args.split_num, args.schedule = settings.split_num, settings.schedule

    # What counts is the content, not the place; None where there is none, so that none is added either.
    digests = {
        "data_path (SHA-256)": data_digest(data),
        "meta_cell (SHA-256)": args.meta_cell and file_digest(args.meta_cell),
        "genotype (SHA-256)": args.genotype and file_digest(args.genotype),
    }
    log = "search.jsonl" if genotype is None else "derived.jsonl"  # the first that a run writes
    values = check_run(args.path, {**vars(args), **digests}, "onnas.py", files_of_runs(log), MAY_CHANGE)
    make_export_folder(args.export)
    open_run(args.path, values)
    results = {"task": "full", "dataset": args.dataset, "classes": list(data.classes)}
    searched = None
    if genotype is None:
        results["search"] = args.search
        searched, genotype, figures = run_search(args, device, data, halves, meta_cell, network, settings)
        results |= figures
    save_genotype(genotype, args.path / "genotype.json")
    save_genotype(genotype, args.path / "genotype.txt")
    draw_genotype({"normal": genotype.normal, "reduction": genotype.reduce}, args.path / "genotype.png")

    derived, figures = train_derived(args, device, data, network, genotype, training, searched)
    results |= {**figures, "genotype": genotype.as_dict(), "settings": values}
    write_json(args.path / "results.json", results)
    if args.export is not None:
        files = export_network(
            with_textbook_norm(derived).eval().cpu(),
            data.shape,
            args.export,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            extra={"dataset": args.dataset, "accuracy": results["derived_accuracy"], "genotype": genotype.as_dict()},
        )
        print(f"derived network: {' and '.join(map(str, files))}")
    print(f"derived network: test accuracy {results['derived_accuracy']:.4f}; {args.path / 'results.json'}")


def plan_full_task(args, data, network, genotype, expected, size, shared, training):
    """The search's settings; with a budget or in a dry run it prints what search and training will take.

    Args:
        genotype: None where it is still to be found. expected: the settings of a derived network of its size.

    Raises:
        BudgetError: too little for one of the two; it names the budget that would do for both.
    """
    settings, said, refusals = shared, [], []
    if genotype is None:
        try:
            settings, prediction = choose_settings(args, network, size, shared)
            said += [] if prediction is None else [prediction.as_text(settings)]
        except BudgetError as refusal:
            refusals.append(refusal)
    if args.memory_budget is not None or args.dry_run:
        if genotype is None:
            batch = largest_batch(len(data.train), args.batch_size)
            expected = heaviest_genotype(expected, network.primitives, size.ways, data.shape, batch, training)
        try:
            _, mib = derived_training_settings(args, expected, data, training)
            at_most = "" if genotype else "at most "
            said.append(f"derived network: predicted peak of live tensors {at_most}{mib:.1f} MiB training")
        except BudgetError as refusal:
            refusals.append(refusal)
    if refusals:
        raise max(refusals, key=lambda refusal: refusal.least_mib)
    for line in said:
        print(line)
    return settings


def data_digest(data):
    """The SHA-256 of what tells one set of images from another: classes, sizes, labels and the pixels' statistics."""
    told = [data.classes, data.shape, data.mean, data.std, data.train.labels, data.test.labels]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def full_task_network(args, data):
    """The meta-cell, if there is one, and the settings of the supernet to search."""
    if args.meta_cell is not None:
        meta_cell = load_meta_cell(args.meta_cell)
        check_agreement(args, meta_cell, data.shape[0])
        return meta_cell, network_of(args.search, meta_cell.settings)
    layers, channels, reductions = args.layers or 4, args.init_channels or 28, args.reduction_layers
    partial = 1
    if args.search == "pcdarts":  # the published 4, where that leaves the candidates an even number
        partial = args.partial_channels or (4 if channels % 8 == 0 else 2)
    network = SupernetSettings(
        in_channels=data.shape[0],
        init_channels=channels,
        layers=layers,
        nodes=args.nodes or 3,
        reduction_layers=tuple(layer for layer in (1, 3) if layer < layers)
        if reductions is None
        else tuple(reductions),
        primitives=FULL_TASK,
        partial_channels=partial,
    )
    return None, network_of(args.search, network)


def run_search(args, device, data, halves, meta_cell, network, settings):
    """Searches, epoch by epoch; returns the searched supernet of the best epoch, its genotype, and the figures."""
    supernet, architecture = build_supernet(network, len(data.classes), args.seed, device)
    if meta_cell is not None:
        meta_cell.unfold(supernet, architecture)
    search = FullTaskSearch(supernet, architecture, settings, args.seed)
    checkpoint, searched = args.path / "checkpoint.pt", args.path / "searched.pt"
    first = resumed_epochs(checkpoint, search, args.epochs)
    log = epoch_log(args.path / "search.jsonl", first)
    rows = log.kept

    def half(name, indices, epoch):
        order = (args.seed, name, epoch)
        return image_batches(
            data.train, indices, args.batch_size, epoch_order=order, augment=True, workers=args.workers
        )

    steps = min(len(half("weights", indices, 0)) for indices in halves)
    with progress_bar(None, args.name or args.search, "step", first * steps, args.epochs * steps) as progress:
        for epoch in range(first, args.epochs):
            search.search.step_seconds.clear()
            result = search.train_epoch(
                epoch,
                half("weights", halves[0], epoch),
                half("architecture", halves[1], epoch),
                steps,
                on_step=lambda step: progress.update(),
            )
            seconds = search.search.step_seconds
            row = {"epoch": epoch, **asdict(result), "seconds": sum(seconds), "seconds_per_step": median(seconds)}
            rows.append(row)
            log.append(row)
            if search.best is not None and search.best.epoch == epoch:
                write_tensors(searched, {"supernet": supernet.state_dict(), "architecture": architecture.state_dict()})
            write_tensors(checkpoint, {"epoch": epoch + 1, "search": search.state_dict()})
            shown = {"accuracy": result.accuracy, "validation": result.validation_accuracy}
            shown = {name: f"{value:.3f}" for name, value in shown.items() if value is not None}
            progress.set_postfix(epoch=epoch + 1, **shown, refresh=False)

    load_searched(searched, supernet, architecture)
    # The temperature is the last epoch's also where the best was an earlier one.
    test = image_batches(data.test, range(len(data.test)), largest_chunk_of(settings), workers=args.workers)
    resident = search.search.resident()
    with PeakMemory(device, resident) as testing:
        search.accuracy([next(iter(test))])
    heaviest = max(rows, key=lambda row: row["peak_memory_mib"])
    searching = [row for row in rows if row.get("validation_accuracy") is not None]
    figures = {
        "accuracy": search.accuracy(test),
        "search_epochs": args.epochs,
        "best_epoch": search.best.epoch,
        "validation_accuracy": search.best.accuracy,
        "search_seconds": sum(row["seconds"] for row in rows),
        "seconds_per_step": median(row["seconds_per_step"] for row in searching),
        "peak_memory_mib": heaviest["peak_memory_mib"],
        "peak_memory_breakdown_mib": heaviest["peak_memory_breakdown_mib"],
        "peak_memory_test_mib": testing.mib,
        **network_figures(supernet, meta_cell),
    }
    return supernet, search.best.genotype, figures


def largest_chunk_of(settings):
    """Images of the search's largest micro-batch: those that testing takes at a time."""
    return -(-settings.batch_size // chunk_count(settings.batch_size, settings.split_num, settings.smallest_chunk))


def derived_settings(args, network, genotype):
    layers = args.derived_layers or network.layers
    thirds = tuple(sorted({layers // 3, 2 * layers // 3}))
    return DerivedSettings(
        in_channels=network.in_channels,
        channels=args.derived_channels or network.init_channels,
        layers=layers,
        reduction_layers=network.reduction_layers if layers == network.layers else thirds,
        normal=genotype.normal,
        reduce=genotype.reduce,
        auxiliary=bool(args.auxiliary),
    )


def derived_training_settings(args, derived, data, training):
    """How to train a derived network, within the memory budget if there is one, and its predicted peak in MiB."""
    task = (len(data.classes), data.shape, largest_batch(len(data.train), args.batch_size))
    if args.memory_budget is not None:
        return fit_training(derived, *task, training, args.memory_budget)
    if not args.dry_run:
        return training, None
    return training, predict_training_mib(derived, *task, training)


def train_derived(args, device, data, network, genotype, training, searched):
    """Trains the genotype's network on the whole training set and tests it; returns it with the figures."""
    settings = derived_settings(args, network, genotype)
    training, _ = derived_training_settings(args, settings, data, training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.seed, "derived initial weights"))
        derived = DerivedNetwork(settings, len(data.classes)).to(device)
    if args.inherit_weights:
        derived.inherit(searched)
    trainer = DerivedTraining(derived, training, args.seed)
    checkpoint = args.path / "derived_checkpoint.pt"
    first = resumed_epochs(checkpoint, trainer, args.derived_epochs)
    log = epoch_log(args.path / "derived.jsonl", first)
    rows = log.kept
    everything = range(len(data.train))

    def epoch_batches(epoch):
        order = (args.seed, "derived", epoch)
        return image_batches(
            data.train,
            everything,
            args.batch_size,
            epoch_order=order,
            augment=True,
            cutout=args.cutout,
            workers=args.workers,
        )

    steps = len(epoch_batches(0))
    name = f"{args.name or args.search}, derived"
    with progress_bar(None, name, "step", first * steps, args.derived_epochs * steps) as progress:
        for epoch in range(first, args.derived_epochs):
            result = trainer.train_epoch(epoch, epoch_batches(epoch), on_step=progress.update)
            rows.append({"epoch": epoch, **asdict(result)})
            log.append(rows[-1])
            write_tensors(checkpoint, {"epoch": epoch + 1, "search": trainer.state_dict()})
            progress.set_postfix(epoch=epoch + 1, accuracy=f"{result.accuracy:.3f}", refresh=False)

    test = image_batches(data.test, range(len(data.test)), args.batch_size, workers=args.workers)
    image = next(iter(image_batches(data.test, [0], 1)))[0].to(device)
    derived.eval()
    with torch.no_grad(), PeakMemory(device, [*derived.parameters(), *derived.buffers()], [image]) as testing:
        derived(image)
    figures = {
        "derived_accuracy": trainer.accuracy(test),
        "derived_parameters": derived.parameter_count,
        "derived_macs": count_macs(derived, data.shape),
        "derived_epochs": args.derived_epochs,
        "derived_seconds": sum(row["seconds"] for row in rows),
        "derived_peak_memory_mib": max((row["peak_memory_mib"] for row in rows), default=None),
        "derived_peak_memory_test_mib": testing.mib,
    }
    return derived, {name: value for name, value in figures.items() if value is not None}


def largest_batch(images, batch_size):
    return max(map(len, batches(torch.arange(images), batch_size)))


def resumed_epochs(checkpoint, trained, epochs):
    """Loads a checkpoint, if there is one, into what it is of; returns how many epochs are done.

    Raises:
        InputError: the checkpoint is damaged or of something else.
    """
    if not checkpoint.exists():
        return 0
    saved = read_tensors(checkpoint)
    try:
        done = saved["epoch"]
        trained.load_state_dict(saved["search"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{checkpoint} is of another run than args.json beside it: name another folder.") from error
    if not isinstance(done, int) or not 0 <= done <= epochs:
        raise InputError(f"{checkpoint} does not say how far the run got: name another folder.")
    return done


def epoch_log(path, epochs):
    """The log of a run whose checkpoint has done so many epochs.

    Raises:
        InputError: it lacks one of them.
    """
    log = JsonLines(path, keep=lambda number, row: row.get("epoch") == number < epochs)
    if len(log.kept) < epochs:
        raise InputError(f"{path} lacks epoch {len(log.kept)}, which its checkpoint has: name another folder.")
    return log


def load_searched(path, supernet, architecture):
    """Loads what the best epoch left.

    Raises:
        InputError: the file is damaged or of something else.
    """
    saved = read_tensors(path)
    try:
        supernet.load_state_dict(saved["supernet"])
        architecture.load_state_dict(saved["architecture"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is of another run than args.json beside it: name another folder.") from error
