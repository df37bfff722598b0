"""onnas.py --task full from its command line to its files, on drawn images and nets that a run takes a second for."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.derived_network import DerivedNetwork, DerivedSettings
from models.search_cell import Mixture, edge_list
from models.supernet import Supernet, SupernetSettings
from search_space.genotype import Genotype
from search_space.primitives import FULL_TASK
from tests.conftest import PLAIN, Finished, Scripts, contents, fill, rows, wait_for
from utils.memory import KINDS

PROCESS_MEMORY = ("process_memory_mib", "process_memory_anonymous_mib")
TIMES = ("seconds", "seconds_per_step", "search_seconds", "derived_seconds", *PROCESS_MEMORY)
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
LOGS = {"search.jsonl", "derived.jsonl"}
PICTURED = {"report.html", "genotype.png", "examples.jsonl"}
FILES = {"args.json", "results.json", "genotype.json", "genotype.txt", *PICTURED, *LOGS}
CHECKPOINTS = {"checkpoint.pt", "searched.pt", "derived_checkpoint.pt"}

CLASSES = ("a cat", "größe", "z")
TRAIN, TEST, SIDE = 12, 4, 12  # images of a class, pixels
NETWORK = "--init_channels 2 --layers 2 --nodes 1"
EPOCHS = "--epochs 2 --warm_up_epochs 1 --derived_epochs 2"


def draw_image(draws: np.random.Generator, label: int, side: int = SIDE) -> Image.Image:
    """Grey noise, brighter from class to class."""
    return Image.fromarray((draws.integers(0, 60, (side, side)) + 60 * label).astype(np.uint8))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder of grey images. Not to be written to."""
    folder, draws = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for part, number in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for image in range(number):
                draw_image(draws, label).save(folder / part / name / f"{image}.png")
    return folder


class FullTask:
    """Starts onnas.py --task full on the drawn images; later flags beat earlier ones."""

    def __init__(self, scripts: Scripts, images: Path):
        self.scripts, self._images = scripts, images

    def flags(self, path: Path, *flags: object) -> list:
        task = f"--task full --dataset imagefolder --device cpu --batch_size 9 {NETWORK} {EPOCHS} {PLAIN}"
        return [*task.split(), "--data_path", self._images, "--path", path, *flags]

    def from_meta_cell(self, meta_cell: Path, path: Path, *flags: object):
        flags = ["--meta_cell", meta_cell, *self.flags(path, *flags)]
        for flag in ("--init_channels", "--layers", "--nodes"):
            del flags[flags.index(flag) : flags.index(flag) + 2]
        return self.scripts.run("onnas.py", *flags)

    def __call__(self, path: Path, *flags: object, die_at: int = 0):
        return self.scripts.run("onnas.py", *self.flags(path, *flags), die_at=die_at)

    def start(self, path: Path, *flags: object) -> int:
        return self.scripts.start("onnas.py", *self.flags(path, *flags))


@pytest.fixture(scope="session")
def full_task(scripts, drawn) -> FullTask:
    return FullTask(scripts, drawn)


@pytest.fixture(scope="session")
def whole(full_task, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run. Not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    full_task(path).succeeded()
    return path


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of that run's folder."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def files_of(path: Path) -> set[str]:
    """The names of a run's files, but for TensorBoard's."""
    return {name for name in contents(path) if not name.startswith("tb/")}


def results_of(path: Path) -> dict:
    return json.loads((path / "results.json").read_text())


def without(path: Path, keys: tuple[str, ...]) -> dict:
    """results.json without some keys and the flags, the logs without these keys, and the genotype."""
    results = {key: value for key, value in results_of(path).items() if key not in (*keys, "settings")}
    logs = [rows(path / name, without=keys) for name in sorted(LOGS) if (path / name).exists()]
    return {**results, "logs": logs, "genotype.json": (path / "genotype.json").read_text()}


def same_tensors(first: object, second: object) -> bool:
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_tensors(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_tensors, first, second))
    return first == second


def assert_same_run(path: Path, expected: Path, but_for: tuple[str, ...] = TIMES) -> None:
    """The same but for times, bit for bit."""
    assert without(path, but_for) == without(expected, but_for)
    for name in CHECKPOINTS:
        if (expected / name).exists():
            first, second = (torch.load(folder / name, weights_only=True) for folder in (path, expected))
            assert same_tensors(first, second), name


