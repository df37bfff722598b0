"""The advice when memory has run out: nothing that is in use already."""

import pytest

from search_space.flags.less_memory import less_memory

ONNAS = {"search": "onnas", "step_by_step": 1, "schedule": None, "split_num": None, "memory_budget": None, "workers": 0}
ONNAS |= {"batch_size": 15, "init_channels": None}
LEANEST = {"schedule": "leanest", "split_num": 7, "memory_budget": 20.0}
TFML = {"batch_size": 20, "tasks_at_once": 5, "workers": 2, "init_channels": 28}


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (ONNAS, "--schedule leanest or a larger --split_num or --memory_budget MIB needs less"),
        ({**ONNAS, "step_by_step": 0}, "--step_by_step 1 or a larger --split_num or --memory_budget MIB needs less"),
        ({**ONNAS, "step_by_step": 0, "search": "pcdarts"}, "a larger --split_num or --memory_budget MIB or a smaller"),
        ({**ONNAS, **LEANEST}, "a smaller --batch_size needs less"),
        ({**ONNAS, **LEANEST, "batch_size": 2}, "only a machine with more memory helps"),
        (TFML, "--tasks_at_once 1 or --workers 0 or a smaller --batch_size needs less"),
        ({**TFML, "tasks_at_once": 1, "workers": 0}, "a smaller --batch_size or a smaller --init_channels needs less"),
    ],
)
def test_only_what_is_not_in_use_is_advised(flags, advice):
    assert less_memory(flags).startswith(advice)
