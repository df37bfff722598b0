"""One task of the user's own: its support set, its queries and its folds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.image_reader import Preparation
from utils.data.own_task import list_queries, load_own_task, read_queries, stratified_folds
from utils.errors import InputError

SIDE = 16


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> Path:
    """An image of noise; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def by_hand(path: Path, mode: str, side: int) -> torch.Tensor:
    image = Image.open(path).convert(mode).resize((side, side), Image.Resampling.BILINEAR)
    return torch.tensor(np.asarray(image).reshape(side, side, -1)).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, count in {"cat": 3, "cow": 1, "dog": 2}.items():
        for number in range(count):
            write_image(tmp_path / "support" / name / f"{number}.png", number + len(name) * count)
    return tmp_path / "support"


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as refusal:
        load_own_task(folder, channels=3, side=SIDE)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# --- Support --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("side", [SIDE, 9])
def test_the_support_set(channels, mode, side, folder):
    task = load_own_task(folder, channels=channels, side=side)
    assert task.class_names == ("cat", "cow", "dog")
    assert task.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert task.files == ("cat/0.png", "cat/1.png", "cat/2.png", "cow/0.png", "dog/0.png", "dog/1.png")
    expected = torch.stack([by_hand(folder / file, mode, side) for file in task.files])
    assert torch.equal(task.images, expected)
    assert task.notes == (("6 of 6 images have colours: they are made grey.",) if channels == 1 else ())
    assert task.preparation == Preparation(channels, side)


def test_what_is_changed_is_said(folder):
    write_image(folder / "cow/long.png", size=(2 * SIDE, SIDE))
    write_image(folder / "cow/grey.png", mode="L")
    assert load_own_task(folder, channels=3, side=SIDE).notes == (
        f"1 of 8 images are not square: they are stretched to {SIDE}x{SIDE}.",
        "1 of 8 images are grey: they get three equal channels.",
    )


def test_refusals(folder, tmp_path):
    write_image(tmp_path / "one/cat/0.png")
    assert complaint(tmp_path / "one") == f"{tmp_path}/one holds only one class, cat: there must be two at least."
    dot = write_image(folder / "cow/dot.png", size=(1, 1))
    assert complaint(folder) == f"{dot} is too small, 1x1 pixels: 8x8 is the least."
    dot.unlink()
    (folder / "empty").mkdir()
    assert complaint(folder) == f"{folder}/empty holds no images: fill or remove that class folder."


# --- Queries --------------------------------------------------------------------------------------------------------


def test_queries_at_any_depth_without_labels(folder, tmp_path):
    for number, name in enumerate(("b.png", "a/x/deep.jpg", "a/0.png")):
        write_image(tmp_path / "query" / name, number)
    (tmp_path / "query/notes.txt").write_text("no image")
    (tmp_path / "query/a/half.png").write_bytes((tmp_path / "query/b.png").read_bytes()[:100])
    write_image(tmp_path / "query/dot.png", size=(1, 1))
    queries = list_queries(tmp_path / "query", ("cat", "cow", "dog"))
    assert queries.notes == ()
    assert [query.name for query in queries.files] == [
        *("a/0.png", "a/half.png", "a/x/deep.jpg", "b.png", "dot.png", "notes.txt")
    ]
    assert {query.label for query in queries.files} == {None}
    images, read, unread = read_queries(queries.files, Preparation(3, SIDE))
    assert [query.name for query in read] == ["a/0.png", "a/x/deep.jpg", "b.png"]
    assert torch.equal(images, torch.stack([by_hand(query.path, "RGB", SIDE) for query in read]))
    assert [(file.name, "\n" in file.reason) for file in unread] == [
        *(("a/half.png", False), ("dot.png", False), ("notes.txt", False))
    ]
    assert "cut short" in unread[0].reason
    assert "no format that is read" in unread[2].reason


def test_queries_in_folders_that_are_named_like_the_classes(tmp_path):
    for name in ("dog/0.png", "cat/more/1.png", "cat/0.png"):
        write_image(tmp_path / name)
    queries = list_queries(tmp_path, ("cat", "cow", "dog"))
    assert [(query.name, query.label) for query in queries.files] == [
        ("cat/0.png", 0),
        ("cat/more/1.png", 0),
        ("dog/0.png", 2),
    ]
    assert queries.notes == ()
    write_image(tmp_path / "yak/cat/0.png")
    write_image(tmp_path / "0.png")
    queries = list_queries(tmp_path, ("cat", "cow", "dog"))
    assert [query.label for query in queries.files] == [None, 0, 0, 2, None]
    assert queries.notes == (
        f"3 of 5 files in {tmp_path} have a label; no class is named like files in no folder, yak/.",
    )


def test_no_image_among_the_queries(tmp_path):
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(InputError, match=rf"^{tmp_path} holds no image: name a folder with images to classify\.$"):
        list_queries(tmp_path, ("cat", "dog"))


def test_queries_deeper_than_the_support_set_are_refused(folder, tmp_path):
    for name, value in (("cat/0.png", 900), ("cow/0.png", 5), ("dog/0.png", 80)):
        Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)).save(folder / name)
    task = load_own_task(folder, channels=1, side=SIDE)
    assert task.preparation.bits == 10
    assert task.images[0].eq(900 // 4).all()
    for name, value in (("as_deep.png", 1000), ("deeper.png", 1500)):
        Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)).save(tmp_path / name)
    queries = [query for query in list_queries(tmp_path, task.class_names).files if "deep" in query.name]
    images, _, unread = read_queries(queries, task.preparation)
    assert images.eq(1000 // 4).all()
    assert [file.name for file in unread] == ["deeper.png"]


# --- Folds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 5, 8])
@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 3, 5, 8, 20), (2, 2, 7)])
def test_every_image_is_left_out_once(counts, folds):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    parts = stratified_folds(labels, folds, seed=3)
    assert len(parts) == folds
    left_out = sorted(index for _, part in parts for index in part)
    assert left_out == [index for index, label in enumerate(labels) if counts[label] > 1]
    sizes = [len(part) for _, part in parts]
    assert max(sizes) - min(sizes) <= 1
    for rest, part in parts:
        assert sorted(rest + part) == list(range(len(labels)))
        assert {labels[index] for index in rest} == set(range(len(counts)))
        for label, count in enumerate(counts):
            share = sum(labels[index] == label for index in part)
            assert count == 1 or count // folds <= share <= -(-count // folds)


def test_folds_are_drawn_by_the_seed():
    labels = [0] * 9 + [1] * 9
    assert stratified_folds(labels, 3, seed=1) == stratified_folds(torch.tensor(labels), 3, seed=1)
    assert stratified_folds(labels, 3, seed=1) != stratified_folds(labels, 3, seed=2)


def test_more_folds_than_images():
    with pytest.raises(InputError, match=r"^--folds 5 is too many: 4 images can be left out in turn\.$"):
        stratified_folds([0, 1, 1, 2, 2], 5, seed=0)
    with pytest.raises(InputError, match="--folds 2 is too many: 0 images"):
        stratified_folds([0, 1], 2, seed=0)
