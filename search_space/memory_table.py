"""The paper's memory table, measured on this machine: adapting at the published setting, saver by saver.

    python -m search_space.memory_table

5-way 5-shot, one query a class, batches of 15, C = 28, 4 cells of 3 nodes; one epoch, which is two steps. The images
are noise: memory does not depend on what they show, so no data set is needed. Writes memory.md, memory.json and
memory.png into --path.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("search_space.memory_table")  # before what takes seconds to import

from pathlib import Path
from statistics import median

import torch

from models.supernet import SupernetSettings
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule, SearchSettings
from search_space.task_search import TaskSearch
from utils.draws import Draws
from utils.memory import PeakMemory
from utils.pictures.bars import draw_memory
from utils.results.published import MEMORY, MEMORY_CPU, MEMORY_GPU
from utils.run.cli import DEVICES, ArgumentParser, place, run, whole
from utils.run.device import choose_device, device_name
from utils.run.files import write_json, write_text
from utils.run.progress import progress_bar

WAYS, SHOTS, BATCH = 5, 5, 15
SHAPES = {"miniImageNet": (3, 84, 84), "Omniglot": (1, 28, 28)}
ONE_PAIR = {"sampleno": 2, "beta_sampling": True}
# What is searched. "none" takes the batch whole; the others in micro-batches of 3.
ROWS = {
    "none": {"schedule": Schedule(ORDINARY)},
    "alpha": {"sampleno": 2, "schedule": Schedule(ORDINARY, 5)},
    "alpha + beta": {**ONE_PAIR, "schedule": Schedule(ORDINARY, 5)},
    "alpha + beta + step-by-step": {**ONE_PAIR, "schedule": Schedule(FASTEST, 5)},
    "the same, leanest schedule": {**ONE_PAIR, "schedule": Schedule(LEANEST, 5)},
    "all candidates, exact": {"schedule": Schedule(FASTEST, 5)},
}


def measure(shape: tuple[int, int, int], changes: dict, seed: int, device: torch.device) -> dict:
    """Adapts to one task of noise and tests on it image by image.

    Returns:
        Peaks in MiB of adapting (with its parts by kind) and of testing, and the seconds of a step.
    """
    settings = SupernetSettings(shape[0], 28, 4, 3, (1, 3), FEW_SHOT)
    network = SearchNetwork.build(settings, WAYS, seed, device)
    rates = {"w_lr": 0.01, "alpha_lr": 0.01}
    adaptation = SearchSettings(1, 1, BATCH, **rates, transductive=False, **changes)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(WAYS * SHOTS, *shape, generator=generator).to(device)
    queries = torch.rand(WAYS, *shape, generator=generator).to(device)
    labels, query_labels = (torch.arange(len(x), device=device) % WAYS for x in (images, queries))
    search = TaskSearch(network, adaptation, Draws(seed, "memory table", 0))
    with PeakMemory(device, network.resident(), [images, labels]) as adapting:
        search.adapt(images, labels)
    with PeakMemory(device, network.resident(), [images, queries, query_labels]) as testing:
        search.classify(queries, query_labels, images)
    return {
        "adapting_mib": adapting.mib,
        "adapting_parts_mib": adapting.breakdown_mib,
        "testing_mib": testing.mib,
        "seconds_per_step": median(search.step_seconds),
    }


def as_markdown(measured: dict, device: torch.device) -> str:
    """The table: for each data set the published peaks, ours, and how many times less than ours of "none"."""
    here = "here, GPU (MiB)" if device.type == "cuda" else "here, CPU (MiB)"
    heads = [f"{name}: {column}" for name in SHAPES for column in (MEMORY_GPU, MEMORY_CPU, here, "none / this")]
    lines = [f"| gradient for | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for row in ROWS:
        cells = [row]
        for name in SHAPES:
            mib = measured[name][row]["adapting_mib"]
            published = ["" if value is None else str(value) for value in MEMORY[row][name.lower()]]
            cells += [*published, f"{mib:.1f}", f"{measured[name]['none']['adapting_mib'] / mib:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    testing = ", ".join(f"{rows['all candidates, exact']['testing_mib']:.1f} MiB ({n})" for n, rows in measured.items())
    return "\n".join([*lines, "", f"Testing image by image: {testing}."])


def draw(measured: dict, path: Path) -> None:
    """The bar chart: published peaks and ours."""
    panels = {}
    for name in SHAPES:
        gpu, cpu = ({row: MEMORY[row][name.lower()][number] for row in ROWS} for number in (0, 1))
        here = {row: measured[name][row]["adapting_mib"] for row in ROWS}
        panels[name] = {MEMORY_GPU: gpu, MEMORY_CPU: cpu, "here (MiB)": here}
    draw_memory(panels, path)


def main():
    parser = ArgumentParser(prog="search_space.memory_table", description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=place, default=Path("runs/memory"), help="folder that it is written into")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--seed", type=whole(0), default=21, help="of every random draw")
    args = parser.parse_args()
    device = choose_device(args.device)
    args.path.mkdir(parents=True, exist_ok=True)
    cells = [(name, row) for name in SHAPES for row in ROWS]
    measured = {name: {} for name in SHAPES}
    progress = progress_bar(cells, "memory", "search", 0, len(cells))
    for name, row in progress:
        progress.set_postfix_str(f"{name}, {row}")
        measured[name][row] = measure(SHAPES[name], ROWS[row], args.seed, device)
    table = as_markdown(measured, device)
    write_text(args.path / "memory.md", table + "\n")
    write_json(args.path / "memory.json", {"device": device_name(device), "seed": args.seed, "peaks": measured})
    draw(measured, args.path / "memory.png")
    print(table)


if __name__ == "__main__":
    run(main, "search_space.memory_table", "nothing was written.")