def searched_supernet(path: Path) -> dict[str, torch.Tensor]:
    """The weights that the best epoch left."""
    state = torch.load(path / "searched.pt", weights_only=True)["state"]
    return {name.removeprefix("supernet."): tensor for name, tensor in state.items() if name.startswith("supernet.")}


def last_line(finished: Finished) -> str:
    """Of a script that refuses when it has already shown a progress bar."""
    assert finished.status == 2, finished.stderr
    assert "Traceback" not in finished.stderr, finished.stderr
    assert finished.stderr.count("error:") == 1
    return finished.stderr.splitlines()[-1]


# --- Files ----------------------------------------------------------------------------------------------------------


def derived_network(results: dict, layers: int = 2, channels: int = 2, reductions: tuple = (1,)) -> DerivedNetwork:
    """What results.json says was derived, built from that alone."""
    genotype = Genotype.from_dict(results["genotype"], "results.json")
    settings = DerivedSettings(1, channels, layers, reductions, genotype.normal, genotype.reduce)
    return DerivedNetwork(settings, len(results["classes"]))


def test_images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The test set as numbers in [0, 1], (N, 1, H, W), with its labels: read and ordered here, by name."""
    files = [
        (file, label)
        for label, name in enumerate(sorted(CLASSES))
        for file in sorted((folder / "test" / name).iterdir())
    ]
    images = np.stack([np.asarray(Image.open(file)) for file, _ in files]).astype(np.float32) / 255
    return torch.from_numpy(images)[:, None], torch.tensor([label for _, label in files])


test_images.__test__ = False


def normalised(images: torch.Tensor, folder: Path) -> torch.Tensor:
    """By the mean and the standard deviation of all training pixels."""
    pixels = np.stack([np.asarray(Image.open(file)) for file in (folder / "train").rglob("*.png")]) / 255
    return ((images.double() - pixels.mean()) / pixels.std()).float()


def accuracy_of(network, folder: Path) -> float:
    images, labels = test_images(folder)
    with torch.no_grad():
        logits = network.eval()(normalised(images, folder))
    return (logits.argmax(1) == labels).sum().item() / len(labels)


def test_files_of_a_run(whole):
    assert files_of(whole) == FILES | CHECKPOINTS
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
    assert {key: results[key] for key in ("task", "dataset", "search", "classes", "search_epochs")} == {
        "task": "full",
        "dataset": "imagefolder",
        "search": "onnas",
        "classes": sorted(CLASSES),
        "search_epochs": 2,
    }
    number = len(CLASSES)
    assert results["data"] == {"classes": number, "train_images": number * TRAIN, "test_images": number * TEST}
    assert (results["device"], results["network"]["init_channels"]) == ("cpu", 2)
    assert [row["epoch"] for row in search] == [0, 1]
    assert ["validation_accuracy" in row for row in search] == [False, True]  # the first warms up
    assert (results["best_epoch"], results["validation_accuracy"]) == (1, search[1]["validation_accuracy"])
    assert results["search_seconds"] == pytest.approx(sum(row["seconds"] for row in search))
    assert results["seconds_per_step"] == search[1]["seconds_per_step"]
    assert results["peak_memory_mib"] == max(row["peak_memory_mib"] for row in search)
    assert tuple(results["peak_memory_breakdown_mib"]) == KINDS
    assert sum(results["peak_memory_breakdown_mib"].values()) == pytest.approx(results["peak_memory_mib"], rel=1e-9)
    assert 0 < results["peak_memory_test_mib"] < results["peak_memory_mib"]
    supernet = Supernet(SupernetSettings(1, 2, 2, 1, (1,), FULL_TASK), len(CLASSES))
    assert results["supernet_parameters"] == sum(parameter.numel() for parameter in supernet.parameters())
    assert results["accuracy"] * TEST * len(CLASSES) == pytest.approx(round(results["accuracy"] * TEST * len(CLASSES)))


def test_results_of_the_derived_network_are_those_of_one_rebuilt_from_the_files(whole, drawn):
    results, training = results_of(whole), rows(whole / "derived.jsonl")
    network = derived_network(results)
    network.load_state_dict(torch.load(whole / "derived_checkpoint.pt", weights_only=True)["state"]["network"])
    assert results["derived_parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert results["derived_accuracy"] == accuracy_of(network, drawn)
    macs = []

    def count(module, arguments, output):
        macs.append(output[0].numel() * module.weight[0].numel() if output.dim() > 2 else module.weight.numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, SIDE, SIDE))
    assert 0.3 * results["derived_macs"] <= sum(macs) <= results["derived_macs"]  # the cells' inputs call no module
    assert [row["epoch"] for row in training] == [0, 1] == list(range(results["derived_epochs"]))
    assert results["derived_seconds"] == pytest.approx(sum(row["seconds"] for row in training))
    assert results["derived_peak_memory_mib"] == max(row["peak_memory_mib"] for row in training)
    assert sum(results["derived_peak_memory_breakdown_mib"].values()) == pytest.approx(
        results["derived_peak_memory_mib"], rel=1e-9
    )
    assert 0 < results["derived_peak_memory_test_mib"] < results["derived_peak_memory_mib"]


def test_it_learns(full_task, tmp_path):
    """Brightness tells the classes, so both networks are to do better than the third that chance gives."""
    flags = "--init_channels 4 --w_lr 0.05 --derived_lr 0.1 --epochs 10 --derived_epochs 10 --drop_path_prob 0"
    full_task(tmp_path / "run", *flags.split()).succeeded()
    results = results_of(tmp_path / "run")
    assert results["accuracy"] > 0.6
    assert results["derived_accuracy"] > 0.6


def test_workers_change_nothing(full_task, whole, tmp_path):
    full_task(tmp_path / "run", "--workers", 2).succeeded()
    # The meter sees when a batch arrives: with two workers one may be there before its turn.
    assert_same_run(tmp_path / "run", whole, but_for=(*TIMES, *PEAKS))


# --- Methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        "--search random",
        "--search full",
        "--search metanas",
        "--search darts",
        "--search darts --unrolled 1 --step_by_step 0",
        "--search pcdarts --init_channels 4",
    ],
)
def test_every_method_searches(full_task, whole, tmp_path, flags):
    path = tmp_path / "run"
    full_task(path, "--derived_epochs", 0, *flags.split()).succeeded()
    results = results_of(path)
    assert results["search"] == flags.split()[1]
    assert set(results) == (SEARCH_KEYS | DERIVED_KEYS) - DERIVED_PEAK
    losses, others = ([row["loss"] for row in rows(folder / "search.jsonl")] for folder in (path, whole))
    assert len(losses) == 2
    # Until there is a history, expectation chooses uniformly as well.
    assert (losses == others) == ("random" in flags)
    assert results["settings"]["schedule"] == ("ordinary" if "0" in flags or "pcdarts" in flags else "fastest")


# --- From a meta-cell -----------------------------------------------------------------------------------------------


def test_search_starts_from_a_meta_cell(full_task, trained, tmp_path):
    path = tmp_path / "run"
    full_task.from_meta_cell(trained / "meta_cell.pt", path, "--derived_epochs", 0, "--w_lr", 0).succeeded()
    results = results_of(path)
    assert set(results) == (SEARCH_KEYS | DERIVED_KEYS | {"meta_cell_storage_mib"}) - DERIVED_PEAK
    values = torch.load(trained / "meta_cell.pt", weights_only=True)
    searched = searched_supernet(path)
    for name, tensor in values["stem"].items():  # as nothing was learnt
        assert torch.equal(searched[f"stem.{name}"], tensor)
    for layer in range(2):
        for name, tensor in values["cells"][0].items():
            if f"cells.{layer}.{name}" in searched:
                assert torch.equal(searched[f"cells.{layer}.{name}"], tensor)


def test_meta_cell_that_does_not_fit_is_refused(full_task, trained, drawn, tmp_path):
    meta_cell, path = trained / "meta_cell.pt", tmp_path / "run"

    def refusal(*flags: object) -> str:
        complaint = full_task.from_meta_cell(meta_cell, path, *flags).complaint()
        assert not path.exists()
        return complaint

    shutil.copytree(drawn, tmp_path / "colour")
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "colour" / "train" / "z" / "0.png")
    assert "1 channels" in refusal("--data_path", tmp_path / "colour")
    assert "--reduction_layers" in refusal("--reduction_layers", 0)
    assert "--cells separate" in refusal("--search", "metanas")
    assert "--partial_channels" in refusal("--search", "pcdarts")


# --- Resuming -------------------------------------------------------------------------------------------------------


def test_killed_again_and_again_and_resumed(full_task, whole, tmp_path):
    """At the first change of a file, then at the third of the process that goes on, the fifth of the next, and so on:
    before a file is opened, renamed and removed in turn.
    """
    path, deaths = tmp_path / "run", 0
    while True:
        finished = full_task(path, "--resume", die_at=2 * deaths + 1)
        if finished.status == 0:
            break
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
    assert deaths > 8
    assert_same_run(path, whole)
    assert files_of(path) == FILES | CHECKPOINTS


def test_interrupted_by_the_keyboard(full_task, whole, tmp_path):
    path = tmp_path / "run"
    pid = full_task.start(path)
    wait_for(lambda: (path / "checkpoint.pt").exists())
    full_task.scripts.send_signal(pid, signal.SIGINT)
    finished = full_task.scripts.wait(pid)
    assert finished.status == 130
    assert "Traceback" not in finished.stderr
    assert "--resume" in finished.stderr.splitlines()[-1]
    full_task(path, "--resume").succeeded()
    assert_same_run(path, whole)


def test_resuming_what_is_whole_changes_nothing(full_task, whole, copied):
    full_task(copied, "--resume").succeeded()
    assert_same_run(copied, whole)


def test_earlier_run_is_not_overwritten(full_task, copied, drawn, tmp_path):
    before = contents(copied)
    genotype = ("--genotype", copied / "genotype.json")
    assert "--resume" in full_task(copied).complaint()
    assert "--resume" in full_task(copied, *genotype).complaint()
    for flags in (("--seed", 22), ("--search", "full"), ("--epochs", 3), ("--derived_lr", 0.1)):
        assert flags[0] in full_task(copied, "--resume", *flags).complaint()
    assert "--genotype" in full_task(copied, "--resume", *genotype).complaint()
    others = tmp_path / "others"
    shutil.copytree(drawn, others)
    draw_image(np.random.default_rng(7), 0).save(others / "train" / "z" / "0.png")
    assert "--data_path" in full_task(copied, "--resume", "--data_path", others).complaint()
    assert contents(copied) == before
    shutil.copytree(drawn, tmp_path / "moved")
    full_task(copied, "--resume", "--data_path", tmp_path / "moved").succeeded()


def test_few_shot_run_and_full_run_do_not_overwrite_each_other(full_task, scripts, trained, copied, tmp_path):
    """Not even where they were killed before their results."""
    few_shot = tmp_path / "few_shot"
    scripts.onnas(trained / "meta_cell.pt", few_shot, "--eval_epochs", 1).succeeded()
    for path in (copied, few_shot):
        (path / "results.json").unlink()
        before = contents(path)
        for resume in ((), ("--resume",)):
            other = (
                full_task(path, *resume) if path == few_shot else scripts.onnas(trained / "meta_cell.pt", path, *resume)
            )
            assert str(path) in other.complaint()
        assert contents(path) == before


def test_run_of_a_genotype_is_not_gone_on_with_as_another(full_task, whole, tmp_path):
    path, genotype = tmp_path / "run", tmp_path / "genotype.json"
    shutil.copy(whole / "genotype.json", genotype)
    full_task(path, "--genotype", genotype).succeeded()
    shutil.copytree(path, tmp_path / "whole")
    before = contents(path)
    assert "--resume" in full_task(path, "--genotype", genotype).complaint()
    full_task(path, "--resume").complaint()
    other = genotype.read_text().replace('"normal": [', '"normal":[ ')  # the same genotype, but another file
    genotype.write_text(other)
    assert "--genotype" in full_task(path, "--genotype", genotype, "--resume").complaint()
    assert contents(path) == before
    shutil.copy(whole / "genotype.json", genotype)
    (path / "results.json").unlink()  # as of a run that was killed
    assert "--resume" in full_task(path, "--genotype", genotype).complaint()
    full_task(path, "--genotype", genotype, "--resume").succeeded()
    assert_same_run(path, tmp_path / "whole")


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_damaged_checkpoint_is_refused_by_name(full_task, copied, name):
    """One that is cut short, and one of something else."""
    content = (copied / name).read_bytes()
    others = [content[: len(content) // 2]]
    torch.save({"epochs": 1, "state": {}}, copied / "other")
    others.append((copied / "other").read_bytes())
    for other in others:
        (copied / name).write_bytes(other)
        assert name in last_line(full_task(copied, "--resume"))
    assert (copied / name).read_bytes() == others[-1]


@pytest.mark.parametrize("name", sorted(LOGS))
def test_log_that_lacks_epochs_is_refused_by_name(full_task, copied, name):
    content = (copied / name).read_text()
    (copied / name).write_text("garbage\n" + content)
    assert name in last_line(full_task(copied, "--resume"))


def test_full_disk(full_task, whole, tiny_disk):
    path = tiny_disk / "run"
    shutil.copytree(whole, path)
    (path / "results.json").unlink()
    for name in ("genotype.png", "derived_checkpoint.pt"):
        (path / name).unlink()
    (path / "derived.jsonl").write_text("")
    ballast = fill(tiny_disk)
    before = contents(path)
    assert str(path) in full_task(path, "--resume").complaint()
    assert contents(path) == before
    ballast.unlink()
    full_task(path, "--resume").succeeded()
    assert_same_run(path, whole)


# --- Memory ---------------------------------------------------------------------------------------------------------

LARGER = ("--init_channels", 8, "--input_size", 24, "--epochs", 1, "--warm_up_epochs", 0, "--derived_epochs", 1)


def predicted(stdout: str) -> dict[str, float]:
    return {
        part: float(found.group(1))
        for part in ("adapting", "testing", "training")
        if (found := re.search(rf"([0-9.]+) MiB {part}", stdout))
    }


def peaks(path: Path) -> dict[str, float]:
    names = {"adapting": "peak_memory_mib", "testing": "peak_memory_test_mib", "training": "derived_peak_memory_mib"}
    return {part: results_of(path)[name] for part, name in names.items()}


def test_dry_run_says_what_a_run_takes_and_does_nothing(full_task, tmp_path):
    path = tmp_path / "run"
    planned = predicted(full_task(path, "--dry_run", *LARGER).succeeded().stdout)
    assert list(tmp_path.iterdir()) == []
    full_task(path, *LARGER).succeeded()
    measured = peaks(path)
    for part in ("adapting", "testing"):
        assert planned[part] == pytest.approx(measured[part], rel=0.1, abs=0.05)
    assert planned["training"] > measured["training"] - 0.05  # the network that is found may be a lighter one
    before = contents(path)
    flags = (*LARGER, "--genotype", path / "genotype.json")
    finished = full_task(path, "--dry_run", *flags).succeeded()
    assert predicted(finished.stdout) == {"training": pytest.approx(measured["training"], rel=0.1, abs=0.05)}
    assert contents(path) == before


def test_memory_budget_that_is_too_small_is_refused_and_the_one_that_it_names_will_do(full_task, tmp_path):
    """With few ways to train, as to work out each takes its time."""
    path, flags = tmp_path / "run", (*LARGER, "--batch_size", 6, "--schedule", "leanest", "--split_num", 2)
    complaint = full_task(path, *flags, "--memory_budget", 1).complaint()
    assert not path.exists()
    budget = float(re.search(r"the smallest that would do is ([0-9.]+) MiB", complaint).group(1))
    assert "--memory_budget 1 " in complaint
    full_task(path, *flags, "--memory_budget", budget).succeeded()
    assert all(peak <= budget for peak in peaks(path).values())
    assert results_of(path)["settings"]["memory_budget"] == budget


# --- The derived network --------------------------------------------------------------------------------------------

DARTS = "OURS = Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), \
reduce=[('max_pool_3x3', 1), ('dil_conv_5x5', 0)], reduce_concat=range(2, 3))"


def test_genotype_is_trained_without_a_search(full_task, tmp_path):
    path, genotype = tmp_path / "run", tmp_path / "darts.txt"
    genotype.write_text(DARTS)
    flags = "--derived_layers 3 --derived_channels 4 --auxiliary 1 --cutout 4 --seed 9223372036854775807"
    full_task(path, "--genotype", genotype, *flags.split()).succeeded()
    results = results_of(path)
    assert set(results) == DERIVED_KEYS
    assert files_of(path) == (FILES | {"derived_checkpoint.pt"}) - {"search.jsonl"}
    assert results["genotype"]["normal"] == [["sep_conv_3x3", 0], ["skip_connect", 1]]
    network = derived_network(results, layers=3, channels=4, reductions=(1, 2))
    assert results["derived_parameters"] == sum(parameter.numel() for parameter in network.parameters())


FOUR_NODES = """OURS = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1),
            ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
            ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"""


def test_number_of_nodes_is_the_genotypes(full_task, scripts, tmp_path):
    """DARTS's have four; without a flag for it, the network is recorded as it is."""
    path, genotype = tmp_path / "run", tmp_path / "darts.txt"
    genotype.write_text(FOUR_NODES)
    given = ("--genotype", genotype, "--derived_epochs", 0)
    assert "has --nodes 4, not 1: leave the flag out" in full_task(path, *given).complaint()
    flags = full_task.flags(path, *given)
    del flags[flags.index("--nodes") : flags.index("--nodes") + 2]
    scripts.run("onnas.py", *flags).succeeded()
    results = results_of(path)
    assert (results["network"]["nodes"], results["settings"]["nodes"]) == (4, 4)
    assert len(results["genotype"]["normal"]) == 2 * 4
    scripts.run("onnas.py", *flags, "--resume").succeeded()
    assert results_of(path)["settings"]["nodes"] == 4


