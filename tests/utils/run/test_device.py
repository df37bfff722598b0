"""What --device and --tf32 switch on, on a machine with and one without a GPU."""

import pytest
import torch

from utils.errors import InputError
from utils.run.device import choose_device


@pytest.fixture
def a_gpu(monkeypatch):
    """PyTorch says that there is one; afterwards its switches are as they were."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    yield switches
    torch.use_deterministic_algorithms(False)
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_multiplies_in_the_precision_that_is_asked_for(a_gpu, name, tf32):
    assert choose_device(name, tf32=tf32) == torch.device("cuda")
    assert [switch.allow_tf32 for switch in a_gpu] == [tf32, tf32]
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("available", "name"), [(False, "auto"), (False, "cpu"), (True, "cpu")])
def test_a_cpu_has_no_tf32(monkeypatch, available, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(name) == torch.device("cpu")
    with pytest.raises(InputError, match="--tf32 1 needs an NVIDIA GPU"):
        choose_device(name, tf32=True)
