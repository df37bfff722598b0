"""onnas.py --task full from its command line to its files, on drawn images and nets that a run takes a second for."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.derived_network import DerivedNetwork, DerivedSettings
from models.supernet import Supernet, SupernetSettings
from search_space.genotype import Genotype
from search_space.primitives import FULL_TASK
from tests.conftest import contents, rows
from tests.full_task_runs import (
    CHECKPOINTS,
    CLASSES,
    LOGS,
    PROCESS_MEMORY,
    SIDE,
    TEST,
    TIMES,
    TRAIN,
    assert_same_run,
    draw_image,
    results_of,
)
from utils.memory import KINDS

DERIVED_PEAK = {"derived_peak_memory_mib", "derived_peak_memory_breakdown_mib"}
PEAKS = {
    *("peak_memory_mib", "peak_memory_breakdown_mib", "peak_memory_test_mib"),
    *(*DERIVED_PEAK, "derived_peak_memory_test_mib"),
}
SEARCH_KEYS = {
    *("search", "accuracy", "search_epochs", "best_epoch", "validation_accuracy", "search_seconds", "seconds_per_step"),
    *("peak_memory_mib", "peak_memory_breakdown_mib", "peak_memory_test_mib", "supernet_parameters"),
    "supernet_storage_mib",
}
DERIVED_KEYS = {
    *("task", "dataset", "data", "device", "network", "classes"),
    *("derived_accuracy", "derived_accuracy_interval", "derived_confusion", "derived_parameters", "derived_macs"),
    *("derived_epochs", "derived_seconds", *DERIVED_PEAK, "derived_peak_memory_test_mib"),
    *("derived_peak_memory_inference_mib", "derived_split_num", "derived_step_by_step"),
    *("genotype", "settings", *PROCESS_MEMORY),
}
FILES = {"args.json", "results.json", "genotype.json", "genotype.txt", *LOGS, "examples.jsonl"}
PICTURED = {"report.html", "genotype.png"}


def searched_supernet(path: Path) -> Supernet:
    """The supernet as the best epoch left it."""
    state = torch.load(path / "searched.pt", weights_only=True)["state"]
    supernet = Supernet(SupernetSettings(1, 2, 2, 1, (1,), FULL_TASK), len(CLASSES))
    supernet.load_state_dict(
        {name.removeprefix("supernet."): t for name, t in state.items() if name.startswith("supernet.")}
    )
    return supernet


def derived_network(results: dict, layers: int = 2, channels: int = 2, reductions: tuple = (1,)) -> DerivedNetwork:
    """What results.json says was derived, built from that alone."""
    genotype = Genotype.from_dict(results["genotype"], "results.json")
    settings = DerivedSettings(1, channels, layers, reductions, genotype.normal, genotype.reduce)
    return DerivedNetwork(settings, len(results["classes"]))


def images_to_test(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The test set as numbers in [0, 1], (N, 1, H, W), with its labels: read and ordered here, by name."""
    files = [
        (file, label)
        for label, name in enumerate(sorted(CLASSES))
        for file in sorted((folder / "test" / name).iterdir())
    ]
    images = np.stack([np.asarray(Image.open(file)) for file, _ in files]).astype(np.float32) / 255
    return torch.from_numpy(images)[:, None], torch.tensor([label for _, label in files])


def accuracy_of(network: DerivedNetwork, folder: Path) -> float:
    """On images normalised by the mean and the standard deviation of all training pixels."""
    images, labels = images_to_test(folder)
    pixels = np.stack([np.asarray(Image.open(file)) for file in (folder / "train").rglob("*.png")]) / 255
    with torch.no_grad():
        logits = network.eval()(((images.double() - pixels.mean()) / pixels.std()).float())
    return (logits.argmax(1) == labels).sum().item() / len(labels)


# --- Files ----------------------------------------------------------------------------------------------------------


