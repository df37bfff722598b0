"""Folders of runs, written by hand: what tfml.py and onnas.py leave, in small."""

import json
from pathlib import Path

import torch

from utils.memory import KINDS
from utils.results.examples import example_of

GENOTYPE = {
    "normal": [["max_pool_3x3", 0], ["conv_1x5_5x1", 1], ["dil_conv_3x3", 0], ["skip_connect", 2]],
    "normal_concat": [2, 3],
    "reduce": [["sep_conv_3x3", 0], ["conv_3x3", 1], ["max_pool_3x3", 1], ["avg_pool_3x3", 2]],
    "reduce_concat": [2, 3],
}
EVIL = "<script>alert('\"1\"')</script>&amp;"  # what neither a text nor an attribute may let through


def breakdown(peak: float) -> dict[str, float]:
    return {kind: peak * share for kind, share in zip(KINDS, (0.1, 0.05, 0.15, 0.7, 0.0), strict=True)}


def write(path: Path, **files) -> Path:
    """Writes each value as the file of its name, a list as JSON lines."""
    path.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        if isinstance(value, list):
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in value))
        else:
            (path / f"{name}.json").write_text(json.dumps(value))
    return path


def few_shot_run(path: Path, tasks: int = 6, finished: bool = True, **changes) -> Path:
    """A run of onnas.py on few-shot tasks; ``changes`` are of its settings."""
    settings = {"script": "onnas.py", "task": "fewshot", "dataset": "omniglot", "search": "onnas", "name": ""}
    settings |= {"n": 3, "k": 2, "q": 2, "eval_epochs": 6, "w_lr": 0.005, "layers": None, **changes}
    draw = torch.Generator().manual_seed(0)
    accuracies = [0.5, 0.75, 1.0, 0.625, 0.875, 0.25][:tasks]
    rows = [
        {"task": task, "accuracy": accuracy, "accuracy_before": accuracy / 4, "loss": 1 - accuracy}
        # Of the first tasks alone the memory is measured.
        | ({"peak_memory_mib": 12.25 + task, "peak_memory_breakdown_mib": breakdown(12.25 + task)} if task < 3 else {})
        for task, accuracy in enumerate(accuracies)
    ]

    def images(number: int) -> list[torch.Tensor]:
        labels = torch.arange(3).repeat_interleave(number)
        return [torch.rand(1, 3 * number, 1, 28, 28, generator=draw), labels[None]]

    batch = {"support": images(2), "query": images(2)}
    names = [EVIL, "images_evaluation/Old_Church_Slavonic_(Cyrillic)/character07", "größe"]
    examples = [example_of(batch, [0, 1, 1, 2, 2, 2], names)]
    write(path, args=settings, tasks=rows, examples=examples)
    if finished:
        figures = {
            "task": "fewshot",
            "tasks": 6,
            "accuracy": 0.66667,
            "accuracy_ci95": 0.2192,
            "accuracy_before": 1 / 6,
        }
        figures |= {"seconds_per_task": 6.1592, "seconds_per_step": 0.4028, "peak_memory_mib": 17.25}
        figures |= {"peak_memory_breakdown_mib": breakdown(17.25), "peak_memory_test_mib": 2.4028}
        figures |= {"supernet_parameters": 23237, "supernet_storage_mib": 0.0892, "meta_cell_storage_mib": 0.04635}
        write(path, results=figures | {"genotype": GENOTYPE, "settings": settings})
    return path


def full_task_run(path: Path, finished: bool = True, **changes) -> Path:
    """A run of onnas.py on a full task; ``changes`` are of its settings."""
    settings = {"script": "onnas.py", "task": "full", "dataset": "imagefolder", "search": "full", "name": EVIL}
    settings |= {"epochs": 4, "derived_epochs": 3, "genotype": None, "data_path (SHA-256)": 64 * "b", **changes}
    peaks = {"peak_memory_mib": 506.64, "peak_memory_breakdown_mib": breakdown(506.64)}
    search = [{"epoch": epoch, "loss": 2 - epoch / 3, "accuracy": 0.2 + epoch / 10, **peaks} for epoch in range(4)]
    for row in search[2:]:
        row["validation_accuracy"] = row["accuracy"] - 0.05
    derived = [{"epoch": epoch, "loss": 1.9 - epoch / 3, "accuracy": 0.3 + epoch / 10, **peaks} for epoch in range(3)]
    if not finished:
        return write(path, args=settings, search=search[:3])
    figures = {
        "task": "full",
        "classes": [EVIL, "a cat", "größe"],
        "accuracy": 0.47,
        "search_epochs": 4,
        "best_epoch": 3,
    }
    figures |= {"validation_accuracy": 0.4553, "search_seconds": 538.93, "seconds_per_step": 1.8676, **peaks}
    figures |= {"peak_memory_test_mib": 20.948, "supernet_parameters": 46450, "derived_accuracy": 0.503}
    figures |= {"derived_parameters": 7074, "derived_macs": 3318512, "derived_epochs": 3, "derived_seconds": 1239.8}
    figures |= {"derived_peak_memory_mib": 114.18, "derived_peak_memory_breakdown_mib": breakdown(114.18)}
    figures |= {"genotype": GENOTYPE, "settings": settings}
    return write(path, args=settings, search=search, derived=derived, results=figures)


def tfml_run(path: Path, meta_epochs: int = 250, **changes) -> Path:
    """A run of tfml.py of 250 meta-epochs in all; ``changes`` are of its settings."""
    settings = {"script": "tfml.py", "dataset": "synthetic", "n": 5, "k": 1, "q": 15, "reduction_layers": [1, 3]}
    settings |= {"meta_epochs": 250, "eval_epochs": 20, "name": "", **changes}
    rows = []
    for meta_epoch in range(meta_epochs):
        row = {"meta_epoch": meta_epoch, "train_loss": 1 / (1 + meta_epoch), "train_accuracy": meta_epoch % 5 / 4}
        row |= {"seconds": 2.5, "tasks_per_second": 4.0}
        if meta_epoch % 100 == 99:
            row |= {"test_loss": 0.25, "test_accuracy": 0.9125, "test_accuracy_ci95": 0.0213}
            row |= {"peak_memory_mib": 12.92, "peak_memory_breakdown_mib": breakdown(12.92)}
        rows.append(row)
    return write(path, args=settings, metrics=rows)
