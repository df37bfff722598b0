"""Views of training images: a part of the image, zoomed, mirrored, turned, in other colours; a batch at a time."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

DRAWS = 9  # numbers that a view takes


@dataclass(frozen=True)
class Views:
    """How much the images of a data set may be varied.

    zoom: the smallest side of the part that is shown, of the image's.
    stretch: the part is up to 1 + this times as wide, and so much less high, or the other way round.
    shift: by how much of half a side the part may lie outside, where the border is repeated.
    turn: radians, to either side.
    flip: half of the views are mirrored.
    colours: brightness, contrast and saturation change by a factor of up to 1 +- this.
    """

    zoom: float
    stretch: float
    shift: float
    turn: float
    flip: bool
    colours: float

    def draw(self, images: int, generator: torch.Generator) -> torch.Tensor:
        """(images, DRAWS) uniform numbers in [0, 1), from which :meth:`of` makes the views."""
        return torch.rand(images, DRAWS, generator=generator)

    def of(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """One view of each image, (N, C, H, W) in [0, 1] -> the same."""
        side, ratio, across, down, mirrored, turn, *colours = draws.to(images.device).unbind(1)
        side = self.zoom + (1 - self.zoom) * side
        stretch = (1 + self.stretch) ** _both_sides(ratio)
        width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
        x = _both_sides(across) * (1 - width + self.shift)
        y = _both_sides(down) * (1 - height + self.shift)
        mirror = torch.where(mirrored < 0.5, -1, 1) if self.flip else torch.ones_like(side)
        angle = self.turn * _both_sides(turn)
        cos, sin = angle.cos(), angle.sin()
        rows = [width * mirror * cos, -width * sin, x], [height * mirror * sin, height * cos, y]
        transform = torch.stack([torch.stack(row, 1) for row in rows], 1)
        grid = F.affine_grid(transform, list(images.shape), align_corners=False)
        views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return self._in_other_colours(views, colours) if self.colours else views

    def _in_other_colours(self, images: torch.Tensor, draws: list[torch.Tensor]) -> torch.Tensor:
        brightness, contrast, saturation = (1 + self.colours * _both_sides(draw)[:, None, None, None] for draw in draws)
        images = images * brightness
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (images - mean) * contrast + mean
        grey = images.mean(1, keepdim=True)
        return ((images - grey) * saturation + grey).clamp(0, 1)


def _both_sides(draws: torch.Tensor) -> torch.Tensor:
    """From [0, 1) to [-1, 1)."""
    return 2 * draws - 1


PHOTOGRAPHS = Views(zoom=0.6, stretch=0.16, shift=0.0, turn=0.0, flip=True, colours=0.3)
DRAWINGS = Views(zoom=0.8, stretch=0.16, shift=0.1, turn=math.radians(12), flip=False, colours=0.0)
