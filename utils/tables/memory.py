"""Table of memory: peaks of a task by way to search, beside the published ones."""

from pathlib import Path

from utils.pictures.bars import draw_memory
from utils.results.published import MEMORY, MEMORY_CPU, MEMORY_GPU, TITLES
from utils.results.run_files import Runs
from utils.tables.layout import NOT_PUBLISHED, NOT_RUN, Column, dataset, device, text

TITLE = "Memory"
COMMANDS = "python -m search_space.memory_table --path runs/memory  # every row, on images of noise"
DATASETS = ("miniimagenet", "omniglot")
NOTE = "5-way 5-shot, one query a class, batches of 15 (in micro-batches of 3, but for none), C = 28, 4 cells."


def rows(runs: Runs) -> list[dict]:
    """A row a data set and way to search; what was not run is not in its "measured_mib"."""
    table = []
    for name in DATASETS:
        measured = {way: _measured(runs, name, way) for way in MEMORY}
        for way, peaks in measured.items():
            gpu, cpu = MEMORY[way][name]
            whole = measured["none"]
            ratios = {where: whole[where] / peak for where, peak in peaks.items() if peak and where in whole}
            row = {"dataset": name, "way": way, "published_gpu_mb": gpu, "published_code_cpu_mib": cpu}
            table.append({**row, "measured_mib": peaks, "none_over_this": ratios})
    return table


def _measured(runs: Runs, name: str, way: str) -> dict[str, float]:
    """Peaks in MiB of adapting or of testing, whichever is larger, by where they were measured."""
    places = [f"here, {device(table)}" for table in runs.memory.values()]
    found = {}
    for place, (path, table) in zip(places, runs.memory.items(), strict=True):
        peaks = table["peaks"].get(TITLES[name], {})
        if way in peaks:  # two tables of a device are told apart by their folders
            name_of_place = place if places.count(place) == 1 else f"{place}, {path.parent}"
            found[name_of_place] = max(peaks[way]["adapting_mib"], peaks[way]["testing_mib"])
    return found


def sources(table: list[dict]) -> list[str]:
    """Where peaks were measured."""
    return list(dict.fromkeys(name for row in table for name in row["measured_mib"])) or ["here"]


def columns(table: list[dict]) -> list[Column]:
    """Two for each place where peaks were measured, behind the published ones."""

    def published(key: str):
        return lambda row: NOT_PUBLISHED if row[key] is None else str(row[key])

    def peak(name: str):
        return lambda row: f"{row['measured_mib'][name]:.1f}" if name in row["measured_mib"] else NOT_RUN

    def ratio(name: str):
        return lambda row: f"{row['none_over_this'][name]:.1f}" if name in row["none_over_this"] else ""

    shown = [
        Column("data set", dataset, "data set"),
        Column("gradient for", text("way"), "gradient for"),
        Column(MEMORY_GPU, published("published_gpu_mb"), "paper (MB)"),
        Column(MEMORY_CPU, published("published_code_cpu_mib"), "its code (MiB)"),
    ]
    for name in sources(table):
        shown += [
            Column(f"{name} (MiB)", peak(name), f"{name} (MiB)"),
            Column("none / this", ratio(name), "none / this"),
        ]
    return shown


def draw(table: list[dict], path: Path) -> None:
    """Draws the bar chart, a panel a data set."""
    names = sources(table)
    panels = {}
    for name in dict.fromkeys(row["dataset"] for row in table):
        by_way = {row["way"]: row for row in table if row["dataset"] == name}
        panels[TITLES[name]] = {
            MEMORY_GPU: {way: row["published_gpu_mb"] for way, row in by_way.items()},
            MEMORY_CPU: {way: row["published_code_cpu_mib"] for way, row in by_way.items()},
            **{f"{here} (MiB)": {way: row["measured_mib"].get(here) for way, row in by_way.items()} for here in names},
        }
    draw_memory(panels, path, absent={f"{name} (MiB)": NOT_RUN for name in names})
