"""adapted.pt: what comes back classifies as what was saved, and what is not one is refused in a sentence."""

import copy

import pytest
import torch
from torch.nn import functional as F

from models.adapted_network import AdaptedNetwork
from models.pruned_network import PrunedNetwork
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FULL_TASK
from tests.found_network import found_network
from tests.helpers import WAYS, random_images, tiny_supernet
from utils.data.image_reader import Preparation
from utils.errors import InputError
from utils.run.files import read_tensors, write_tensors

NAMES = ("cat", "Käse", "ünit")
CELLS = {
    "normal": [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2)],
    "reduction": [("skip_connect", 0), ("avg_pool_3x3", 1), ("dil_conv_3x3", 1), ("skip_connect", 2)],
}
MADE_FROM = {"meta_cell (SHA-256)": "12ab", "network": "relaxed", "images": 15, "seed": 21, "budget": None}


def adapted(kind: str = "relaxed", **changes) -> AdaptedNetwork:
    """One whose BN has seen images."""
    supernet, architecture = tiny_supernet(**changes)
    supernet.float()
    with torch.no_grad():
        mixtures = architecture.float().mixtures(AnnealedNormalizer("softmax", 0.4, 0.0), 0.05)
    network = PrunedNetwork(supernet, mixtures) if kind == "relaxed" else found_network(supernet, mixtures, CELLS)
    with torch.no_grad():
        for seed in range(3):
            network.train()(images_of(network, seed))
    channels = supernet.settings.in_channels
    return AdaptedNetwork(network, NAMES, Preparation(channels, 6, bits=12), MADE_FROM)


def images_of(network: PrunedNetwork, seed: int = 9) -> torch.Tensor:
    return random_images(8, channels=network.supernet.settings.in_channels, seed=seed).float()


@pytest.mark.parametrize("kind", ["relaxed", "found"])
@pytest.mark.parametrize("changes", [{}, {"in_channels": 3, "init_channels": 4}, {"primitives": FULL_TASK}], ids=str)
def test_what_comes_back_classifies_alike(tmp_path, kind, changes):
    saved = adapted(kind, **changes)
    saved.save(tmp_path / "adapted.pt")
    loaded = AdaptedNetwork.load(tmp_path / "adapted.pt")
    images = images_of(saved.network)
    with torch.no_grad():  # one by one: BN must not look at the batch
        expected = torch.cat([F.softmax(saved.network.eval()(image[None]).double(), 1) for image in images])
    assert torch.equal(loaded.probabilities(images), expected)
    assert torch.equal(saved.probabilities(images), expected)
    assert loaded.class_names == NAMES
    assert loaded.preparation == saved.preparation
    assert loaded.made_from == MADE_FROM
    assert loaded.network.parameter_count == saved.network.parameter_count
    assert not any(tensor.is_meta for tensor in loaded.network.state_dict().values())


def test_file_holds_tensors_and_plain_values_and_no_more_than_the_network(tmp_path):
    saved = adapted("found")
    saved.save(tmp_path / "adapted.pt")
    values = torch.load(tmp_path / "adapted.pt", weights_only=True)
    assert sum(tensor.numel() for tensor in values["state"].values()) == sum(
        tensor.numel() for tensor in saved.network.state_dict().values()
    )


def test_no_images_have_no_probabilities():
    assert adapted().probabilities(torch.empty(0, 1, 6, 6)).shape == (0, WAYS)


def test_numbers_that_are_too_large_give_no_probabilities():
    diverged = adapted()
    diverged.network.supernet.head.bias.data.fill_(float("inf"))
    with pytest.raises(InputError, match="adapt anew"):
        diverged.probabilities(images_of(diverged.network))


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "adapted.pt"
    with pytest.raises(InputError, match="cannot read"):
        AdaptedNetwork.load(path)
    for values in ({"weight": torch.zeros(3)}, [1], {"format": 1}):
        write_tensors(path, values)
        with pytest.raises(InputError, match=r"adapted\.pt does not hold an adapted network: onnas\.py --support"):
            AdaptedNetwork.load(path)
    adapted().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short"):
        AdaptedNetwork.load(path)


def bend(values: dict, how: str) -> None:
    name = "supernet.head.weight"
    match how:
        case "key":
            del values["state"]
        case "layers":
            values["settings"]["layers"] = 64
        case "channels":
            values["settings"]["init_channels"] = 4096
        case "colour":
            values["preparation"]["channels"] = 3
        case "side":
            values["preparation"]["side"] = 10**9
        case "names":
            values["class_names"] = "abc"
        case "one class":
            values["class_names"] = ["cat"]
        case "more classes":
            values["class_names"].append("bird")
        case "tensor":
            del values["state"][name]
        case "not a tensor":
            values["state"][name] = 3
        case "type":
            values["state"][name] = values["state"][name].double()
        case "not finite":
            values["state"][name][0, 0] = torch.nan
        case "edges":
            values["active"]["normal"].pop()
        case "no edges":
            values["active"]["normal"] = [[False] * len(edge) for edge in values["active"]["normal"]]
        case "no cell type":
            del values["active"]["reduction"]
        case "active":
            values["active"] = 3
        case "state":
            values["state"] = [1]


HOWS = [
    *("key", "layers", "channels", "colour", "side", "names", "one class", "more classes", "tensor", "not a tensor"),
    *("type", "not finite", "edges", "no edges", "no cell type", "active", "state"),
]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_parts_are_refused(tmp_path, how):
    path = tmp_path / "adapted.pt"
    adapted().save(path)
    values = copy.deepcopy(read_tensors(path))
    bend(values, how)
    write_tensors(path, values)
    with pytest.raises(InputError, match=r"adapted\.pt holds a damaged network, adapt anew: .*\.$"):
        AdaptedNetwork.load(path)
