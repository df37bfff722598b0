"""torchrun, but for the processes that it starts: they are forked from this one, which has imported torch already.

    tests/agent.py '{"nproc_per_node": 2, "max_restarts": 1}' tfml.py --path ...

The first argument holds changes to the launch's configuration; "is_host": whether machines meet at this one.
"""

import json
import runpy
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

DEFAULTS = {
    "min_nodes": 1,
    "max_nodes": 1,
    "nproc_per_node": 1,
    "run_id": "test",
    "rdzv_backend": "c10d",
    "rdzv_endpoint": "127.0.0.1:0",
    "max_restarts": 0,
    "monitor_interval": 0.05,
    "start_method": "fork",
}
# Seconds: until a silent machine counts as gone, and until a run goes on with fewer machines than it may have.
QUICK = {"keep_alive_interval": 1, "keep_alive_max_attempt": 4, "last_call_timeout": 3}


def work(argv: list[str]) -> None:
    sys.argv = argv
    runpy.run_path(str(Path(__file__).parent.parent / argv[0]), run_name="__main__")


if __name__ == "__main__":
    changes = json.loads(sys.argv[1])
    rendezvous = {**QUICK, "is_host": changes.pop("is_host", True)}
    config = LaunchConfig(**{**DEFAULTS, **changes}, rdzv_configs=rendezvous)
    try:
        elastic_launch(config, work)(sys.argv[2:])
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
