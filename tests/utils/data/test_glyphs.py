"""Synthetic glyphs: what their drawings depend on, and that they can be told apart, but not too easily."""

import torch

from utils.data.glyphs import SyntheticGlyphs


def test_glyphs_depend_on_seed_split_class_and_drawing():
    def glyph(seed, split, index, drawing):
        return SyntheticGlyphs(seed, split).read([index], [drawing]).numpy().tobytes()

    assert glyph(1, "train", 999_999, 4) == glyph(1, "train", 999_999, 4)
    others = [(1, "train", 7, 4), (2, "train", 7, 4), (1, "val", 7, 4), (1, "train", 8, 4), (1, "train", 7, 5)]
    assert len({glyph(*other) for other in others}) == len(others)


def test_drawings_of_a_glyph_are_alike_more_than_drawings_of_two():
    glyphs = SyntheticGlyphs(0, "val").read([c for c in range(40) for _ in range(8)], [*range(8)] * 40)
    means = torch.nn.functional.avg_pool2d(glyphs / 255, 4).view(40, 8, -1)
    centres = means[:, :4].mean(1)
    predicted = torch.cdist(means[:, 4:].flatten(0, 1), centres).argmin(1)
    accuracy = (predicted == torch.arange(40).repeat_interleave(4)).float().mean()
    # A chance level of 1/40; a simple classifier must be well above it, and not so good that nothing is to be learnt.
    assert 0.3 < accuracy < 0.95


def test_glyphs_leave_ink_on_every_drawing():
    drawings = SyntheticGlyphs(3, "test").read([c for c in range(50) for _ in range(4)], [*range(4)] * 50)
    ink = (drawings / 255).mean((1, 2, 3))
    assert ink.min() > 0.005
    assert ink.max() < 0.5
