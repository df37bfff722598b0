"""The genotype, read off by hand."""

import json

import torch

from search_space.architecture import Architecture
from search_space.genotype import read_genotype
from search_space.primitives import FULL_TASK


def test_best_pair_of_each_node_and_best_operation_but_none_of_each_edge():
    architecture = Architecture(3, 8, torch.Generator().manual_seed(0))
    best = {  # by cell type: the best candidate of the nine edges, by number; 7 is "none"
        "normal": [2, 0, 1, 3, 4, 5, 6, 0, 2],
        "reduction": [0, 1, 2, 3, 4, 5, 6, 1, 3],
    }
    with torch.no_grad():
        for kind, winners in best.items():
            for alpha, winner in zip(architecture.alpha[kind], winners, strict=True):
                alpha.zero_()
                alpha[winner] = 1.0
                alpha[7] = 2.0  # "none" is more probable still
            for beta in architecture.beta[kind]:
                beta.zero_()
        # Pairs in their order: (0, 1) (0, 2) (1, 2), and (0, 1) (0, 2) (0, 3) (1, 2) (1, 3) (2, 3).
        architecture.beta["normal"][1][2] = 1.0
        architecture.beta["normal"][2][4] = 1.0
        architecture.beta["reduction"][1][1] = 1.0
        architecture.beta["reduction"][2][5] = 1.0
    genotype = read_genotype(architecture, FULL_TASK)
    # Edges in their order: (0, 0) (1, 0), (0, 1) (1, 1) (2, 1), (0, 2) (1, 2) (2, 2) (3, 2).
    assert genotype == {
        "normal": [
            ["skip_connect", 0],
            ["max_pool_3x3", 1],
            ["sep_conv_3x3", 1],
            ["sep_conv_5x5", 2],
            ["dil_conv_5x5", 1],
            ["skip_connect", 3],
        ],
        "normal_concat": [2, 3, 4],
        "reduce": [
            ["max_pool_3x3", 0],
            ["avg_pool_3x3", 1],
            ["skip_connect", 0],
            ["sep_conv_5x5", 2],
            ["avg_pool_3x3", 2],
            ["sep_conv_3x3", 3],
        ],
        "reduce_concat": [2, 3, 4],
    }
    assert json.loads(json.dumps(genotype)) == genotype
