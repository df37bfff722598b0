"""Table of storage: n cells against one meta-cell."""

from utils.results.published import STORAGE_RATIO
from utils.tables.runs import Runs
from utils.tables.text import NOT_RUN, few_shot_data, markdown_table, meta_cell_name, number, title

TITLE = "Storage"
COMMANDS = """\
python tfml.py --dataset omniglot --meta_epochs 0 --path runs/storage/omniglot  # untrained: training changes no size
python tfml.py --dataset miniimagenet --meta_epochs 0 --path runs/storage/miniimagenet
python tfml.py --dataset omniglot --meta_epochs 0 --cells separate --path runs/storage/metanas"""
META_CELL = "meta_cell (SHA-256)"


def rows(runs: Runs) -> list[dict]:
    """A row a meta-cell and number of ways; those that tfml.py wrote say what they were trained on."""
    table: dict[tuple, dict] = {}
    for run in [*runs.tfml, *runs.few_shot, *runs.full]:
        result, settings = run.result, run.result["settings"]
        if result.get("meta_cell_storage_mib") is None:
            continue
        trained = run in runs.tfml
        digest = result.get(META_CELL) if trained else settings.get(META_CELL)
        network = result.get("network", {})
        supernet, stored = result["supernet_storage_mib"], result["meta_cell_storage_mib"]
        row = {
            "state": "run",
            "cells": network.get("layers"),
            "init_channels": network.get("init_channels"),
            "nodes": network.get("nodes"),
            "supernet_storage_mib": supernet,
            "meta_cell_storage_mib": stored,
            "ratio": supernet / stored,
            "meta_cell": digest,
        }
        if trained:
            row["training"] = {
                "dataset": result["dataset"],
                "data": few_shot_data(result),
                "meta_epochs": result["meta_epochs"],
                "cells": settings.get("cells", "meta"),
            }
        table.setdefault((digest, supernet, stored), row)
    return list(table.values()) or [{"state": NOT_RUN}]


def as_markdown(table: list[dict]) -> str:
    heads = (
        "cells",
        "C",
        "nodes",
        "n cells (MiB)",
        "meta-cell (MiB)",
        "n cells / meta-cell",
        "meta-cell",
        "trained on",
    )
    published = ["4", "28", "3", "", "", f"about {STORAGE_RATIO} (published)", "", ""]
    note = "Parameters of the supernet, alpha and beta, as they are stored; a meta-cell is named by its SHA-256."
    return f"{note}\n\n{markdown_table(heads, [published, *map(_cells, table)])}"


def _cells(row: dict) -> list[str]:
    absent = NOT_RUN if row["state"] == NOT_RUN else ""
    training = row.get("training")
    return [
        *(number(row.get(key), "d", absent or "not recorded") for key in ("cells", "init_channels", "nodes")),
        number(row.get("supernet_storage_mib"), ".3f", absent),
        number(row.get("meta_cell_storage_mib"), ".3f", absent),
        number(row.get("ratio"), ".2f", absent),
        meta_cell_name(row.get("meta_cell")),
        "" if training is None else _training(training),
    ]


def _training(training: dict) -> str:
    """E.g. "Omniglot, complete, 400 meta-epochs"."""
    length = f"{training['meta_epochs']:,} meta-epochs" if training["meta_epochs"] else "untrained"
    kind = ", separate cells" if training["cells"] == "separate" else ""
    return f"{title(training['dataset'])}, {training['data']}, {length}{kind}"
