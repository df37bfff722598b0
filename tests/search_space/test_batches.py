"""Batches and micro-batches: their sizes, and that they hold everything once."""

import pytest
import torch

from search_space.batches import batches, micro_batches, query_batches
from search_space.settings import ORDINARY, Schedule


@pytest.mark.parametrize(
    ("number", "size", "expected"),
    [
        (75, 20, [20, 20, 20, 15]),
        (25, 15, [15, 10]),
        (20, 20, [20]),
        (41, 20, [20, 21]),
        (21, 20, [21]),
        (5, 15, [5]),
        (7, 2, [2, 2, 3]),
        (2, 20, [2]),
    ],
)
def test_batches_take_a_remainder_of_one_into_their_neighbour(number, size, expected):
    order = torch.randperm(number)
    parts = batches(order, size)
    assert [len(part) for part in parts] == expected
    assert torch.equal(torch.cat(parts), order)


@pytest.mark.parametrize(
    ("number", "split_num", "smallest", "expected"),
    [
        (20, 5, 2, [4, 4, 4, 4, 4]),
        (15, 1, 2, [15]),
        (7, 3, 2, [3, 2, 2]),
        (5, 5, 2, [3, 2]),
        (3, 5, 2, [3]),
        (2, 5, 2, [2]),
        (15, 5, 3, [3, 3, 3, 3, 3]),
        (14, 5, 3, [4, 4, 3, 3]),
        (5, 5, 3, [5]),
        (3, 3, 4, [3]),
    ],
)
def test_split_num_is_lowered_so_that_no_chunk_is_too_small(number, split_num, smallest, expected):
    batch, schedule = torch.arange(number), Schedule(ORDINARY, split_num, smallest)
    parts = micro_batches(batch, schedule)
    assert [len(part) for part in parts] == expected
    assert schedule.count(number) == len(expected)
    assert torch.equal(torch.cat(list(parts)), batch)


@pytest.mark.parametrize(("ways", "queries", "size"), [(5, 1, 15), (5, 15, 15), (20, 1, 15), (3, 4, 7), (2, 5, 2)])
def test_query_batches_hold_every_class_equally_often(ways, queries, size):
    labels = (torch.arange(ways * queries) % ways)[torch.randperm(ways * queries)]
    parts = query_batches(labels, size)
    assert sorted(torch.cat(parts).tolist()) == list(range(ways * queries))
    for part in parts:
        counts = torch.bincount(labels[part], minlength=ways)
        assert (counts == counts[0]).all()
        assert len(part) <= max(size, ways)