def test_searched_genotype_is_trained_alike_for_itself(full_task, whole, tmp_path):
    path = tmp_path / "run"
    full_task(path, "--genotype", whole / "genotype.json").succeeded()
    first, second = (
        {key: value for key, value in results_of(folder).items() if key.startswith("derived") and key not in TIMES}
        for folder in (path, whole)
    )
    assert first == second


def test_inherited_weights_are_those_of_the_search(full_task, drawn, tmp_path):
    """Untrained, the derived network is the supernet with all its weight on the genotype."""
    path = tmp_path / "run"
    flags = "--inherit_weights 1 --derived_epochs 0 --epochs 4 --w_lr 0.05"
    full_task(path, *flags.split()).succeeded()
    results = results_of(path)
    supernet = Supernet(SupernetSettings(1, 2, 2, 1, (1,), FULL_TASK), len(CLASSES))
    supernet.load_state_dict(searched_supernet(path))
    mixtures = {}
    for cell_type, name in (("normal", "normal"), ("reduction", "reduce")):
        coefficients = torch.zeros(len(edge_list(1)), len(FULL_TASK))
        for operation, source in results["genotype"][name]:
            coefficients[edge_list(1).index((source, 0)), FULL_TASK.index(operation)] = 1.0
        everything = [[True] * len(FULL_TASK)] * len(coefficients)
        mixtures[cell_type] = Mixture(coefficients, everything, everything)
    supernet.eval()
    images, labels = test_images(drawn)
    with torch.no_grad():
        logits = supernet(normalised(images, drawn), mixtures)
    assert results["derived_accuracy"] == (logits.argmax(1) == labels).sum().item() / len(labels)


