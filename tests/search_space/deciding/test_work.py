"""Expected work against multiply-accumulates counted by hand."""

import pytest
import torch

from search_space.deciding.work import Work
from search_space.primitives import FEW_SHOT
from tests.helpers import WAYS, tiny_supernet

CERTAIN = 1e4


def test_work_of_one_normal_cell_counted_by_hand():
    """One node of C = 2 channels at 6x6 pixels: S = 2."""
    supernet, _ = tiny_supernet(nodes=1, layers=1, reduction_layers=())
    work = Work(supernet.float(), (1, 6, 6))
    pixels, c = 36, 2
    assert work.fixed == pixels * 9 * c + 2 * pixels * c * c + c * WAYS
    separable = pixels * (9 * c + c * c)
    by_name = {"conv_1x5_5x1": pixels * 2 * 5 * c * c, "conv_3x3": separable, "dil_conv_3x3": separable}
    by_name["sep_conv_3x3"] = 2 * separable
    expected = [[by_name.get(name, 0) for name in FEW_SHOT] for _ in range(2)]
    assert work.candidates["normal"].tolist() == expected
    assert work.whole == work.fixed + sum(map(sum, expected))


def test_a_decided_architecture_takes_what_its_path_does():
    supernet, architecture = tiny_supernet()
    work = Work(supernet.float(), (1, 6, 6))
    conv = FEW_SHOT.index("sep_conv_3x3")
    with torch.no_grad():
        for cell_type in ("normal", "reduction"):
            for edge in range(5):
                architecture.alpha[cell_type][edge][conv] = CERTAIN
            architecture.beta[cell_type][1][2] = CERTAIN  # inputs 1 and 2: edges 3 and 4
    path = sum(work.candidates[t][e, conv].item() for t in ("normal", "reduction") for e in (0, 1, 3, 4))
    assert work.share(architecture).item() == pytest.approx((work.fixed + path) / work.whole)


def test_its_gradient_moves_alpha_away_from_what_is_costly():
    supernet, architecture = tiny_supernet()
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.zero_()
    Work(supernet.float(), (1, 6, 6)).share(architecture).backward()
    for alpha in architecture.alpha[
        "normal"
    ]:  # of two channels: 2 * (9 * 2 + 2 * 2), and 2 * 5 * 2 * 2 of conv_1x5_5x1
        assert alpha.grad.argmax() == FEW_SHOT.index("sep_conv_3x3")
        assert alpha.grad[FEW_SHOT.index("skip_connect")] < 0
