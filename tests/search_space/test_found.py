"""The found network against the reference supernet whose alpha and beta leave nothing to choose."""

import math
from dataclasses import replace

import pytest
import torch

from search_space.found import genotype_mixtures, genotype_overlap, mean_entropy
from search_space.genotype import Genotype, read_genotype
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FEW_SHOT
from tests.helpers import copy_parameters, random_images, reference_supernet, tiny_settings, tiny_supernet

CERTAIN = 1e4  # a logit that leaves the others nothing
CELL = (("conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 2))
OTHER = (("conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 1), ("sep_conv_3x3", 2))
GENOTYPE = Genotype(CELL, (2, 3), OTHER, (2, 3))
# Edges of two nodes: (0,0) (1,0) (0,1) (1,1) (2,1); pairs of node 1: (0,1) (0,2) (1,2).
CHOSEN = {
    "normal": ({0: "conv_3x3", 1: "max_pool_3x3", 2: "skip_connect", 4: "sep_conv_3x3"}, 1),
    "reduction": ({0: "conv_3x3", 1: "max_pool_3x3", 3: "skip_connect", 4: "sep_conv_3x3"}, 2),
}


def certain_of_genotype(architecture) -> None:
    with torch.no_grad():
        for cell_type, (ops, pair) in CHOSEN.items():
            for edge, name in ops.items():
                architecture.alpha[cell_type][edge][FEW_SHOT.index(name)] = CERTAIN
            architecture.beta[cell_type][1][pair] = CERTAIN


def test_the_found_network_is_the_supernet_whose_alpha_and_beta_are_certain():
    supernet, architecture = tiny_supernet()
    mixtures = genotype_mixtures(GENOTYPE, supernet.settings, like=supernet.head.weight)
    certain_of_genotype(architecture)
    images = random_images(6)
    expected = reference_supernet(supernet.settings, *copy_parameters(supernet, architecture), images)
    torch.testing.assert_close(supernet(images, mixtures), expected)


def test_it_is_what_alpha_and_beta_point_to():
    _, architecture = tiny_supernet()
    certain_of_genotype(architecture)
    assert read_genotype(architecture, FEW_SHOT) == GENOTYPE


def test_nothing_but_the_chosen_operations_is_run():
    mixtures = genotype_mixtures(GENOTYPE, tiny_settings(), like=torch.zeros(()))
    for cell_type, (ops, _) in CHOSEN.items():
        run = {(edge, FEW_SHOT[k]) for edge, row in enumerate(mixtures[cell_type].active) for k in range(7) if row[k]}
        assert run == set(ops.items())
        assert mixtures[cell_type].trained == mixtures[cell_type].active


def test_entropy_is_zero_once_all_is_decided_and_that_of_a_draw_of_lots_before():
    supernet, architecture = tiny_supernet()
    normalizer = AnnealedNormalizer("softmax", 0.5, 0.0)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
    assert mean_entropy(architecture, supernet.settings, normalizer) == pytest.approx(math.log(7))
    with torch.no_grad():
        for edge in range(5):
            architecture.alpha["normal"][edge][3] = CERTAIN
    # Of two cell types one is decided.
    assert mean_entropy(architecture, supernet.settings, normalizer) == pytest.approx(math.log(7) / 2)
    normal_only = replace(supernet.settings, reduction_layers=())
    assert mean_entropy(architecture, normal_only, normalizer) == pytest.approx(0)


def test_overlap_counts_operations_that_read_the_same_input_in_the_same_node():
    supernet, _ = tiny_supernet()
    same = Genotype(CELL, (2, 3), CELL, (2, 3))
    assert genotype_overlap(GENOTYPE, GENOTYPE, supernet.settings) == 1
    assert genotype_overlap(GENOTYPE, same, supernet.settings) == 7 / 8
    assert genotype_overlap(GENOTYPE, same, replace(supernet.settings, reduction_layers=(0, 1))) == 3 / 4
    assert genotype_overlap(GENOTYPE, same, replace(supernet.settings, reduction_layers=())) == 1
