"""Omniglot and miniImageNet from the prepared files: decoded by torchmeta once, into ``cache/`` beside them.

torchmeta and torchvision are imported only where there is something to decode: they take 200 MiB.
"""

import json
from pathlib import Path

from utils.data.class_images import stored_class_images
from utils.data.few_shot_split import FewShotSplit, SplitSize, decoded_once
from utils.data.names import INPUT_SHAPES
from utils.data.prepared import WEBSITE, image_file, is_prepared, label_file, prepare_command
from utils.errors import InputError


def torchmeta_split(
    dataset: str, split: str, data_path: Path, use_vinyals_split: bool, download_absent: bool
) -> FewShotSplit:
    """The classes of a split of Omniglot or miniImageNet.

    Raises:
        InputError: the data are absent, cannot be read or are damaged, or there is no such split.
    """
    if split == "val" and dataset == "omniglot" and not use_vinyals_split:
        raise InputError("Omniglot's background/evaluation split has no validation classes: use --use_vinyals_split 1.")
    if not is_prepared(dataset, data_path):
        if not download_absent:
            raise InputError(
                f"--data_path {data_path} holds no prepared {dataset}: pass --download, or get it from "
                f"{WEBSITE[dataset]} and run {prepare_command(dataset, data_path)}."
            )
        from utils.data.prepare import download

        download(dataset, data_path)
    folder, shape, notes = data_path / dataset, INPUT_SHAPES[dataset], ()
    labels_name = label_file(dataset, split, use_vinyals_split)
    status = {name: _status(folder / name) for name in (image_file(dataset, split), labels_name)}
    decoded = folder / "cache" / f"{labels_name.removesuffix('_labels.json')}.npy"
    images = stored_class_images(decoded, status, shape)
    if images is None:
        from utils.data.torchmeta_classes import TorchmetaClasses

        by_torchmeta = TorchmetaClasses(dataset, split, data_path, use_vinyals_split)
        images, notes = decoded_once(decoded, status, by_torchmeta.counts, shape, by_torchmeta.decode)
        images = images or by_torchmeta
    labels, counts = json.loads((folder / labels_name).read_text()), images.counts
    forms = len(counts) // len(labels)  # a class as it is, and rotated
    size = SplitSize(split, len(labels), sum(counts) // forms)
    return FewShotSplit(labels, counts, shape, size, images, [labels, counts], notes)


def _status(file: Path) -> list[int]:
    """What changes when a file is written."""
    return [file.stat().st_size, file.stat().st_mtime_ns]
