"""Folders of runs, written by hand: what tfml.py and onnas.py leave, in small."""

import json
from pathlib import Path

from utils.memory import KINDS

CELL, OTHER_CELL = "ab" * 32, "cd" * 32
NETWORK = {"init_channels": 28, "layers": 4, "nodes": 3, "reduction_layers": [1, 3], "partial_channels": 1}
OMNIGLOT = {"split": "test", "classes": 423, "images": 8460}
GENOTYPE = {
    "normal": [["max_pool_3x3", 0], ["conv_1x5_5x1", 1], ["dil_conv_3x3", 0], ["skip_connect", 2]],
    "normal_concat": [2, 3],
    "reduce": [["sep_conv_3x3", 0], ["conv_3x3", 1], ["max_pool_3x3", 1], ["avg_pool_3x3", 2]],
    "reduce_concat": [2, 3],
}
# 1 by 1 pixel.
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
EVIL = "<script>alert('\"1\"')</script>&amp;"  # what neither a text nor an attribute may let through

ONNAS = {"script": "onnas.py", "n": 5, "k": 5, "q": 15, "eval_epochs": 100, "epochs": 4, "warm_up_epochs": 2}
ONNAS |= {"derived_epochs": 5, "genotype": None, "seed": 21, "name": "", "layers": None}
ONNAS |= {"meta_cell (SHA-256)": CELL, "use_vinyals_split": 1, "test_task_train_steps": 10, "batch_size": 10}
ONNAS |= {"transductive": 1, "sampleno": 2, "beta_sampling": 1, "alpha_expect": 1}
ONNAS |= {"split_num": 1, "step_by_step": 0, "schedule": "ordinary"}


def breakdown(peak: float) -> dict[str, float]:
    return {kind: peak * share for kind, share in zip(KINDS, (0.1, 0.05, 0.15, 0.7, 0.0), strict=True)}


