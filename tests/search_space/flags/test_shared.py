"""The published presets of the paper's code."""

import pytest

from search_space.flags.shared import preset

COLUMNS = ("task_train_steps", "n_train", "batch_size", "test_batch_size", "meta_batch_size")
RATES = ("w_lr", "alpha_lr", "w_meta_lr", "a_meta_lr")


@pytest.mark.parametrize(
    ("name", "shots", "sizes", "rates"),
    [
        ("in_metanas", 5, (5, 15, 20, 15, 10), (0.01, 0.01, 1.0, 0.6)),
        ("in_metanas", 1, (5, 15, 20, 5, 10), (0.01, 0.01, 1.0, 0.6)),
        ("og_metanas", 5, (5, 15, 20, 10, 10), (0.005, 0.005, 1.0, 0.6)),
        ("og_metanas", 1, (5, 15, 20, 10, 10), (0.005, 0.005, 1.0, 0.6)),
    ],
)
def test_presets(name, shots, sizes, rates):
    expected = dict(zip(COLUMNS + RATES, sizes + rates, strict=True))
    assert preset(name, "omniglot", shots) == expected


@pytest.mark.parametrize(("dataset", "name"), [("miniimagenet", "in_metanas"), ("omniglot", "og_metanas")])
def test_a_data_set_has_its_own_preset(dataset, name):
    own = preset(None, dataset, 5)
    assert own == preset(name, dataset, 5)
