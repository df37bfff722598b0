"""Images as they lie in memory, in a byte a value, and as a network reads them."""

import torch


def unit_range(images: torch.Tensor) -> torch.Tensor:
    """Images as a network reads them, float32: uint8 pixels are divided by 255, others are in [0, 1] already.

    A supernet does it to each micro-batch: the images that wait for their turn take a quarter of the memory.
    """
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images
