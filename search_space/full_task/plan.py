"""What a full task is run with, decided before its search: networks, settings, memory; and where a run goes on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from models.derived_network import DerivedSettings
from models.meta_cell import MetaCell
from models.supernet import SupernetSettings
from search_space.build import load_meta_cell
from search_space.flags.onnas import check_agreement, choose_settings, first_settings
from search_space.flags.shared import normalizer
from search_space.full_task.derived_plan import (
    fit_training,
    heaviest_genotype,
    predict_inference_mib,
    predict_training_mib,
)
from search_space.full_task.derived_training import TrainingSettings
from search_space.genotype import Genotype
from search_space.memory.plan import FullTaskSize
from search_space.methods import network_of
from search_space.primitives import FULL_TASK
from search_space.task_search import SearchSettings, batches
from utils.data.full_task_data import FullTask
from utils.errors import BudgetError, InputError
from utils.results.row_log import RowLog
from utils.run.files import read_tensors


def search_settings(args) -> SearchSettings:
    """What all methods share, before memory is planned."""
    return SearchSettings(
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


def training_settings(args) -> TrainingSettings:
    """How the derived network is trained, before memory is planned."""
    return TrainingSettings(
        args.derived_epochs,
        lr=args.derived_lr,
        drop_path_prob=args.drop_path_prob,
        split_num=args.split_num or 1,
        step_by_step=bool(args.step_by_step),
    )


def task_size(args, data: FullTask, halves: tuple[list[int], list[int]]) -> FullTaskSize:
    # The two differ by an image at most, and the smaller may have the larger batch.
    half = max(map(len, halves), key=lambda images: largest_batch(images, args.batch_size))
    return FullTaskSize(len(data.classes), half, data.shape)


def plan_full_task(
    args,
    data: FullTask,
    network: SupernetSettings,
    genotype: Genotype | None,
    expected: DerivedSettings,
    size: FullTaskSize,
) -> tuple[SearchSettings, list[str]]:
    """The search's settings; and with a budget or in a dry run what search and training will take, in words.

    Args:
        genotype: None where it is still to be found. expected: the settings of a derived network of its size.

    Raises:
        BudgetError: too little for one of the two; it names the budget that would do for both.
    """
    shared, training = search_settings(args), training_settings(args)
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
            way, mib = derived_training_settings(args, expected, data)
            testing = predict_inference_mib(expected, size.ways, data.shape)
            how = "a cell at a time" if way.step_by_step else "all cells at once"
            said.append(
                f"derived network, {how}, --split_num {way.split_num}: predicted peak of live tensors "
                f"{'' if genotype else 'at most '}{mib:.1f} MiB training, {testing:.1f} MiB classifying an image"
            )
        except BudgetError as refusal:
            refusals.append(refusal)
    if refusals:
        raise max(refusals, key=lambda refusal: refusal.least_mib)
    return settings, said


def data_digest(data: FullTask) -> str:
    """The SHA-256 of what tells one set of images from another: classes, sizes, labels and the pixels' statistics."""
    told = [data.classes, data.shape, data.mean, data.std, data.train.labels, data.test.labels]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def full_task_network(args, data: FullTask) -> tuple[MetaCell | None, SupernetSettings]:
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


def derived_settings(args, network: SupernetSettings, genotype: Genotype) -> DerivedSettings:
    """Of the searched network's size, but for the flags; another number of cells has reductions at its thirds."""
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


def derived_training_settings(args, derived: DerivedSettings, data: FullTask) -> tuple[TrainingSettings, float | None]:
    """How to train a derived network, within the memory budget if there is one, and its predicted peak in MiB."""
    training = training_settings(args)
    task = (len(data.classes), data.shape, largest_batch(len(data.train), args.batch_size))
    if args.memory_budget is not None:
        return fit_training(derived, *task, training, args.memory_budget, args.split_num)
    if not args.dry_run:
        return training, None
    return training, predict_training_mib(derived, *task, training)


def largest_batch(images: int, batch_size: int) -> int:
    """Images of the largest batch; a single one that is left joins its neighbour."""
    return max(map(len, batches(torch.arange(images), batch_size)))


def resumed_epochs(checkpoint: Path, trained, epochs: int) -> int:
    """Loads a checkpoint, if there is one, into what it is of; returns how many epochs are done.

    Raises:
        InputError: the checkpoint is damaged or of something else.
    """
    if not checkpoint.exists():
        return 0
    saved = read_tensors(checkpoint)
    _load(checkpoint, lambda: trained.load_state_dict(saved["state"]))
    done = saved.get("epoch")
    if not isinstance(done, int) or not 0 <= done <= epochs:
        raise InputError(f"{checkpoint} does not say how far the run got: name another folder.")
    return done


def epoch_log(path: Path, kind: type, epochs: int) -> RowLog:
    """The log, of rows of a kind, of a run whose checkpoint has done so many epochs.

    Raises:
        InputError: it lacks one of them.
    """
    log = RowLog(path, kind, before=epochs)
    if len(log.rows) < epochs:
        raise InputError(f"{path} lacks epoch {len(log.rows)}, which its checkpoint has: name another folder.")
    return log


def load_searched(path: Path, epoch: int, supernet: nn.Module, architecture: nn.Module) -> None:
    """Loads what the best epoch, number ``epoch``, left.

    Raises:
        InputError: the file is damaged, or of something else.
    """
    saved = read_tensors(path)

    def load():
        if saved["epoch"] != epoch:
            raise ValueError
        supernet.load_state_dict(saved["supernet"])
        architecture.load_state_dict(saved["architecture"])

    _load(path, load)


def _load(path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    # What PyTorch raises on another network's state, and what a missing or nonsensical value leads to.
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is of another run than args.json beside it: name another folder.") from error
