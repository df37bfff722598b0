import torch

from models.search_cell import Mixture
from models.supernet import CELL_TYPES, Supernet, SupernetSettings
from models.tied_cells import TiedCells
from search_space.primitives import FEW_SHOT

SETTINGS = SupernetSettings(1, 4, 3, 2, (0, 2), FEW_SHOT)
EVERY = [[True] * len(FEW_SHOT)] * 5
MIXTURES = {name: Mixture(torch.full((5, len(FEW_SHOT)), 0.1), EVERY, EVERY) for name in CELL_TYPES}


def test_the_cells_share_each_parameter_and_their_gradient_becomes_the_mean_over_the_places():
    torch.manual_seed(0)
    supernet = Supernet(SETTINGS, ways=3)
    tied = TiedCells(supernet)
    apart = Supernet(SETTINGS, ways=3)
    apart.load_state_dict(supernet.state_dict())
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    for net in (supernet, apart):
        torch.nn.functional.cross_entropy(net(images, MIXTURES), labels).backward()
    tied.average_gradients()

    gradients = {}
    for cell in apart.cells:
        for name, parameter in cell.named_parameters():
            gradients.setdefault(name, []).append(parameter.grad)
    assert gradients.keys() == tied.parameters.keys()
    for name, places in gradients.items():
        torch.testing.assert_close(tied.parameters[name].grad, torch.stack(places).mean(0), rtol=1e-4, atol=1e-6)
    for cell in supernet.cells:
        assert all(parameter is tied.parameters[name] for name, parameter in cell.named_parameters())
