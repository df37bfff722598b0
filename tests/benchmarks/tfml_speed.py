"""Tasks per second of meta-training's adaptation, against a textbook implementation.

    python -m tests.benchmarks.tfml_speed

Omniglot's shapes, 5 ways, 15 images a class, 4 cells of 3 nodes, batches of 20: four batches an epoch, for each an
architecture and a weight step. The textbook (tests/benchmarks/textbook.py) adapts one task at a time, a deep copy of
the net, by ordinary autograd with PyTorch's BN and Adam on all --threads. Ours is run in one process, on one thread and
on all, and in as many processes of one thread. All ways are run in turn, some rounds over; the table gives the median
seconds, and the median over rounds of the ratio. --breakdown: by kind of kernel, where the time of a step goes.
"""

import copy
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from statistics import median

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from models.supernet import SupernetSettings
from search_space.batches import batches
from search_space.evaluation import Start
from search_space.meta.batched_search import adapt_tasks
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from tests.benchmarks.textbook import Textbook
from utils.data.episode import Episode
from utils.run.cli import ArgumentParser, run, whole

WAYS, SUPPORT, BATCH, EPOCHS = 5, 75, 20, 5  # EPOCHS: those of a published task
SETTINGS = SearchSettings(1, 1, BATCH, 0.005, 0.005, drop_path_prob=0.2)
KINDS = {
    "convolution": ("conv",),
    "BN": ("batch_norm", "Normalise", "Mix"),
    "pool": ("pool",),
    "optimizer": ("adam",),
    "sum over pixels": ("aten::sum", "aten::mm", "aten::bmm", "aten::mean"),
    "element-wise": ("aten::mul", "aten::add", "aten::sub", "clamp_min", "threshold", "aten::div", "rsqrt", "square"),
    "copy or fill": ("aten::copy_", "aten::fill_", "aten::cat", "aten::stack"),
}


def textbook_epoch(net: Textbook, images: torch.Tensor, labels: torch.Tensor) -> Textbook:
    """Adapts a copy of the net for one epoch."""
    net = copy.deepcopy(net)
    weights = torch.optim.Adam(net.weights(), SETTINGS.w_lr, betas=(0.0, 0.999))
    architecture = torch.optim.Adam(net.architecture(), SETTINGS.alpha_lr, betas=(0.0, 0.999), weight_decay=1e-3)
    for part in batches(torch.randperm(len(labels)), BATCH):
        for optimizer in (architecture, weights):
            net.zero_grad()
            shape = (len(net.cells), len(net.cells[0].edges), len(FEW_SHOT), len(part))
            keep = (torch.rand(shape) >= SETTINGS.drop_path_prob) / (1 - SETTINGS.drop_path_prob)
            logits = net(images[part], threshold=SETTINGS.prune_threshold, keep=keep)
            F.cross_entropy(logits, labels[part]).backward()
            optimizer.step()
    return net


def kind_of(kernel: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in kernel for word in words)), "calls")


def breakdown(run_once) -> dict[str, float]:
    """The share of each kind of kernel in the time of a call."""
    run_once()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_once()
    times = Counter()
    for event in profiler.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: times[kind] / times.total() for kind in (*KINDS, "calls")}


@cache
def start(channels: int) -> Start:
    """What every task starts from."""
    network = SearchNetwork.build(SupernetSettings(1, channels, 4, 3, (1, 3), FEW_SHOT), WAYS, seed=0)
    return Start(network.state(separate=False), network, SETTINGS, seed=0)


def task_set(tasks: int) -> list[Episode]:
    """Images of noise; the queries go unused."""
    labels, images = torch.arange(SUPPORT) % WAYS, torch.rand(tasks, SUPPORT, 1, 28, 28)
    return [Episode(n, each, labels, each[:WAYS], labels[:WAYS], ("",) * WAYS) for n, each in enumerate(images)]


def ours(channels: int, tasks: int, threads: int) -> None:
    """Adapts ``tasks`` side by side for one epoch."""
    torch.set_num_threads(threads)
    adapt_tasks(start(channels), task_set(tasks), measure=False)


def textbook(net: Textbook, threads: int) -> None:
    torch.set_num_threads(threads)
    (task,) = task_set(1)
    textbook_epoch(net, task.support, task.support_labels)


def in_processes(pool: ProcessPoolExecutor, processes: int, channels: int, tasks: int) -> None:
    """``ours`` on one thread in each process of the pool, at the same time."""
    for job in [pool.submit(ours, channels, tasks, 1) for _ in range(processes)]:
        job.result()


def main():
    parser = ArgumentParser(prog="tfml_speed.py", description=__doc__.splitlines()[0])
    parser.add_argument("--init_channels", type=whole(2), nargs="*", default=[28, 8], help="C, a table each")
    parser.add_argument("--tasks_at_once", type=whole(1), nargs="*", default=[1, 2, 5], help="rows for each")
    parser.add_argument(
        "--threads",
        type=whole(1),
        default=torch.get_num_threads(),
        help="the textbook's, and ours; and as many processes of one",
    )
    parser.add_argument("--rounds", type=whole(1), default=3, help="times that each way is run")
    parser.add_argument("--breakdown", action="store_true", help="add where the time goes, measured on one thread")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.threads, multiprocessing.get_context("spawn")) as pool:
        for channels in args.init_channels:
            compare(channels, args, pool)


def compare(channels: int, args, pool: ProcessPoolExecutor) -> None:
    """Measures all ways with C ``channels`` and prints their table."""
    net, threads = Textbook(*start(channels)[1:]), args.threads
    # By name, processes and threads: the tasks of a run, and the run.
    ways = {("textbook", 1, threads): (1, partial(textbook, net, threads))}
    for tasks in args.tasks_at_once:
        name = f"tfml.py --tasks_at_once {tasks}"
        for count in sorted({1, threads}):
            ways[name, 1, count] = (tasks, partial(ours, channels, tasks, count))
        if threads > 1:
            ways[name, threads, 1] = (threads * tasks, partial(in_processes, pool, threads, channels, tasks))
    seconds = {way: [] for way in ways}
    for number in range(-1, args.rounds):  # the first round warms up
        for way, (tasks, run_once) in ways.items():
            started = time.perf_counter()
            run_once()
            if number >= 0:
                seconds[way].append((time.perf_counter() - started) / tasks)
    print(f"\nC = {channels}, median of {args.rounds}\n")
    print("| | processes | threads | seconds a task and epoch | tasks of 5 epochs a second | times the textbook |")
    print("| --- | --- | --- | --- | --- | --- |")
    baseline = seconds["textbook", 1, threads]
    for (name, processes, count), taken in seconds.items():
        ratio = median(base / one for base, one in zip(baseline, taken, strict=True))
        speed = 1 / (EPOCHS * median(taken))
        print(f"| {name} | {processes} | {count} | {median(taken):.2f} | {speed:.3f} | {ratio:.2f} |")
    if not args.breakdown:
        return
    shares = {"textbook": breakdown(partial(textbook, net, 1))}
    for tasks in args.tasks_at_once:
        shares[f"tfml.py --tasks_at_once {tasks}"] = breakdown(partial(ours, channels, tasks, 1))
    print(f"\n| share of the time, one thread | {' | '.join((*KINDS, 'calls'))} |")
    print("| --- " * (len(KINDS) + 2) + "|")
    for name, parts in shares.items():
        print(f"| {name} | {' | '.join(f'{share:.0%}' for share in parts.values())} |")


if __name__ == "__main__":
    run(main, "tfml_speed.py", "nothing was written.")
