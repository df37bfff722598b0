"""Halves and batches of labelled images, on invented ones; folders and published sets have their own tests."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.data.augmentation import Augmentation, Draw, cut_out
from utils.data.full_task_data import stratified_halves
from utils.data.image_batches import ArrayImages, ImageSet, image_batches
from utils.draws import numpy_generator

SIDE = 16
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
LABELS = [0] * 11 + [1] * 7 + [2] * 2 + [3] * 10 + [4] * 9


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """39 colour images of noise, of five classes."""
    array = np.random.default_rng(3).integers(0, 256, (len(LABELS), SIDE, SIDE, 3)).astype(np.uint8)
    return ImageSet(ArrayImages(array, SIDE), tuple(LABELS), MEAN, STD, Augmentation(padding=2, flip=True))


def plain(images: ImageSet) -> torch.Tensor:
    """All images without augmentation, normalised by hand: float32 (N, C, H, W)."""
    array = torch.from_numpy(images.pixels.array).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    return (array - mean) / std


def everything(batches) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(batches)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def same(first, second) -> bool:
    return all(torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True))


# --- Halves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_halves_are_disjoint_stratified_and_whole(seed):
    order = np.random.default_rng(seed).permutation(LABELS).tolist()
    halves = stratified_halves(order, seed)
    assert sorted(halves[0] + halves[1]) == list(range(len(order)))
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    for label in set(LABELS):
        shares = [sum(order[index] == label for index in half) for half in halves]
        assert abs(shares[0] - shares[1]) <= 1
        assert min(shares) >= 1


def test_the_halves_are_drawn_by_the_seed_alone():
    expected = stratified_halves(LABELS, 1)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert stratified_halves(LABELS, 1) == expected
    assert stratified_halves(torch.tensor(LABELS), 1) == expected
    assert stratified_halves(LABELS, 2) != expected
    # Not the first or every second image of a class, nor the same places in each.
    assert expected[0][:6] != list(range(6))


# --- Order and batches ----------------------------------------------------------------------------------------------


def test_in_order_without_a_seed(images):
    indices = [5, 3, 30, 12, 38]
    batches = image_batches(images, indices, 2)
    assert [len(labels) for _, labels in batches] == [2, 3]  # the last one is not alone
    pixels, labels = everything(batches)
    assert pixels.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.allclose(pixels, plain(images)[indices], atol=1e-6)
    assert labels.tolist() == [LABELS[index] for index in indices]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 4, [3]), (4, 3, [4]), (3, 1, [1, 2])],
)
def test_a_single_image_joins_its_neighbour(images, count, batch_size, sizes):
    batches = image_batches(images, range(count), batch_size, epoch_order=(0, "weights", 0))
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own(images):
    indices = list(range(0, len(LABELS), 2))
    names = [(0, "weights", 0), (0, "weights", 1), (0, "architecture", 0), (1, "weights", 0)]
    wanted = plain(images)[indices]
    orders = []
    for name in names:
        pixels, labels = everything(image_batches(images, indices, 8, epoch_order=name))
        order = [int((wanted - image).abs().flatten(1).amax(1).argmin()) for image in pixels]
        assert sorted(order) == list(range(len(indices)))
        assert labels.tolist() == [LABELS[indices[place]] for place in order]
        orders.append(tuple(order))
    assert len(set(orders)) == len(names)
    assert tuple(range(len(indices))) not in orders


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_whatever_the_workers_and_whatever_was_drawn_before(images, workers):
    def batches(epoch: int, workers: int) -> list:
        name = (7, "weights", epoch)
        return list(image_batches(images, range(30), 8, epoch_order=name, augment=True, cutout=8, workers=workers))

    expected = [batches(epoch, workers=0) for epoch in range(2)]
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert same(batches(1, workers), expected[1])  # as a resumed run does: the second epoch first
    assert same(batches(0, workers), expected[0])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_the_batch_size_changes_no_image(images):
    name = (7, "weights", 3)
    small, large = (
        everything(image_batches(images, range(39), size, epoch_order=name, augment=True)) for size in (4, 39)
    )
    assert torch.equal(small[0], large[0])
    assert torch.equal(small[1], large[1])


def test_a_batches_object_can_be_read_again(images):
    batches = image_batches(images, range(10), 4, epoch_order=(7, "weights", 3), augment=True)
    assert same(list(batches), list(batches))


# --- Augmentation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (3, True), (0, True)])
def test_crop_and_flip_are_slices_of_the_padded_image(images, padding, flip):
    """Against slicing by hand, with every number that can be drawn."""
    image = images.pixels[0]
    augmentation = Augmentation(padding, flip)
    black = np.zeros((3, SIDE + 2 * padding, SIDE + 2 * padding), np.uint8)
    black[:, padding : padding + SIDE, padding : padding + SIDE] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            expected = np.empty_like(image)
            for row in range(SIDE):
                for column in range(SIDE):
                    expected[:, row, column] = black[:, top + row, left + column]
            drawn = augmentation.crop_and_flip(image, Draw(top, left, False, (0, 0)))
            assert np.array_equal(drawn, expected)
            drawn = augmentation.crop_and_flip(image, Draw(top, left, True, (0, 0)))
            assert np.array_equal(drawn, expected[..., list(range(SIDE - 1, -1, -1))])


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((8, 8), range(4, 12), range(4, 12)), ((0, 15), range(4), range(11, 16)), ((2, 9), range(6), range(5, 13))],
)
def test_cutout_hides_a_square_clipped_at_the_borders(centre, rows, columns):
    image = torch.ones(3, SIDE, SIDE)
    cut_out(image, 8, Draw(0, 0, False, centre))
    hidden = {(row, column) for row in range(SIDE) for column in range(SIDE) if (image[:, row, column] == 0).all()}
    assert hidden == {(row, column) for row in rows for column in columns}
    assert image.sum() == 3 * (SIDE * SIDE - len(hidden))


def test_every_draw_occurs_equally_often():
    augmentation = Augmentation(padding=2, flip=True)
    draws = [augmentation.draw(8, numpy_generator(0, "draws", index)) for index in range(4000)]
    for values, number in [
        ([draw.top for draw in draws], 5),
        ([draw.left for draw in draws], 5),
        ([draw.mirrored for draw in draws], 2),
        ([draw.hole[0] for draw in draws], 8),
        ([draw.hole[1] for draw in draws], 8),
    ]:
        counts = np.bincount(values)
        assert len(counts) == number
        assert abs(counts * number / 4000 - 1).max() < 0.2
    assert not any(Augmentation(2, flip=False).draw(8, numpy_generator(0, "draws", i)).mirrored for i in range(50))


def test_batches_are_augmented_by_the_draws_of_each_image(images):
    """Each image is one slice of its own padded self, and not all are moved alike."""
    name = (4, "weights", 2)
    pixels, _ = everything(image_batches(images, range(39), 8, epoch_order=name, augment=True))
    unmoved, _ = everything(image_batches(images, range(39), 8, epoch_order=name))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    draws = []
    for image, before in zip(pixels, unmoved, strict=True):
        padded = torch.nn.functional.pad(before * std + mean, (2, 2, 2, 2))
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.allclose(
                image * std + mean,
                padded[:, top : top + SIDE, left : left + SIDE].flip([2] if mirrored else []),
                atol=1e-5,
            )
        ]
        assert len(found) == 1
        draws += found
    assert len(set(draws)) > 20


def test_cutout_is_on_top_of_the_same_crops(images):
    name = (4, "weights", 2)
    without, _ = everything(image_batches(images, range(39), 8, epoch_order=name, augment=True))
    holed, _ = everything(image_batches(images, range(39), 8, epoch_order=name, augment=True, cutout=8))
    hidden = (holed == 0).all(1)
    assert torch.equal(torch.where(hidden[:, None], without, holed), without)
    assert (hidden.flatten(1).sum(1) >= 16).all()  # a quarter of the square, at a corner
    assert (hidden.flatten(1).sum(1) <= 64).all()
    assert (hidden.flatten(1).sum(1) == 64).any()


def test_without_flips_nothing_is_mirrored(images):
    still = replace(images, augmentation=Augmentation(padding=0, flip=False))
    options = {"epoch_order": (4, "weights", 2)}
    assert same(
        image_batches(still, range(39), 8, augment=True, **options), image_batches(still, range(39), 8, **options)
    )


def test_augmentation_needs_a_seed(images):
    with pytest.raises(TypeError):
        list(image_batches(images, range(4), 2, augment=True))
