"""Synthetic glyphs: Omniglot's kind of task without Omniglot's files."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw

from utils.data.few_shot_split import FewShotSplit, SplitSize
from utils.data.names import INPUT_SHAPES
from utils.draws import numpy_generator

GLYPHS_PER_SPLIT = 1_000_000
DRAWINGS_PER_GLYPH = 100
# A glyph is drawn on a canvas of 3 x 28 pixels and averaged down, which smooths its edges.
OVERSAMPLING = 3
POINTS_PER_STROKE = 14


def glyph_split(split: str, seed: int) -> FewShotSplit:
    """The glyphs of a split, which are drawn when asked for."""
    size = SplitSize(split, GLYPHS_PER_SPLIT, GLYPHS_PER_SPLIT * DRAWINGS_PER_GLYPH)
    shape = INPUT_SHAPES["synthetic"]
    return FewShotSplit(range(GLYPHS_PER_SPLIT), [DRAWINGS_PER_GLYPH], shape, size, SyntheticGlyphs(seed, split))


class SyntheticGlyphs:
    """Invented characters, drawn when asked for: Omniglot's kind of task without Omniglot's files.

    A class is a glyph of 2 to 4 curved strokes, a pure function of (seed, split, class); its drawings vary in their
    control points, slant, size, place and pen, a pure function of (seed, split, class, drawing).
    """

    def __init__(self, seed: int, split: str):
        self.seed, self.purpose = seed, f"glyphs/{split}"

    def read(self, classes: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
        """Drawing ``numbers[i]`` of glyph ``classes[i]``, for each i: uint8 (drawings, 1, 28, 28)."""
        strokes = {index: invent_glyph(numpy_generator(self.seed, self.purpose, index)) for index in set(classes)}
        drawings = [
            draw_glyph(strokes[index], numpy_generator(self.seed, self.purpose, index, number))
            for index, number in zip(classes, numbers, strict=True)
        ]
        return torch.from_numpy(np.stack(drawings)[:, None])


def invent_glyph(draws: np.random.Generator) -> np.ndarray:
    """The strokes of a new glyph: control points of cubic Bezier curves in the unit square, (strokes, 4, 2)."""
    strokes = np.empty((draws.integers(2, 5), 4, 2))
    for number, stroke in enumerate(strokes):
        start, end = draws.uniform(0.12, 0.88, (2, 2))
        if number and draws.random() < 0.6:  # as in writing, most strokes start at an earlier one
            start = strokes[draws.integers(number), draws.integers(4)]
        while np.linalg.norm(end - start) < 0.3:  # a stroke, not a dot
            end = draws.uniform(0.12, 0.88, 2)
        stroke[:] = start + np.linspace(0, 1, 4)[:, None] * (end - start)
        stroke[1:3] += draws.normal(0, 0.2, (2, 2))
    return strokes.clip(0.05, 0.95)


def draw_glyph(strokes: np.ndarray, draws: np.random.Generator) -> Image.Image:
    """One person's drawing of a glyph: white on black, 8-bit grey, 28x28."""
    points = _bezier_basis() @ (strokes + draws.normal(0, 0.04, strokes.shape))
    angle = draws.normal(0, 0.15)
    slant, *scale = draws.normal((0, 1, 1), (0.15, 0.14, 0.14))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    bend = np.array([[scale[0], slant], [0, scale[1]]])
    points = (points - 0.5) @ (turn @ bend).T + 0.5 + draws.normal(0, 0.075, 2)
    size = 28 * OVERSAMPLING
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    width = int(draws.integers(3, 6))
    for stroke in points * size:
        pen.line(stroke.ravel().tolist(), fill=255, width=width)
    return image.reduce(OVERSAMPLING)


@lru_cache(maxsize=1)
def _bezier_basis() -> np.ndarray:
    """Weights of a cubic Bezier curve's four control points along the stroke, (points, 4)."""
    t = np.linspace(0, 1, POINTS_PER_STROKE)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
