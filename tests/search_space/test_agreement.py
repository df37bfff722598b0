import torch

from models.meta_cell import MetaCell
from search_space.agreement import head_start
from search_space.search_network import SearchNetwork
from search_space.settings import CENTROID, META, ZERO
from tests.helpers import tiny_settings


def test_the_head_of_a_meta_cell_that_was_only_pre_trained_starts_at_the_class_means():
    trained = SearchNetwork.build(tiny_settings(), 3, seed=0).state(separate=False)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in trained.head.items()}
    pretrained = MetaCell(**{**vars(trained), "head": zeros})
    assert head_start(None, trained) == META
    assert head_start(None, pretrained) == CENTROID
    assert head_start(ZERO, trained) == head_start(ZERO, pretrained) == ZERO
