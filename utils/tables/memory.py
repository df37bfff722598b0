"""Table of memory: peaks of adapting by way to search, beside the published ones."""

from pathlib import Path

from utils.pictures.memory_bars import draw_memory_bars
from utils.results.published import MEMORY, MEMORY_CPU, MEMORY_GPU
from utils.tables.runs import Run, Runs
from utils.tables.text import NOT_PUBLISHED, NOT_RUN, device_name, markdown_table, number, title

TITLE = "Memory"
COMMANDS = """\
python -m search_space.memory_table --path runs/memory  # every row, on images of noise
# few-shot tasks: the step-by-step row, with a meta-cell of C = 28 and 4 cells; memory needs no training
for dataset in omniglot miniimagenet; do
    python tfml.py --dataset $dataset --meta_epochs 0 --path runs/tfml_$dataset
    python onnas.py --meta_cell runs/tfml_$dataset/meta_cell.pt --dataset $dataset --n 5 --k 5 --q 1 --batch_size 15 \\
        --split_num 5 --path runs/memory_tasks/$dataset
done"""
DATASETS = ("miniimagenet", "omniglot")
TASKS = "few-shot tasks"
# The published setting, which a few-shot run must have to be put beside it.
TASK = {"ways": 5, "shots": 5, "queries": 1}
NETWORK = {"init_channels": 28, "layers": 4, "nodes": 3, "reduction_layers": [1, 3], "partial_channels": 1}
BATCH, SPLIT, CANDIDATES = 15, 5, 2
# (--search, schedule, --split_num, --beta_sampling) of each row; None: it does not matter.
WAYS = {
    "none": ("full", "ordinary", 1, None),
    "alpha": ("onnas", "ordinary", SPLIT, 0),
    "alpha + beta": ("onnas", "ordinary", SPLIT, 1),
    "alpha + beta + step-by-step": ("onnas", "fastest", SPLIT, 1),
    "the same, leanest schedule": ("onnas", "leanest", SPLIT, 1),
    "all candidates, exact": ("full", "fastest", SPLIT, None),
}


def rows(runs: Runs) -> list[dict]:
    """A row a data set and way to search; what was not run is not in its "measured"."""
    return [
        {
            "dataset": dataset,
            "way": way,
            "published_gpu_mb": MEMORY[way][dataset][0],
            "published_code_cpu_mib": MEMORY[way][dataset][1],
            "measured_mib": _measured(runs, dataset, way),
        }
        for dataset in DATASETS
        for way in MEMORY
    ]


def _measured(runs: Runs, dataset: str, way: str) -> dict[str, float]:
    """By where it was measured."""
    names = _names(runs.memory)
    found = {
        name: run.result["peaks"][title(dataset)][way]["adapting_mib"]
        for name, run in zip(names, runs.memory, strict=True)
        if way in run.result["peaks"].get(title(dataset), {})
    }
    for run in runs.few_shot:
        if run.result["dataset"] == dataset and _fits(run.result, way):
            name = f"{TASKS}, {device_name(run.result)}"
            found[name] = max(found.get(name, 0), run.result["peak_memory_mib"])
    return found


def _names(tables: list[Run]) -> list[str]:
    """The device of each memory table, with its folder where there are two of a device."""
    devices = [f"here, {device_name(run.result)}" for run in tables]
    return [
        device if devices.count(device) == 1 else f"{device}, {run.path}"
        for device, run in zip(devices, tables, strict=True)
    ]


def _fits(result: dict, way: str) -> bool:
    settings, network = result["settings"], result.get("network", {})
    search, schedule, split, one_pair = WAYS[way]
    return (
        {key: result[key] for key in TASK} == TASK
        and {key: network.get(key) for key in NETWORK} == NETWORK
        and settings.get("batch_size") == BATCH
        and (result["search"], settings.get("schedule"), settings.get("split_num")) == (search, schedule, split)
        and (one_pair is None or (settings.get("beta_sampling"), settings.get("sampleno")) == (one_pair, CANDIDATES))
    )


def sources(table: list[dict]) -> list[str]:
    """Where peaks were measured, the memory tables first."""
    found = dict.fromkeys(name for row in table for name in row["measured_mib"])
    return sorted(found, key=lambda name: name.startswith(TASKS)) or ["here"]


def as_markdown(table: list[dict]) -> str:
    names = sources(table)
    heads = ["data set", "gradient for", MEMORY_GPU, MEMORY_CPU]
    heads += [text for name in names for text in (f"{name} (MiB)", "none / this")]
    lines, whole = [], {}
    for row in table:
        if row["way"] == "none":
            whole = row["measured_mib"]
        cells = [title(row["dataset"]), row["way"]]
        cells += [number(row[key], "d", NOT_PUBLISHED) for key in ("published_gpu_mb", "published_code_cpu_mib")]
        for name in names:
            peak = row["measured_mib"].get(name)
            ratio = whole[name] / peak if peak and name in whole else None
            cells += [number(peak, ".1f", NOT_RUN), number(ratio, ".1f")]
        lines.append(cells)
    setting = "5-way 5-shot, one query a class, batches of 15 (in micro-batches of 3, but for none), C = 28, 4 cells."
    return f"{setting}\n\n{markdown_table(heads, lines)}"


def draw(table: list[dict], path: Path) -> None:
    """Draws the bar chart, a panel a data set."""
    names = sources(table)
    panels = {}
    for dataset in DATASETS:
        of_dataset = {row["way"]: row for row in table if row["dataset"] == dataset}
        series = {
            MEMORY_GPU: {way: row["published_gpu_mb"] for way, row in of_dataset.items()},
            MEMORY_CPU: {way: row["published_code_cpu_mib"] for way, row in of_dataset.items()},
        }
        for name in names:
            series[f"{name} (MiB)"] = {way: row["measured_mib"].get(name) for way, row in of_dataset.items()}
        panels[f"{title(dataset)}: peak memory of adapting"] = series
    draw_memory_bars(panels, path, absent={f"{name} (MiB)": NOT_RUN for name in names})