# --- Export ---------------------------------------------------------------------------------------------------------

READER = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
mean, std = (np.array(told[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
logits = session.run(["logits"], {"images": (np.load("images.npy") - mean) / std})[0]
assert not {"torch", "utils", "models"} & set(sys.modules)
print(json.dumps({**told, "found": logits.argmax(1).tolist()}))
"""


def read_onnx(file: Path, images: torch.Tensor, folder: Path) -> dict:
    """What a process that knows neither this repository nor PyTorch reads in a file and finds in images of [0, 1]."""
    np.save(folder / "images.npy", images.numpy())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", READER, str(file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_exported_network_finds_what_results_say(full_task, copied, drawn, tmp_path):
    """The export may be asked for when all the rest is done."""
    full_task(copied, "--resume", "--export", tmp_path / "files" / "net.onnx").succeeded()
    results = results_of(copied)
    assert sorted(file.name for file in (tmp_path / "files").iterdir()) == ["net.int8.onnx", "net.onnx", "net.pt2"]
    images, labels = test_images(drawn)
    told = read_onnx(tmp_path / "files" / "net.onnx", images, tmp_path)
    assert told["classes"] == sorted(CLASSES)
    assert told["input_size"] == [1, SIDE, SIDE]
    assert told["genotype"] == results["genotype"]
    right = sum(found == label for found, label in zip(told["found"], labels.tolist(), strict=True))
    assert right / len(labels) == results["derived_accuracy"] == told["accuracy"]


def test_network_of_the_last_few_shot_task_is_exported(scripts, trained, tmp_path):
    path = tmp_path / "run"
    scripts.onnas(trained / "meta_cell.pt", path, "--export", path / "net").succeeded()
    assert files_of(path) == {
        *("args.json", "tasks.jsonl", "examples.jsonl", "results.json", "report.html"),
        *("net.onnx", "net.int8.onnx", "net.pt2"),
    }
    told = read_onnx(path / "net.onnx", torch.rand(5, 1, 28, 28), tmp_path)
    assert (told["task"], told["mean"], told["std"], told["input_size"]) == (1, [0.0], [1.0], [1, 28, 28])
    assert len(set(told["classes"])) == 3
    assert all(name.startswith("glyph ") for name in told["classes"])
    assert set(told["found"]) <= {0, 1, 2}


# --- What is refused ------------------------------------------------------------------------------------------------

MISTAKES = {  # that the parser cannot know; the others are in tests/search_space/flags
    "--dataset cifar10": "--data_path",
    "--data_path nowhere": "--data_path",
    "--init_channels 3": "--init_channels",
    "--reduction_layers 2": "--reduction_layers",
    "--search pcdarts": "--init_channels",
    "--search pcdarts --init_channels 4 --inherit_weights 1": "--inherit_weights",
    "--derived_channels 3": "--derived_channels",
    "--inherit_weights 1 --derived_channels 4": "--derived_channels",
    "--inherit_weights 1 --derived_layers 3": "--derived_layers",
    "--genotype nowhere.json": "nowhere.json",
    "--genotype /dev/null": "/dev/null",
    "--cutout 13": "--cutout must be at most 12",
    "--export /dev/null/net": "--export",
    "--export net.tflite": "--export",
    "--export .": "--export",
    "--meta_cell nowhere.pt": "nowhere.pt",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name_before_anything_is_written(full_task, tmp_path, mistake):
    flag, _, value = mistake.partition(" ")
    complaint = full_task(tmp_path / "run", flag, *(value.split() or [""])).complaint()
    assert complaint.startswith("onnas.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


def corrupt(folder: Path) -> Path:
    file = folder / "test" / "z" / "0.png"
    file.write_bytes(file.read_bytes()[:-40])
    return file


def empty_class(folder: Path) -> Path:
    (folder / "train" / "nothing").mkdir()
    return folder / "train" / "nothing"


def one_class(folder: Path) -> Path:
    for name in CLASSES[1:]:
        shutil.rmtree(folder / "train" / name)
    return folder / "train"


def more_in_test(folder: Path) -> Path:
    shutil.copytree(folder / "test" / "z", folder / "test" / "zz")
    return folder / "test" / "zz"


def one_pixel(folder: Path) -> Path:
    file = folder / "train" / "z" / "0.png"
    Image.new("L", (1, 1)).save(file)
    return file


@pytest.mark.parametrize("damage", [corrupt, empty_class, one_class, more_in_test, one_pixel])
def test_images_that_will_not_do_are_refused_by_name_and_nothing_is_lost(full_task, drawn, copied, tmp_path, damage):
    """Neither a run is started on them, nor one that is there goes on."""
    images = tmp_path / "images"
    shutil.copytree(drawn, images)
    named = str(damage(images))
    assert named in full_task(tmp_path / "new", "--data_path", images).complaint()
    assert not (tmp_path / "new").exists()
    before = contents(copied)
    assert named in full_task(copied, "--data_path", images, "--resume").complaint()
    assert contents(copied) == before