def test_files_of_a_run(whole):
    assert {name for name in contents(whole) if not name.startswith("tb/")} == FILES | PICTURED | CHECKPOINTS
    args = json.loads((whole / "args.json").read_text())
    assert (args["script"], args["task"], args["schedule"], args["split_num"]) == ("onnas.py", "full", "fastest", 1)
    assert results_of(whole)["settings"] == args
    assert Image.open(whole / "genotype.png").format == "PNG"
    genotype = Genotype.load(whole / "genotype.json")
    assert Genotype.load(whole / "genotype.txt") == genotype
    assert results_of(whole)["genotype"] == genotype.as_dict()


def test_results_sum_up_the_search(whole):
    search, results = rows(whole / "search.jsonl"), results_of(whole)
    assert set(results) == SEARCH_KEYS | DERIVED_KEYS
    confusion, (low, high) = results["derived_confusion"], results["derived_accuracy_interval"]
    right = sum(row[label] for label, row in enumerate(confusion))
    assert sum(map(sum, confusion)) == results["data"]["test_images"]
    assert low < results["derived_accuracy"] == right / results["data"]["test_images"] < high
    expected = {"task": "full", "dataset": "imagefolder", "search": "onnas", "search_epochs": 2, "device": "cpu"}
    assert {key: results[key] for key in expected} == expected
    assert results["classes"] == sorted(CLASSES)
    assert results["data"] == {"classes": 3, "train_images": 3 * TRAIN, "test_images": 3 * TEST}
    assert results["network"]["init_channels"] == 2
    assert [row["epoch"] for row in search] == [0, 1]
    assert ["validation_accuracy" in row for row in search] == [False, True]  # the first warms up
    assert (results["best_epoch"], results["validation_accuracy"]) == (1, search[1]["validation_accuracy"])
    assert results["search_seconds"] == pytest.approx(sum(row["seconds"] for row in search))
    assert results["seconds_per_step"] == search[1]["seconds_per_step"]
    assert results["peak_memory_mib"] == max(row["peak_memory_mib"] for row in search)
    assert tuple(results["peak_memory_breakdown_mib"]) == KINDS
    assert sum(results["peak_memory_breakdown_mib"].values()) == pytest.approx(results["peak_memory_mib"], rel=1e-9)
    assert 0 < results["peak_memory_test_mib"] < results["peak_memory_mib"]
    assert results["supernet_parameters"] == sum(p.numel() for p in searched_supernet(whole).parameters())
    assert results["accuracy"] * 3 * TEST == pytest.approx(round(results["accuracy"] * 3 * TEST))


