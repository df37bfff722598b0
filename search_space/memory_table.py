"""The paper's memory table, measured on this machine: adapting at the published setting, saver by saver.

    python -m search_space.memory_table

5-way 5-shot, one query a class, batches of 15, C = 28, 4 cells of 3 nodes; several epochs, as Adam has its state from
the second step on, and other candidates are drawn each time. The images are noise: memory does not depend on what they
show, so no data set is needed. Writes memory.json after each row, then memory.md and memory.png, into --path; the same
command goes on where it stopped, and begins anew where all is measured.
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
from utils.data.names import INPUT_SHAPES
from utils.draws import Draws
from utils.memory import PeakMemory
from utils.results.published import TITLES
from utils.results.run_files import Runs, read_memory
from utils.run.cli import DEVICES, ArgumentParser, place, run, whole
from utils.run.device import choose_device, device_name
from utils.run.files import write_json, write_text
from utils.run.progress import progress_bar
from utils.run.run_directory import lock_folder
from utils.tables import memory
from utils.tables.layout import markdown, plain

EPOCHS, WAYS, SHOTS, BATCH = 3, 5, 5, 15
SHAPES = {name: INPUT_SHAPES[name] for name in ("miniimagenet", "omniglot")}
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
    """Adapts to one task of noise and tests on it.

    Returns:
        Peaks in MiB of adapting (with its parts by kind) and of testing image by image, and the seconds of a step.
    """
    settings = SupernetSettings(shape[0], 28, 4, 3, (1, 3), FEW_SHOT)
    network = SearchNetwork.build(settings, WAYS, seed, device)
    rates = {"w_lr": 0.01, "alpha_lr": 0.01}
    adaptation = SearchSettings(EPOCHS, EPOCHS, BATCH, **rates, transductive=False, **changes)
    generator = torch.Generator().manual_seed(seed)
    images, queries = (
        torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator).to(device)
        for count in (WAYS * SHOTS, WAYS)
    )
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


def main():
    parser = ArgumentParser(prog="search_space.memory_table", description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=place, default=Path("runs/memory"), help="folder that it is written into")
    parser.add_argument("--dataset", nargs="+", choices=tuple(SHAPES), default=list(SHAPES), help="size of the images")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--seed", type=whole(0), default=21, help="of every random draw")
    args = parser.parse_args()
    device = choose_device(args.device)
    args.path.mkdir(parents=True, exist_ok=True)
    lock_folder(args.path)
    file = args.path / "memory.json"
    table = {"device": device_name(device), "seed": args.seed, "peaks": {}}
    cells = [(name, row) for name in args.dataset for row in ROWS]

    # Go on with a table of the same device and seed that lacks a row.
    before = read_memory(file) if file.exists() else table
    left = [(name, row) for name, row in cells if row not in before["peaks"].get(TITLES[name], {})]
    if left and all(before.get(key) == table[key] for key in ("device", "seed")):
        table = before
    else:
        left = cells
    progress = progress_bar(left, "memory", "search", len(cells) - len(left), len(cells))
    for name, row in progress:
        progress.set_postfix_str(f"{name}, {row}")
        table["peaks"].setdefault(TITLES[name], {})[row] = measure(SHAPES[name], ROWS[row], args.seed, device)
        write_json(file, table)

    rows = [row for row in memory.rows(Runs([], {file: table})) if TITLES[row["dataset"]] in table["peaks"]]
    columns = memory.columns(rows)
    write_text(args.path / "memory.md", markdown(columns, rows) + "\n")
    memory.draw(rows, args.path / "memory.png")
    print(plain(columns, rows))


if __name__ == "__main__":
    run(main, "search_space.memory_table", "the same command goes on where it stopped.")
