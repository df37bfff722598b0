"""What a meta-cell and the flags say together: which supernet is searched, and which images it takes."""

from pathlib import Path

from models.meta_cell import MetaCell
from models.supernet import SupernetSettings
from search_space.flags.onnas import OnnasFlags
from search_space.methods import METHODS, network_of
from search_space.primitives import FULL_TASK
from search_space.search_network import load_meta_cell
from search_space.settings import CENTROID, META, SearchSettings
from utils.errors import InputError


def searched_network(flags: OnnasFlags, channels: int | None) -> tuple[MetaCell | None, SupernetSettings]:
    """The meta-cell, if there is one, and the settings of the supernet that the method searches.

    Args:
        channels: of the images; None: they get the meta-cell's.

    Raises:
        InputError: the meta-cell is damaged, or does not fit the flags, the images or the method.
    """
    if flags.kind.meta_cell is None:
        return None, network_of(flags.search.search, network_from_scratch(flags, channels))
    meta_cell = load_meta_cell(flags.kind.meta_cell)
    _check_agreement(flags, meta_cell, channels)
    return meta_cell, network_of(flags.search.search, meta_cell.settings)


def head_start(asked: str | None, meta_cell: MetaCell) -> str:
    """Where a task's head starts: as asked for, or as suits the meta-cell. One only pre-trained has a head of zeros."""
    is_zero = not any(tensor.any() for tensor in meta_cell.head.values())
    return asked or (CENTROID if is_zero else META)


def head_note(meta_cell: MetaCell, path: Path, ways: int, settings: SearchSettings) -> str | None:
    """What to say where a meta-cell's head, read from ``path``, is of no use; None: it is of use, or not asked for."""
    if settings.head_init != META or meta_cell.ways == ways:
        return None
    return (
        f"{path} was trained for tasks of {meta_cell.ways} ways: the head of {ways} starts at zero "
        "(--head_init centroid: from the support set)."
    )


def network_from_scratch(flags: OnnasFlags, channels: int) -> SupernetSettings:
    """What the flags ask for; those that are left out are the published ones."""
    asked = flags.network
    layers, init_channels, reductions = asked.layers or 4, asked.init_channels or 28, asked.reduction_layers
    partial = 1
    if flags.search.search == "pcdarts":  # the published 4, where that leaves the candidates an even number
        partial = asked.partial_channels or (4 if init_channels % 8 == 0 else 2)
    return SupernetSettings(
        in_channels=channels,
        init_channels=init_channels,
        layers=layers,
        nodes=asked.nodes or 3,
        reduction_layers=tuple(layer for layer in (1, 3) if layer < layers)
        if reductions is None
        else tuple(reductions),
        primitives=FULL_TASK,
        partial_channels=partial,
    )


def image_side(meta_cell: MetaCell, input_size: int | None, path: Path) -> int:
    """The side in pixels that images of one's own get: that of --input_size, else that of the meta-cell's training.

    Raises:
        InputError: neither says one, or it is no size of an image. ``path`` is where the meta-cell was read.
    """
    if input_size is not None:
        return input_size
    if meta_cell.trained_on is None:
        raise InputError(f"{path} does not say how large its images were: give --input_size, the side in pixels.")
    side = meta_cell.trained_on.shape[-1]
    if not 8 <= side <= 4096:
        raise InputError(f"{path} was trained on images of {side} pixels: give --input_size, from 8 to 4096.")
    return side


def folder_as_trained(meta_cell: MetaCell, input_size: int | None, path: Path) -> dict[str, int | None]:
    """Keywords of few_shot_tasks: a folder's images and split of classes as in a meta-cell's training.

    So nothing is tested on that it was trained on, whatever --seed is. Raises as :func:`image_side` does.
    """
    return {
        "input_size": image_side(meta_cell, input_size, path),
        "channels": meta_cell.settings.in_channels,
        "split_seed": meta_cell.trained_on and meta_cell.trained_on.split_seed,
    }


def _check_agreement(flags: OnnasFlags, meta_cell: MetaCell, channels: int | None) -> None:
    path, settings = flags.kind.meta_cell, meta_cell.settings
    for flag, asked in vars(flags.network).items():
        has = settings.as_dict()[flag]
        if asked is not None and asked != has:
            raise InputError(f"{path} was trained with --{flag} {has}, not {asked}: leave the flag out.")
    if channels not in (None, settings.in_channels):
        raise InputError(
            f"{path} was trained on images of {settings.in_channels} channels, --dataset {flags.tasks.dataset} has "
            f"{channels}: name a meta-cell that was trained on such images."
        )
    if METHODS[flags.search.search].separate_cells and len(meta_cell.cells) < settings.layers:
        raise InputError(
            f"--search {flags.search.search} needs a cell for each place, and {path} holds one for all: "
            "train with tfml.py --cells separate."
        )
