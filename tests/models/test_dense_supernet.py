import pytest
import torch
from torch.nn import functional as F

from models.dense_supernet import DenseSupernet
from models.search_cell import Mixture
from models.supernet import CELL_TYPES, Supernet, SupernetSettings
from models.tied_cells import TiedCells
from search_space.primitives import FEW_SHOT, FULL_TASK

EVERY = [[True] * len(FEW_SHOT)] * 9


@pytest.mark.parametrize("size", [(16, 16), (13, 13), (12, 15), (15, 12)])
@pytest.mark.parametrize("reductions", [(0, 1, 2), (1,)])
def test_logits_and_gradients_are_those_of_the_supernet(size, reductions):
    torch.manual_seed(0)
    supernet = Supernet(SupernetSettings(3, 4, 3, 3, reductions, FEW_SHOT), ways=5)
    tied = TiedCells(supernet)
    images, labels = torch.rand(6, 3, *size), torch.arange(6) % 5
    coefficients = {name: torch.rand(9, len(FEW_SHOT)) for name in CELL_TYPES}
    mixtures = {name: Mixture(coefficients[name], EVERY, EVERY) for name in CELL_TYPES}

    gradients, outputs = [], []
    for logits in (supernet(images, mixtures), DenseSupernet(supernet, tied)(images, coefficients)):
        supernet.zero_grad()
        F.cross_entropy(logits, labels).backward()
        outputs.append(logits.detach())
        gradients.append([weight.grad.clone() for weight in supernet.parameters()])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
    for dense, own in zip(*reversed(gradients), strict=True):
        assert (dense - own).norm() <= 1e-3 * own.norm() + 1e-6


@pytest.mark.parametrize("changes", [{"primitives": FULL_TASK}, {"partial_channels": 2}])
def test_what_it_does_not_know_is_refused(changes):
    settings = {"primitives": FEW_SHOT, **changes}
    supernet = Supernet(SupernetSettings(1, 4, 2, 2, (1,), **settings), ways=2)
    with pytest.raises(ValueError, match="few-shot"):
        DenseSupernet(supernet, TiedCells(supernet))
