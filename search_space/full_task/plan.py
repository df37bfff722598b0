"""What a full task is run with, decided before hours of search: networks, settings and memory."""

import hashlib
import json
from dataclasses import dataclass, replace

import torch

from models.derived_network import DerivedNetwork, DerivedSettings
from models.meta_cell import MetaCell
from models.supernet import Supernet, SupernetSettings
from search_space.agreement import searched_network
from search_space.flags.onnas import OnnasFlags
from search_space.full_task.derived_training import TrainingSettings
from search_space.genotype import Genotype, random_genotype
from search_space.memory.derived import Trained, heaviest, predict_inference_mib
from search_space.memory.fit import plan_search, plan_training
from search_space.memory.size import Size, batch_sizes
from search_space.settings import SearchSettings
from utils.data.full_task_data import FullTask
from utils.errors import BudgetError, InputError


@dataclass(frozen=True)
class FullTaskPlan:
    """What a full task is run with.

    network: the supernet to be searched. genotype: that of the derived network, None where it is to be found.
    settings: of the search, within the memory budget. size: what the search holds in memory.
    said: what was planned, in sentences for the user.
    """

    meta_cell: MetaCell | None
    network: SupernetSettings
    genotype: Genotype | None
    settings: SearchSettings
    size: Size
    said: tuple[str, ...]


def plan_full_task(flags: OnnasFlags, data: FullTask, halves: tuple[list[int], list[int]]) -> FullTaskPlan:
    """Decides what is run, and whether whatever network a search finds can be built and trained, too.

    Raises:
        BudgetError: too little memory for the search or for the training; it names the budget that would do for both.
        InputError: flags, meta-cell, genotype and images do not go together.
    """
    meta_cell, network = searched_network(flags, data.shape[0])
    if flags.derived.cutout > min(data.shape[1:]):
        raise InputError(
            f"--cutout must be at most {min(data.shape[1:])}, the images' side, got {flags.derived.cutout}."
        )
    genotype = None
    if flags.full_task.genotype is not None:
        genotype = Genotype.load(flags.full_task.genotype)
        if flags.network.nodes not in (None, genotype.nodes):
            raise InputError(
                f"{flags.full_task.genotype} has --nodes {genotype.nodes}, not {flags.network.nodes}: "
                "leave the flag out."
            )
        network = replace(network, nodes=genotype.nodes)  # which is what the derived network has
    any_genotype = random_genotype(network.primitives, network.nodes, torch.Generator())
    expected = derived_settings(flags, network, genotype or any_genotype)
    if flags.derived.inherit_weights:
        with torch.device("meta"):
            DerivedNetwork(expected, len(data.classes)).inherit(Supernet(network, len(data.classes)))
    batch_size = flags.search.batch_size
    # The two halves differ by an image at most, and the smaller may have the larger batch.
    half = max(map(len, halves), key=lambda images: max(batch_sizes(images, batch_size)))
    size = Size(len(data.classes), half, None, data.shape)
    settings, said = _within_memory(flags, data, network, genotype, expected, size)
    return FullTaskPlan(meta_cell, network, genotype, settings, size, tuple(said))


def _within_memory(
    flags: OnnasFlags,
    data: FullTask,
    network: SupernetSettings,
    genotype: Genotype | None,
    expected: DerivedSettings,
    size: Size,
) -> tuple[SearchSettings, list[str]]:
    """The search's settings; and, where memory is planned, what search and training will take, in words."""
    settings, said, refusals = flags.search_settings(), [], []
    if genotype is None:
        try:
            settings, prediction = plan_search(settings, flags.memory, network, size)
            said += [] if prediction is None else [prediction.as_text(settings)]
        except BudgetError as refusal:
            refusals.append(refusal)
    if flags.memory.is_planned:
        trained = _trained(flags, expected, data)
        if genotype is None:
            trained = heaviest(trained, network.primitives, training_settings(flags))
        try:
            way, mib = plan_training(training_settings(flags), flags.memory, trained)
            how = "a cell at a time" if way.schedule.step_by_step else "all cells at once"
            said.append(
                f"derived network, {how}, --split_num {way.schedule.split_num}: predicted peak of live tensors "
                f"{'' if genotype else 'at most '}{mib:.1f} MiB training, {predict_inference_mib(trained):.1f} MiB "
                "classifying an image"
            )
        except BudgetError as refusal:
            refusals.append(refusal)
    if refusals:
        raise max(refusals, key=lambda refusal: refusal.least_mib)
    return settings, said


def derived_settings(flags: OnnasFlags, network: SupernetSettings, genotype: Genotype) -> DerivedSettings:
    """Of the searched network's size, but for the flags; another number of cells has reductions at its thirds."""
    layers = flags.derived.derived_layers or network.layers
    thirds = tuple(sorted({layers // 3, 2 * layers // 3}))
    return DerivedSettings(
        in_channels=network.in_channels,
        channels=flags.derived.derived_channels or network.init_channels,
        layers=layers,
        reduction_layers=network.reduction_layers if layers == network.layers else thirds,
        normal=genotype.normal,
        reduce=genotype.reduce,
        auxiliary=bool(flags.derived.auxiliary),
    )


def training_settings(flags: OnnasFlags) -> TrainingSettings:
    """How the derived network is trained, where memory does not matter."""
    return TrainingSettings(
        flags.derived.derived_epochs,
        lr=flags.derived.derived_lr,
        drop_path_prob=flags.derived.drop_path_prob,
        schedule=flags.memory.preferred,
    )


def planned_training(flags: OnnasFlags, derived: DerivedSettings, data: FullTask) -> TrainingSettings:
    """How to train the network that was found, within the memory budget if there is one."""
    training, _ = plan_training(training_settings(flags), flags.memory, _trained(flags, derived, data))
    return training


def _trained(flags: OnnasFlags, derived: DerivedSettings, data: FullTask) -> Trained:
    batch = max(batch_sizes(len(data.train), flags.search.batch_size))
    return Trained(derived, len(data.classes), data.shape, batch)


def data_digest(data: FullTask) -> str:
    """The SHA-256 of what tells one set of images from another: classes, sizes, labels and the pixels' statistics."""
    told = [data.classes, data.shape, data.mean, data.std, data.train.labels, data.test.labels]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