def write(folder: Path, **files: object) -> Path:
    """Writes JSON files, or JSON lines where the value is a list, by name without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        lines = isinstance(value, list)
        text = "".join(json.dumps(row) + "\n" for row in value) if lines else json.dumps(value)
        (folder / f"{name}.json{'l' if lines else ''}").write_text(text)
    return folder


def few_shot(search: str, accuracies: list[float], flags: dict | None = None, **changes) -> dict:
    """The files of a finished run of few-shot tasks.

    Args:
        flags, changes: what is not usual of its settings and of its results.
    """
    result = {"task": "fewshot", "dataset": "omniglot", "data": OMNIGLOT, "device": "cpu", "network": NETWORK}
    result |= {"search": search, "ways": 5, "shots": 5, "queries": 15, "tasks": len(accuracies)}
    result |= {"accuracy": sum(accuracies) / len(accuracies), "accuracy_before": 0.1625}
    result |= {"seconds_per_task": 2.5, "seconds_per_step": 0.125, "peak_memory_mib": 12.34}
    result |= {"peak_memory_breakdown_mib": breakdown(12.34), "peak_memory_test_mib": 2.0}
    result |= {"supernet_parameters": 23237, "supernet_storage_mib": 2.0, "meta_cell_storage_mib": 0.5}
    result |= {"genotype": GENOTYPE, **changes}
    settings = {**ONNAS, "task": "fewshot", "dataset": result["dataset"], "search": search}
    settings |= {"n": result["ways"], "k": result["shots"], "q": result["queries"], "eval_epochs": len(accuracies)}
    settings |= flags or {}
    rows = [
        {"task": task, "accuracy": accuracy, "accuracy_before": accuracy / 4, "loss": 1 - accuracy, "seconds": 2.5}
        | {"seconds_per_step": 0.125, "genotype": GENOTYPE, "predictions": [0, 1]}
        # Of the first tasks alone the memory is measured.
        | ({"peak_memory_mib": 12.25 + task, "peak_memory_breakdown_mib": breakdown(12.25 + task)} if task < 3 else {})
        for task, accuracy in enumerate(accuracies)
    ]
    return {"args": settings, "results": {**result, "settings": settings}, "tasks": rows}


def few_shot_run(folder: Path, search: str, accuracies: list[float], flags: dict | None = None, **changes) -> Path:
    """Writes the folder of :func:`few_shot`, with an image of each of two classes of a task of three."""
    query = {"image": PNG, "predicted": 1}
    shown = [{"support": [PNG, PNG], "queries": [query, query]}, {"support": [PNG], "queries": [query]}]
    examples = [{"classes": [EVIL, "images/Old_Church_Slavonic_(Cyrillic)/character07", "größe"], "shown": shown}]
    return write(folder, **few_shot(search, accuracies, flags, **changes), examples=examples)


def full_task(search: str, accuracy: float, seed: int, flags: dict | None = None, **changes) -> dict:
    """The files of a finished run of a full task; see :func:`few_shot`."""
    peaks = {"peak_memory_mib": 100.0 + seed, "peak_memory_breakdown_mib": breakdown(100.0 + seed)}
    result = {"task": "full", "dataset": "cifar10", "device": "cpu", "network": NETWORK, "classes": [EVIL, "a cat"]}
    result |= {"data": {"classes": 10, "train_images": 50_000, "test_images": 10_000}, "search": search}
    result |= {"accuracy": 0.47, "search_epochs": 4, "best_epoch": 3, "validation_accuracy": 0.4553}
    result |= {"search_seconds": 3600.0 * seed, "seconds_per_step": 0.5, **peaks}
    result |= {"derived_accuracy": accuracy, "derived_parameters": 1000 * seed, "derived_macs": 5_000_000}
    result |= {"derived_epochs": 5, "derived_seconds": 1239.8, "derived_split_num": 1, "derived_step_by_step": False}
    result |= {"derived_peak_memory_mib": 114.18, "derived_peak_memory_breakdown_mib": breakdown(114.18)}
    result |= {"genotype": GENOTYPE, **changes}
    settings = {**ONNAS, "task": "full", "dataset": result["dataset"], "search": search, "seed": seed, **(flags or {})}
    row = {"accuracy": 0.3, "seconds": 4.5, **peaks}
    searched = [{**row, "epoch": epoch, "loss": 2 - epoch / 3, "seconds_per_step": 0.5} for epoch in range(4)]
    for epoch in searched[2:]:
        epoch["validation_accuracy"] = 0.2 + 0.05 * epoch["epoch"]
    derived = [{**row, "epoch": epoch, "loss": 1.9 - epoch / 5} for epoch in range(5)]
    if settings["genotype"]:
        given = {*peaks, "search", "accuracy", "validation_accuracy", "best_epoch", "seconds_per_step"}
        given |= {"search_epochs", "search_seconds"}
        result = {key: value for key, value in result.items() if key not in given}
    return {"args": settings, "results": {**result, "settings": settings}, "search": searched, "derived": derived}


def full_run(folder: Path, search: str, accuracy: float, seed: int, flags: dict | None = None, **changes) -> Path:
    """Writes the folder of :func:`full_task`."""
    return write(folder, **full_task(search, accuracy, seed, {"path": str(folder), **(flags or {})}, **changes))


def tfml_run(folder: Path, meta_epochs: int = 250, digest: str = CELL, flags: dict | None = None, **changes) -> Path:
    """Writes the folder of a finished run of tfml.py, with a meta-test every 100 meta-epochs."""
    settings = {"script": "tfml.py", "dataset": "omniglot", "n": 5, "k": 1, "q": 15, "use_vinyals_split": 1}
    settings |= {"meta_epochs": meta_epochs, "eval_epochs": 20, "name": "", "cells": "meta", "reduction_layers": [1, 3]}
    settings |= flags or {}
    result = {"task": "tfml", "dataset": "omniglot", "device": "cpu", "network": NETWORK, "meta_epochs": meta_epochs}
    result |= {"data": {"split": "train", "classes": 1028, "images": 20_560}, "supernet_parameters": 23237}
    result |= {"supernet_storage_mib": 2.0, "meta_cell_storage_mib": 0.5, "meta_cell (SHA-256)": digest, **changes}
    rows = []
    for meta_epoch in range(meta_epochs):
        row = {"meta_epoch": meta_epoch, "train_loss": 1 / (1 + meta_epoch), "train_accuracy": meta_epoch % 5 / 4}
        row |= {"seconds": 2.5, "tasks_per_second": 4.0}
        if meta_epoch % 100 == 99:
            row |= {"test_loss": 0.25, "test_accuracy": 0.9125, "test_accuracy_ci95": 0.0213}
            row |= {"peak_memory_mib": 12.92, "peak_memory_breakdown_mib": breakdown(12.92)}
        rows.append(row)
    return write(folder, args=settings, results={**result, "settings": settings}, metrics=rows)


def unfinish(folder: Path, **lines: int) -> Path:
    """Takes the results away, and of logs, by name, all but the first so many lines."""
    (folder / "results.json").unlink()
    for name, number in lines.items():
        rows = (folder / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(rows[:number]))
    return folder