def test_results_of_the_derived_network_are_those_of_one_rebuilt_from_the_files(whole, drawn):
    results, training = results_of(whole), rows(whole / "derived.jsonl")
    network = derived_network(results)
    network.load_state_dict(torch.load(whole / "derived_checkpoint.pt", weights_only=True)["state"]["network"])
    assert results["derived_parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert results["derived_accuracy"] == accuracy_of(network, drawn)
    assert [row["epoch"] for row in training] == [0, 1] == list(range(results["derived_epochs"]))
    assert results["derived_seconds"] == pytest.approx(sum(row["seconds"] for row in training))
    peak = results["derived_peak_memory_mib"]
    assert peak == max(row["peak_memory_mib"] for row in training)
    assert sum(results["derived_peak_memory_breakdown_mib"].values()) == pytest.approx(peak, rel=1e-9)
    assert 0 < results["derived_peak_memory_test_mib"] < peak


def test_it_learns(full_task, tmp_path):
    """Brightness tells the classes, so both networks are to do better than the third that chance gives."""
    flags = "--init_channels 4 --w_lr 0.05 --derived_lr 0.1 --epochs 8 --derived_epochs 6 --drop_path_prob 0"
    full_task(tmp_path / "run", *flags.split()).succeeded()
    results = results_of(tmp_path / "run")
    assert results["accuracy"] > 0.6
    assert results["derived_accuracy"] > 0.6


def test_workers_change_nothing(full_task, whole, tmp_path):
    full_task(tmp_path / "run", "--workers", 2).succeeded()
    # The meter sees when a batch arrives: with two workers one may be there before its turn.
    assert_same_run(tmp_path / "run", whole, but_for=(*TIMES, *PEAKS))


METHODS = ["random", "full", "darts --unrolled 1 --step_by_step 0", "pcdarts --init_channels 4"]


@pytest.mark.parametrize("flags", METHODS)
def test_every_method_searches(full_task, whole, tmp_path, flags):
    path = tmp_path / "run"
    full_task(path, "--derived_epochs", 0, "--search", *flags.split()).succeeded()
    results = results_of(path)
    assert results["search"] == flags.split()[0]
    assert set(results) == (SEARCH_KEYS | DERIVED_KEYS) - DERIVED_PEAK
    losses, others = ([row["loss"] for row in rows(folder / "search.jsonl")] for folder in (path, whole))
    assert len(losses) == 2
    # Until there is a history, expectation chooses uniformly as well.
    assert (losses == others) == (flags == "random")
    assert results["settings"]["schedule"] == ("ordinary" if "darts" in flags else "fastest")


# --- From a meta-cell -----------------------------------------------------------------------------------------------


def test_search_starts_from_a_meta_cell(full_task, trained, tmp_path):
    path = tmp_path / "run"
    full_task.from_meta_cell(trained / "meta_cell.pt", path, "--derived_epochs", 0, "--w_lr", 0).succeeded()
    assert set(results_of(path)) == (SEARCH_KEYS | DERIVED_KEYS | {"meta_cell_storage_mib"}) - DERIVED_PEAK
    values = torch.load(trained / "meta_cell.pt", weights_only=True)
    searched = torch.load(path / "searched.pt", weights_only=True)["state"]
    for name, tensor in values["stem"].items():  # as nothing was learnt
        assert torch.equal(searched[f"supernet.stem.{name}"], tensor)
    for name, tensor in values["cells"][0].items():
        for place in {f"supernet.cells.{layer}.{name}" for layer in range(2)} & searched.keys():
            assert torch.equal(searched[place], tensor)


def test_meta_cell_that_does_not_fit_is_refused(full_task, trained, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "colour")
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "colour" / "train" / "z" / "0.png")
    wrong = {
        ("--data_path", tmp_path / "colour"): "1 channels",
        ("--reduction_layers", 0): "--reduction_layers",
        ("--search", "metanas"): "--cells separate",
        ("--search", "pcdarts"): "--partial_channels",
    }
    for flags, named in wrong.items():
        finished = full_task.from_meta_cell(trained / "meta_cell.pt", tmp_path / "run", *flags)
        assert named in finished.complaint()
    assert not (tmp_path / "run").exists()


# --- Resuming -------------------------------------------------------------------------------------------------------


def test_killed_again_and_again_and_resumed(full_task, whole, tmp_path):
    """At the first change of a file, then at the third of the process that goes on, the fifth of the next, and so on:
    before a file is opened, renamed and removed in turn.
    """
    path, deaths = tmp_path / "run", 0
    while (finished := full_task(path, "--resume", die_at=2 * deaths + 1)).status:
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
    assert deaths > 4
    assert_same_run(path, whole)
    assert contents(path).keys() == FILES | CHECKPOINTS


def test_earlier_run_is_not_overwritten(full_task, copied, drawn, tmp_path):
    before = contents(copied)
    genotype = ("--genotype", copied / "genotype.json")
    assert "--resume" in full_task(copied).complaint()
    others = shutil.copytree(drawn, tmp_path / "others")
    draw_image(np.random.default_rng(7), 0).save(others / "train" / "z" / "0.png")
    for flags in (("--derived_lr", 0.1), genotype, ("--data_path", others)):
        assert flags[0] in full_task(copied, "--resume", *flags).complaint()
    assert contents(copied) == before


