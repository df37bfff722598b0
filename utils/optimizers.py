"""Lets optimizers do without ``torch._dynamo``, torch.compile's front end, which takes 80 MiB and a second to import.

PyTorch keeps it out of some methods of ``torch.optim.Optimizer`` by a wrapper that imports it at the first call and
then remembers, in an attribute of the method, what to call in its place. Here the method itself is put there, so that
the wrapper calls it and imports nothing. torch.compile is not to go into these methods then, and never does here: what
is compiled are the passes of the network.
"""

from torch.optim import Optimizer

WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
REMEMBERED = "__dynamo_disable"


def without_dynamo() -> None:
    """Has the methods of all optimizers called as they are."""
    for name in WRAPPED:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if method is not None and getattr(method, REMEMBERED, None) is None:
            setattr(method, REMEMBERED, method)
