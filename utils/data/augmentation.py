"""The field's augmentation of small images: a random crop of the padded image, a mirroring, a hole (cutout)."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Draw:
    """What was drawn for one image.

    top, left: of the crop in the padded image, 0 to twice the padding.
    mirrored: left and right change places.
    hole: row and column of the hole's centre, in the crop.
    """

    top: int
    left: int
    mirrored: bool
    hole: tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """How the training images of a data set may be varied.

    padding: black pixels added on every side, before a crop of the old size.
    flip: half of the images are mirrored.
    """

    padding: int
    flip: bool

    def draw(self, side: int, generator: np.random.Generator) -> Draw:
        """Draws for an image of ``side`` x ``side`` pixels, always the same number of numbers."""
        top, left = generator.integers(2 * self.padding + 1, size=2).tolist()
        mirrored = bool(generator.integers(2))
        row, column = generator.integers(side, size=2).tolist()
        return Draw(top, left, self.flip and mirrored, (row, column))

    def crop_and_flip(self, image: np.ndarray, draw: Draw) -> np.ndarray:
        """(C, H, W) -> (C, H, W)."""
        _, height, width = image.shape
        around = (self.padding, self.padding)
        padded = np.pad(image, ((0, 0), around, around))
        crop = padded[:, draw.top : draw.top + height, draw.left : draw.left + width]
        return crop[:, :, ::-1] if draw.mirrored else crop


def cut_out(image: torch.Tensor, size: int, draw: Draw) -> None:
    """Zeroes a square of ``size`` pixels, clipped at the borders, in a normalised image (C, H, W): zero is the mean."""
    top, left = (centre - size // 2 for centre in draw.hole)
    image[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