def test_few_shot_run_and_full_run_do_not_overwrite_each_other(full_task, scripts, trained, copied, tmp_path):
    """Not even where they were killed before their results."""
    cell, few_shot = trained / "meta_cell.pt", tmp_path / "few_shot"
    scripts.onnas(cell, few_shot, "--eval_epochs", 1).succeeded()
    for path in (copied, few_shot):
        (path / "results.json").unlink()
        before = contents(path)
        for resume in ((), ("--resume",)):
            other = full_task(path, *resume) if path == few_shot else scripts.onnas(cell, path, *resume)
            assert str(path) in other.complaint()
        assert contents(path) == before


def test_run_of_a_genotype_trains_it_as_the_search_did_and_goes_on_as_no_other(full_task, whole, tmp_path):
    path, genotype = tmp_path / "run", tmp_path / "genotype.json"
    shutil.copy(whole / "genotype.json", genotype)
    full_task(path, "--genotype", genotype).succeeded()
    derived = [
        {key: value for key, value in results_of(folder).items() if key.startswith("derived") and key not in TIMES}
        for folder in (path, whole)
    ]
    assert derived[0] == derived[1]
    before = contents(path)
    assert "no search.jsonl" in full_task(path, "--resume").complaint()
    other = genotype.read_text().replace('"normal": [', '"normal":[ ')  # the same genotype, but another file
    genotype.write_text(other)
    assert "--genotype" in full_task(path, "--genotype", genotype, "--resume").complaint()
    assert contents(path) == before


@pytest.mark.parametrize("name", sorted(CHECKPOINTS | LOGS))
def test_damaged_state_is_refused_by_name(full_task, copied, name):
    """A checkpoint of something else, or a log that lacks its epochs."""
    if name in LOGS:
        (copied / name).write_text("garbage\n" + (copied / name).read_text())
    else:
        torch.save({"epochs": 1, "state": {}}, copied / name)
    damaged = (copied / name).read_bytes()
    assert name in full_task(copied, "--resume").complaint(after_a_bar=True)
    assert (copied / name).read_bytes() == damaged


# --- Memory ---------------------------------------------------------------------------------------------------------

# With one cell and few ways to train, as to work out each takes its time.
LARGER = "--init_channels 16 --input_size 24 --layers 1 --reduction_layers 0 --epochs 1 --warm_up_epochs 0"
FEW_WAYS = "--derived_epochs 1 --batch_size 6 --split_num 2 --schedule leanest"


def predicted(stdout: str) -> dict[str, float]:
    return {part: float(mib) for mib, part in re.findall(r"([0-9.]+) MiB (adapting|testing|training)", stdout)}


def test_memory_is_said_beforehand_and_kept_within_a_budget(full_task, tmp_path):
    path, flags = tmp_path / "run", f"{LARGER} {FEW_WAYS}".split()
    complaint = full_task(path, *flags, "--memory_budget", 1).complaint()
    assert list(tmp_path.iterdir()) == []
    assert "--memory_budget 1 MiB" in complaint
    budget = float(re.search(r"the smallest that would do is ([0-9.]+) MiB", complaint).group(1))
    planned = predicted(full_task(path, *flags, "--memory_budget", budget).succeeded().stdout)
    results = results_of(path)
    names = {"adapting": "peak_memory_mib", "testing": "peak_memory_test_mib", "training": "derived_peak_memory_mib"}
    measured = {part: results[name] for part, name in names.items()}
    assert max(measured.values()) <= budget == results["settings"]["memory_budget"]
    for part in ("adapting", "testing"):
        assert planned[part] == pytest.approx(measured[part], rel=0.1, abs=0.05)
    assert planned["training"] > measured["training"] - 0.05  # the network that is found may be a lighter one
    before = contents(path)
    genotype = ("--genotype", path / "genotype.json")
    finished = full_task(path, "--dry_run", *flags, *genotype).succeeded()
    assert predicted(finished.stdout) == {"training": pytest.approx(measured["training"], rel=0.1, abs=0.05)}
    assert contents(path) == before
