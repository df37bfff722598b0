"""The paper's memory table, measured on this machine: adapting at the published setting, saver by saver.

    python -m search_space.memory_table

5-way 5-shot, one query a class, batches of 15, C = 28, 4 cells of 3 nodes; one epoch, which is two steps. The images
are noise: memory does not depend on what they show, so no data set is needed. Writes memory.md, memory.json and
memory.png into --path.
"""

from pathlib import Path
from statistics import median

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.supernet import SupernetSettings
from search_space.build import build_supernet
from search_space.primitives import FEW_SHOT
from search_space.task_search import FASTEST, LEANEST, ORDINARY, SearchSettings, TaskSearch
from utils.cli import ArgumentParser, folder, run, whole
from utils.device import CHOICES, choose_device
from utils.files import replacing, write_json
from utils.memory import PeakMemory
from utils.progress import progress_bar

WAYS, SHOTS, BATCH = 5, 5, 15
SHAPES = {"miniImageNet": (3, 84, 84), "Omniglot": (1, 28, 28)}
PUBLISHED_GPU = "paper, GPU (MB)"
PUBLISHED_CPU = "its code, CPU (MiB)"
ONE_PAIR = {"sampleno": 2, "beta_sampling": True}
# What is searched, and the peaks published for it (miniImageNet, Omniglot). "none" takes the batch whole; the others in
# micro-batches of 3.
ROWS = {
    "none": ({"split_num": 1, "schedule": ORDINARY}, (5168, 561), (4976, 566)),
    "alpha": ({"sampleno": 2, "schedule": ORDINARY}, (352, 53), (297, 42)),
    "alpha + beta": ({**ONE_PAIR, "schedule": ORDINARY}, (320, 36), (None, None)),
    "alpha + beta + step-by-step": ({**ONE_PAIR, "schedule": FASTEST}, (243, 26), (261, 38)),
    "the same, leanest schedule": ({**ONE_PAIR, "schedule": LEANEST}, (None, None), (None, None)),
    "all candidates, exact": ({"schedule": FASTEST}, (None, None), (None, None)),
}


def measure(shape: tuple[int, int, int], changes: dict, seed: int, device: torch.device) -> dict:
    """Adapts to one task of noise and tests on it image by image.

    Returns:
        Peaks in MiB of adapting (with its parts by kind) and of testing, and the seconds of a step.
    """
    network = SupernetSettings(shape[0], 28, 4, 3, (1, 3), FEW_SHOT)
    supernet, architecture = build_supernet(network, WAYS, seed, device)
    settings = SearchSettings(
        epochs=1,
        architecture_epochs=1,
        batch_size=BATCH,
        w_lr=0.01,
        alpha_lr=0.01,
        transductive=False,
        **{"split_num": 5, **changes},
    )
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(WAYS * SHOTS, *shape, generator=generator).to(device)
    queries = torch.rand(WAYS, *shape, generator=generator).to(device)
    labels, query_labels = (torch.arange(len(x), device=device) % WAYS for x in (images, queries))
    search = TaskSearch(supernet, architecture, settings, seed, "memory table", 0)
    with PeakMemory(device, search.resident(), [images, labels]) as adapting:
        search.adapt(images, labels)
    with PeakMemory(device, search.resident(), [images, queries, query_labels]) as testing:
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
    heads = [f"{name}: {column}" for name in SHAPES for column in (PUBLISHED_GPU, PUBLISHED_CPU, here, "none / this")]
    lines = [f"| gradient for | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for row, (_, gpu, cpu) in ROWS.items():
        cells = [row]
        for number, name in enumerate(SHAPES):
            mib = measured[name][row]["adapting_mib"]
            published = ["" if value is None else str(value) for value in (gpu[number], cpu[number])]
            cells += [*published, f"{mib:.1f}", f"{measured[name]['none']['adapting_mib'] / mib:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    testing = ", ".join(f"{rows['all candidates, exact']['testing_mib']:.1f} MiB ({n})" for n, rows in measured.items())
    return "\n".join([*lines, "", f"Testing image by image: {testing}."])


def draw(measured: dict, path: Path) -> None:
    """The bar chart: published peaks and ours, on a logarithmic axis."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, axes) in enumerate(zip(SHAPES, figure.subplots(1, len(SHAPES), squeeze=False)[0], strict=True)):
        series = {
            PUBLISHED_GPU: [gpu[number] for _, gpu, _ in ROWS.values()],
            PUBLISHED_CPU: [cpu[number] for _, _, cpu in ROWS.values()],
            "here (MiB)": [measured[name][row]["adapting_mib"] for row in ROWS],
        }
        for offset, (label, values) in enumerate(series.items()):
            places = [place + 0.27 * (1 - offset) for place in range(len(ROWS))]
            bars = axes.barh(places, [value or 0 for value in values], height=0.25, label=label)
            axes.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], padding=2, fontsize=7)
        axes.set(title=f"{name}: peak memory of adapting", xscale="log", xlim=(1, 20000))
        axes.set_yticks(range(len(ROWS)), list(ROWS) if number == 0 else [""] * len(ROWS))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main():
    parser = ArgumentParser(prog="memory_table.py", description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=folder, default=Path("runs/memory"), help="folder that it is written into")
    parser.add_argument("--device", choices=CHOICES, default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--seed", type=whole(0), default=21, help="of every random draw")
    args = parser.parse_args()
    device = choose_device(args.device)
    args.path.mkdir(parents=True, exist_ok=True)
    cells = [(name, row) for name in SHAPES for row in ROWS]
    measured = {name: {} for name in SHAPES}
    progress = progress_bar(cells, "memory", "search", 0, len(cells))
    for name, row in progress:
        progress.set_postfix_str(f"{name}, {row}")
        measured[name][row] = measure(SHAPES[name], ROWS[row][0], args.seed, device)
    table = as_markdown(measured, device)
    with replacing(args.path / "memory.md") as temporary:
        temporary.write_text(table + "\n")
    write_json(args.path / "memory.json", measured)
    draw(measured, args.path / "memory.png")
    print(table)


if __name__ == "__main__":
    run(main, "memory_table.py", "nothing was written.")
