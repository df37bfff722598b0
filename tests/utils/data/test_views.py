import torch

from utils.data.views import DRAWINGS, DRAWS, PHOTOGRAPHS, Views

SAME = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=0.0, flip=False, colours=0.0)
# Draws from which nothing is stretched, moved, mirrored, turned or coloured.
MIDDLE = torch.full((2, DRAWS), 0.5)


def images(channels=3):
    return torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_view_of_the_whole_image_is_the_image():
    torch.testing.assert_close(SAME.of(images(), MIDDLE), images())
    torch.testing.assert_close(PHOTOGRAPHS.of(images(), torch.cat([torch.ones(2, 1), MIDDLE[:, 1:]], 1)), images())


def test_half_of_the_views_are_mirrored():
    draws = MIDDLE.clone()
    draws[0, 4] = 0.49
    views = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=0.0, flip=True, colours=0.0).of(images(), draws)
    torch.testing.assert_close(views, torch.stack([images()[0].flip(2), images()[1]]))


def test_a_zoomed_view_is_the_middle_enlarged():
    draws = MIDDLE.clone()
    draws[:, 0] = 0.0
    view = Views(zoom=0.5, stretch=0.0, shift=0.0, turn=0.0, flip=False, colours=0.0).of(images(), draws)
    enlarged = torch.nn.functional.interpolate(images()[:, :, 1:7, 1:7], size=12, mode="bilinear")[:, :, 2:10, 2:10]
    torch.testing.assert_close(view, enlarged)


def test_a_quarter_turn_turns_the_image():
    draws = MIDDLE.clone()
    draws[:, 5] = 1.0
    view = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=torch.pi / 2, flip=False, colours=0.0).of(images(), draws)
    torch.testing.assert_close(view, images().rot90(1, (2, 3)), rtol=1e-4, atol=1e-4)


def test_brightness_contrast_and_saturation_are_what_their_names_say():
    brighter, flatter, greyer = (MIDDLE.clone() for _ in range(3))
    brighter[:, 6], flatter[:, 7], greyer[:, 8] = 1.0, 0.0, 0.0
    colours = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=0.0, flip=False, colours=0.5)
    mean, grey = images().mean((1, 2, 3), keepdim=True), images().mean(1, keepdim=True)
    torch.testing.assert_close(colours.of(images(), brighter), (images() * 1.5).clamp(max=1))
    torch.testing.assert_close(colours.of(images(), flatter), (images() + mean) / 2)
    torch.testing.assert_close(colours.of(images(), greyer), (images() + grey) / 2)


def test_the_views_of_drawings_keep_one_channel_and_depend_on_their_draws_alone():
    draws = DRAWINGS.draw(2, torch.Generator().manual_seed(3))
    first, again = DRAWINGS.of(images(1), draws), DRAWINGS.of(images(1), draws)
    assert first.shape == (2, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, images(1))
