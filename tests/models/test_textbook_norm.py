"""A network with PyTorch's own BN gives the same in eval mode, and leaves the other one alone."""

import torch
from torch import nn

from models.batch_norm import BatchNorm
from models.derived_network import DerivedNetwork, DerivedSettings
from models.textbook_norm import with_textbook_norm
from tests.helpers import WAYS, random_images, tiny_supernet


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_copy_of_a_derived_network_gives_the_same_in_eval_mode():
    edges = (("sep_conv_3x3", 0), ("skip_connect", 1))
    network = DerivedNetwork(DerivedSettings(1, 2, 2, (1,), edges, edges, auxiliary=True), WAYS).double().eval()
    with torch.no_grad():
        for tensor in (tensor for norm in norms_of(network) for tensor in (*norm.parameters(), *norm.buffers())):
            tensor.add_(torch.arange(tensor.numel()).view_as(tensor))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    textbook = with_textbook_norm(network)
    images = random_images(3, (7, 6))
    torch.testing.assert_close(textbook(images), network(images), rtol=1e-12, atol=1e-12)
    assert {type(norm) for norm in norms_of(textbook)} == {nn.BatchNorm2d}
    assert all(parameter.is_contiguous() for parameter in textbook.parameters())
    assert textbook.state_dict().keys() == network.state_dict().keys()
    assert {type(norm) for norm in norms_of(network)} == {BatchNorm}
    textbook.train()(images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_copy_of_a_supernet_keeps_dtype_mode_and_the_lack_of_affine_parameters():
    supernet, _ = tiny_supernet()
    supernet.cells[0].eval()
    textbook = with_textbook_norm(supernet)
    for norm, own in zip(norms_of(textbook), norms_of(supernet), strict=True):
        assert (norm.affine, norm.training, norm.running_mean.dtype) == (own.affine, own.training, torch.float64)
    assert [name for name, _ in textbook.named_parameters()] == [name for name, _ in supernet.named_parameters()]
