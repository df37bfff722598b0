"""The device that the work runs on."""

import os

import torch

from utils.errors import InputError


def choose_device(name: str, tf32: bool = False) -> torch.device:
    """The device that --device names; "auto" is a GPU where there is one.

    On a GPU the numbers are full float32 (with ``tf32`` the factors of convolutions and matrix products are rounded),
    and they repeat for the same seed wherever PyTorch has a repeatable kernel.

    Raises:
        InputError: a GPU is asked for, or TF32 that only a GPU has, and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda needs an NVIDIA GPU that PyTorch can use, and finds none: try --device cpu.")
    if name == "cpu" or not available:
        if tf32:
            raise InputError("--tf32 1 needs an NVIDIA GPU, and the run is on the CPU: leave it out.")
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return torch.device("cuda")


def device_name(device: torch.device) -> str:
    """What results.json says that a run was on: "cpu", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
