"""A few images of a few-shot task beside what was predicted of them, for the report to show."""

import base64
import io

import torch
from PIL import Image
from torch.nn import functional as F

from utils.data.episode import Episode

EXAMPLES = 2  # of the first so many tasks of a run
LARGEST_SIDE = 96  # of a thumbnail
CLASSES, SHOTS, QUERIES = 5, 5, 5  # of each the first so many


def example_of(episode: Episode, predictions: list[int]) -> dict:
    """The first images of each of the first classes of a task, in plain values.

    Args:
        predictions: the class of each query.

    Returns:
        {"classes": names, "shown": [{"support": [image, ...], "queries": [{"image", "predicted"}, ...]}, ...]}, the
        latter in the order of the former; an image is a data URI.
    """
    shown = []
    for label in range(min(CLASSES, len(episode.class_names))):
        shots, asked = (
            (labels == label).nonzero().flatten().tolist() for labels in (episode.support_labels, episode.query_labels)
        )
        queries = [
            {"image": as_data_uri(episode.query[image]), "predicted": predictions[image]} for image in asked[:QUERIES]
        ]
        shown.append({"support": [as_data_uri(episode.support[image]) for image in shots[:SHOTS]], "queries": queries})
    return {"classes": list(episode.class_names), "shown": shown}


def thumbnail(image: torch.Tensor) -> str:
    """A square image, uint8 (C, H, H), as a data URI, of a few KiB at most."""
    if image.shape[-1] > LARGEST_SIDE:
        image = F.interpolate(image[None], LARGEST_SIDE, mode="bilinear", antialias=True)[0]
    return as_data_uri(image)


def as_data_uri(image: torch.Tensor) -> str:
    """An image, uint8 (C, H, W), as a PNG, one in colours as a JPEG: a photograph's PNG is several times as large."""
    levels = image.cpu().numpy()
    grey = len(levels) == 1
    picture = Image.fromarray(levels[0] if grey else levels.transpose(1, 2, 0).copy())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG" if grey else "JPEG", **({"optimize": True} if grey else {"quality": 90}))
    kind = "png" if grey else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
