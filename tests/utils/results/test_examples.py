"""The images that are kept of a task, and the predictions beside them."""

import base64
import io

import torch
from PIL import Image

from utils.data.episode import Episode
from utils.results.examples import CLASSES, LARGEST_SIDE, QUERIES, SHOTS, as_data_uri, example_of, thumbnail

WAYS, EACH = 7, 6  # more than are kept


def picture(uri: str) -> torch.Tensor:
    """The levels of a data URI's image, 0 to 255, (height, width) or (height, width, 3)."""
    head, _, data = uri.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert head == f"data:image/{image.format.lower()}"
        return torch.tensor(bytearray(image.tobytes())).view(image.height, image.width, -1).squeeze(2)


def test_a_grey_image_is_kept_to_the_level():
    levels = torch.arange(12 * 20, dtype=torch.uint8).view(1, 12, 20)
    assert torch.equal(picture(as_data_uri(levels)), levels[0])


def test_a_photograph_is_kept_nearly():
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 24), indexing="ij")
    image = torch.stack([rows, columns, 1 - rows])
    seen = picture(as_data_uri((255 * image).byte())).permute(2, 0, 1) / 255
    assert seen.shape == image.shape
    assert (seen - image).abs().mean() < 0.02


def test_the_first_images_of_each_class_with_their_predictions():
    """In each image the one level tells which it is; the classes come interleaved."""
    labels = torch.arange(WAYS).repeat(EACH)
    levels = torch.arange(WAYS * EACH, dtype=torch.uint8)

    def images(first: int) -> torch.Tensor:
        return (first + levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    names = tuple(f"class {label}" for label in range(WAYS))
    episode = Episode(0, images(0), labels, images(100), labels, names)
    predictions = [(7 * query) % WAYS for query in range(WAYS * EACH)]
    predictions[WAYS + 2] = 6  # the second query of class 2
    example = example_of(episode, predictions)
    assert example["classes"] == list(names)
    assert len(example["shown"]) == CLASSES
    for label, shown in enumerate(example["shown"]):
        expected = [label + WAYS * place for place in range(SHOTS)]
        assert [picture(uri)[0, 0].item() for uri in shown["support"]] == expected
        queries = [picture(query["image"])[0, 0].item() - 100 for query in shown["queries"]]
        assert queries == [label + WAYS * place for place in range(QUERIES)]
        assert [query["predicted"] for query in shown["queries"]] == [predictions[query] for query in queries]
    assert example["shown"][2]["queries"][1]["predicted"] == 6


def test_fewer_images_than_are_kept():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    shown = example_of(Episode(0, images, labels, images, labels, ("a", "b")), [1, 1])["shown"]
    assert [len(images["support"]) for images in shown] == [1, 1]
    assert [images["queries"][0]["predicted"] for images in shown] == [1, 1]


def test_a_large_photograph_is_made_small():
    columns = torch.linspace(0, 255, 200).round().byte()
    seen = picture(thumbnail(columns.expand(3, 200, 200)))
    assert seen.shape == (LARGEST_SIDE, LARGEST_SIDE, 3)
    small = Image.fromarray(columns.expand(200, 200).numpy()).resize((LARGEST_SIDE,) * 2, Image.Resampling.BILINEAR)
    expected = torch.tensor(bytearray(small.tobytes())).view(LARGEST_SIDE, LARGEST_SIDE)
    assert (seen[..., 0].int() - expected.int()).abs().max() <= 4
