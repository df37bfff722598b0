"""Table of storage: n cells against one meta-cell."""

from utils.results.published import STORAGE_RATIO, TITLES
from utils.results.run_files import RunFiles, Runs
from utils.results.schema import FEW_SHOT, FULL, TFML
from utils.results.settings import META_CELL
from utils.tables.data_size import few_shot_data
from utils.tables.layout import NOT_RUN, PUBLISHED, RUN, Column, meta_cell, number, text

TITLE = "Storage"
COMMANDS = """\
python tfml.py --dataset omniglot --meta_epochs 0 --path runs/storage/omniglot  # untrained: training changes no size
python tfml.py --dataset miniimagenet --meta_epochs 0 --path runs/storage/miniimagenet
python tfml.py --dataset omniglot --meta_epochs 0 --cells separate --path runs/storage/metanas"""
NOTE = "Parameters of the supernet, alpha and beta, as they are stored; a meta-cell is named by its SHA-256."


def rows(runs: Runs) -> list[dict]:
    """What was published, and a row a meta-cell and number of ways; of those that tfml.py wrote, also the training."""
    table: dict[tuple, dict] = {}
    for run in [*runs.finished(TFML), *runs.finished(FEW_SHOT), *runs.finished(FULL)]:
        result = run.results
        if result.meta_cell_storage_mib is None or result.supernet_storage_mib is None:
            continue
        digest = result.meta_cell_sha256 if run.kind == TFML else run.settings.get(META_CELL)
        row = {
            "state": RUN,
            "cells": result.network["layers"],
            "init_channels": result.network["init_channels"],
            "nodes": result.network["nodes"],
            "supernet_storage_mib": result.supernet_storage_mib,
            "meta_cell_storage_mib": result.meta_cell_storage_mib,
            "ratio": result.supernet_storage_mib / result.meta_cell_storage_mib,
            "meta_cell": digest,
        }
        if run.kind == TFML:
            row["training"] = _training(run)
        table.setdefault((digest, result.supernet_storage_mib, result.meta_cell_storage_mib), row)
    published = {"state": PUBLISHED, "cells": 4, "init_channels": 28, "nodes": 3, "ratio": STORAGE_RATIO}
    return [published, *(table.values() or [{"state": NOT_RUN}])]


def _training(run: RunFiles) -> str:
    """E.g. "Omniglot, complete, 400 meta-epochs"."""
    result = run.results
    length = f"{result.meta_epochs:,} meta-epochs" if result.meta_epochs else "untrained"
    kind = ", separate cells" if run.settings.get("cells") == "separate" else ""
    return f"{TITLES.get(result.dataset, result.dataset)}, {few_shot_data(result)}, {length}{kind}"


def _ratio(row: dict) -> str:
    return f"about {row['ratio']} (published)" if row["state"] == PUBLISHED else number("ratio", ".2f")(row)


COLUMNS = (
    Column("cells", number("cells", "d"), "cells"),
    Column("C", number("init_channels", "d"), "C"),
    Column("nodes", number("nodes", "d"), "nodes"),
    Column("n cells (MiB)", number("supernet_storage_mib", ".3f"), "n cells (MiB)"),
    Column("meta-cell (MiB)", number("meta_cell_storage_mib", ".3f"), "meta-cell (MiB)"),
    Column("n cells / meta-cell", _ratio, "ratio"),
    Column("meta-cell", meta_cell, "meta-cell"),
    Column("trained on", text("training"), "trained on"),
)
