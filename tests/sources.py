"""Small invented downloads of Omniglot and miniImageNet, and what they are prepared to."""

import io
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmeta_loader import episodes, few_shot_tasks
from utils.data.prepare import prepare
from utils.data.torchmeta_files import vinyals_characters
from utils.errors import InputError

SPLITS = ("train", "val", "test")
CHARACTERS_PER_SPLIT = 7
DRAWINGS = 20


def blocks(identity: int, side: int, size: int, channels: int = 1) -> np.ndarray:
    """Random blocks, other ones for every identity, that survive resizing and JPEG: uint8 (size, size, channels)."""
    pattern = np.random.default_rng(identity).integers(0, 2, (side, side, channels)).astype(np.uint8) * 255
    return pattern.repeat(size // side, 0).repeat(size // side, 1)


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def shuffled(files: dict[str, bytes]) -> dict[str, bytes]:
    names = list(files)
    random.Random(5).shuffle(names)
    return {name: files[name] for name in names}


@pytest.fixture(scope="session")
def omniglot_files() -> dict[str, dict[str, bytes]]:
    """{"images_background": {name: PNG}, "images_evaluation": ...}: some characters of each of Vinyals' splits."""
    files = {"images_background": {}, "images_evaluation": {}}
    characters = [c for split in SPLITS for c in vinyals_characters(split)[:CHARACTERS_PER_SPLIT]]
    # The lists start with background characters; the background/evaluation split needs some of the others.
    characters += vinyals_characters("train")[-CHARACTERS_PER_SPLIT:]
    for number, (group, alphabet, character) in enumerate(characters):
        for drawing in range(DRAWINGS):
            image = 255 - blocks(number * DRAWINGS + drawing, 7, 105)
            name = f"{group}/{alphabet}/{character}/{number:04}_{drawing + 1:02}.png"
            files[group][name] = encoded(image, "png")
    return files


@pytest.fixture(scope="session")
def miniimagenet_files() -> dict[str, dict[str, bytes]]:
    """{split: {name: JPEG}} with 6, 5 and 5 classes of 8 images."""
    files, identity = {split: {} for split in SPLITS}, 0
    for split, classes in zip(SPLITS, (6, 5, 5), strict=True):
        for number in range(classes):
            for image in range(8):
                identity += 1
                name = f"{split}/n{split}{number:04}/image{image}.jpg"
                files[split][name] = encoded(blocks(identity, 6, 84, 3), "jpeg")
    return files


def omniglot_zips(folder: Path, files: dict) -> Path:
    folder.mkdir(parents=True)
    for group, members in files.items():
        write_zip(folder / f"{group}.zip", members)
    return folder


def miniimagenet_tars(folder: Path, files: dict, suffix: str = ".tar") -> Path:
    folder.mkdir(parents=True)
    for split, members in files.items():
        write_tar(folder / f"{split}{suffix}", members)
    return folder


def miniimagenet_pickles(folder: Path, files: dict) -> Path:
    folder.mkdir(parents=True)
    for split, members in files.items():
        classes: dict[str, list[int]] = {}
        for row, name in enumerate(members):
            classes.setdefault(name.split("/")[1], []).append(row)
        images = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in members.values()])
        content = {"image_data": images, "class_dict": classes}
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory, omniglot_files, miniimagenet_files) -> Path:
    """A prepared data folder."""
    folder = tmp_path_factory.mktemp("prepared")
    sources = tmp_path_factory.mktemp("sources")
    prepare("omniglot", omniglot_zips(sources / "omniglot", omniglot_files), folder)
    prepare("miniimagenet", miniimagenet_tars(sources / "miniimagenet", miniimagenet_files), folder)
    return folder


def prepared_files(folder: Path) -> dict[str, bytes]:
    """The files of a prepared data set; not what was decoded from them."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "cache"}


def names(folder: Path) -> list[str]:
    """What there is in a folder, but for the lock of those that prepare a data set in it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def refusal(dataset: str, source: Path, tmp_path: Path) -> str:
    """The sentence with which the source is refused; nothing must be left behind."""
    out = tmp_path / "out"
    with pytest.raises(InputError) as complaint:
        prepare(dataset, source, out)
    assert not out.exists() or not names(out)
    text = str(complaint.value)
    assert "\n" not in text
    assert text.endswith((".", ")."))
    return text


def make_tasks(dataset: str, split: str, data: Path, **changes):
    settings = {"ways": 3, "shots": 2, "queries": 4, "seed": 21, "data_path": data, **changes}
    return few_shot_tasks(dataset, split, **settings)


def draw(tasks, numbers: range, workers: int = 0) -> list[list[bytes]]:
    """Per episode the bytes of its support images, in [0, 1], support labels, query images, query labels."""
    return [
        [
            tensor.numpy().tobytes()
            for tensor in (episode.support / 255, episode.support_labels, episode.query / 255, episode.query_labels)
        ]
        for episode in episodes(tasks, numbers, workers)
    ]


@pytest.fixture(params=["zips", "tars", "gzipped tars", "pickles"])
def whole_source(request, omniglot_files, miniimagenet_files, tmp_path) -> tuple[str, Path]:
    """A data set and its source, of each kind."""
    folder = tmp_path / "source"
    if request.param == "zips":
        return "omniglot", omniglot_zips(folder, omniglot_files)
    if request.param == "pickles":
        return "miniimagenet", miniimagenet_pickles(folder, miniimagenet_files)
    suffix = ".tar.gz" if request.param.startswith("gzipped") else ".tar"
    return "miniimagenet", miniimagenet_tars(folder, miniimagenet_files, suffix)
