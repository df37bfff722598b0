"""onnas.py on images of one's own: from folders of drawings to classes in a CSV file, now and later."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.adapted_network import AdaptedNetwork
from models.meta_cell import MetaCell
from search_space.evaluation import TEST_TASK, Start, search_task
from search_space.flags.onnas import parse_onnas_flags
from search_space.search_network import SearchNetwork, load_meta_cell
from tests.conftest import ROOT, contents, write_omniglot
from utils.data.drawings import write_drawings
from utils.data.episode import Episode
from utils.data.own_task import list_queries, load_own_task, read_queries, stratified_folds

NUMBERS = {"glyph_1": 1, "glyph_2": 3, "glyph_3": 5}  # support images, not equally many


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """support/ and query/ of three classes; the latter has a file that is no image. Not to be written to."""
    folder = tmp_path_factory.mktemp("photographs") / "drawings"
    write_drawings(folder)
    for part in folder.iterdir():
        for group in part.iterdir():
            kept = {"support": NUMBERS.get(group.name, 0), "query": 4 if group.name in NUMBERS else 0}[part.name]
            for file in sorted(group.iterdir())[kept:]:
                file.unlink()
            if not kept:
                group.rmdir()
    (folder / "query" / "glyph_2" / "broken.png").write_bytes(b"no image")
    return folder


def own(scripts, meta_cell: Path, photographs: Path, path: Path, *flags: object):
    required = ("--meta_cell", meta_cell, "--support", photographs / "support", "--path", path)
    return scripts.run("onnas.py", *required, *flags)


@pytest.fixture(scope="module")
def adapted(scripts, trained, photographs, tmp_path_factory) -> Path:
    """The folder of a run with queries, folds and an export. Not to be written to."""
    path = tmp_path_factory.mktemp("adapted") / "run"
    query, export = ("--query", photographs / "query"), ("--export", path / "network")
    own(scripts, trained / "meta_cell.pt", photographs, path, *query, "--folds", 3, *export).succeeded()
    return path


def table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shares(rows: list[dict]) -> list[float]:
    return [float(row[name]) for row in rows for name in NUMBERS if row["class"] != "unread"]


# --- Files ------------------------------------------------------------------------------------------------------------


def test_files_of_a_run(adapted):
    files = {"adapted.pt", "predictions.csv", "results.json", "args.json", "photographs.jsonl", "report.html"}
    assert set(contents(adapted)) == {*files, "network.onnx", "network.int8.onnx", "network.pt2"}
    args = json.loads((adapted / "args.json").read_text())
    assert (args["task"], args["n"], args["dataset"], args["transductive"]) == ("own", None, None, 0)
    assert args["test_task_train_steps"] == 2  # as the meta-cell's meta-tests; the flag's default is 10


def test_every_file_has_its_line_and_one_that_is_no_image_is_unread(adapted, photographs):
    rows = table(adapted / "predictions.csv")
    files = sorted(str(file.relative_to(photographs / "query")) for file in (photographs / "query").rglob("*.png"))
    assert [row["file"] for row in rows] == files
    unread = [row for row in rows if row["class"] == "unread"]
    assert [row["file"] for row in unread] == ["glyph_2/broken.png"]
    for row in rows:
        if row not in unread:
            assert row["class"] == max(NUMBERS, key=lambda name: float(row[name]))
            assert sum(float(row[name]) for name in NUMBERS) == pytest.approx(1, abs=1e-5)


def test_results_are_those_of_the_lines(adapted):
    results, rows = json.loads((adapted / "results.json").read_text()), table(adapted / "predictions.csv")
    pairs = [(row["file"].split("/")[0], row["class"]) for row in rows if row["class"] != "unread"]
    assert results["accuracy"] == pytest.approx(sum(label == said for label, said in pairs) / 12)
    assert results["confusion"] == [[pairs.count((label, said)) for said in NUMBERS] for label in NUMBERS]
    assert results["accuracy_interval"][0] < results["accuracy"] < results["accuracy_interval"][1]
    assert (results["query_images"], results["unread_images"], results["labelled_images"]) == (13, 1, 12)
    assert results["support_images"] == list(NUMBERS.values())
    assert results["folds"]["labelled_images"] == 8  # the only image of a class is never left out
    files = [export["file"] for export in results["exports"]]
    assert files == ["network.onnx", "network.int8.onnx", "network.pt2"]
    assert results["exports"][0]["accuracy"] == pytest.approx(results["accuracy"])


def test_report_shows_the_least_sure_first(adapted):
    rows = [json.loads(line) for line in (adapted / "photographs.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    probabilities = [row["probability"] for row in rows]
    assert probabilities == sorted(probabilities)
    page = (adapted / "report.html").read_text(encoding="utf-8")
    assert [page.index(row["image"]) for row in rows] == sorted(page.index(row["image"]) for row in rows)
    assert "glyph_1" in page
    assert "wide because there are few images" in page


# --- The same from every way in ---------------------------------------------------------------------------------------


@pytest.fixture
def start(monkeypatch, trained) -> Start:
    """What a task of three ways starts from, with the meta-cell's way to adapt."""
    monkeypatch.setattr(sys, "argv", f"onnas.py --meta_cell {trained / 'meta_cell.pt'} --support x".split())
    meta_cell = load_meta_cell(trained / "meta_cell.pt")
    settings = parse_onnas_flags("-").completed(meta_cell.trained_on.adaptation).search_settings()
    return Start(meta_cell, SearchNetwork.build(meta_cell.settings, 3, 21), settings, 21)


def test_classes_are_those_of_an_episode_of_the_same_images(start, adapted, photographs):
    task = load_own_task(photographs / "support", channels=1, side=28)
    queries = list_queries(photographs / "query", task.class_names)
    images, read, _ = read_queries(queries.files, task.preparation)
    labels = torch.tensor([query.label for query in read])
    episode = Episode(0, task.images, task.labels, images, labels, task.class_names)
    row = search_task(start.unfold(TEST_TASK, 0), episode, measure=False)
    said = [row["class"] for row in table(adapted / "predictions.csv") if row["class"] != "unread"]
    assert said == [task.class_names[label] for label in row.predictions]


def test_later_and_without_pytorch_the_same_is_said(scripts, adapted, photographs, tmp_path):
    later, file = tmp_path / "later", tmp_path / "classified.csv"
    query = photographs / "query"
    scripts.run("onnas.py", "--adapted", adapted / "adapted.pt", "--query", query, "--path", later).succeeded()
    assert set(contents(later)) == {"args.json", "predictions.csv", "photographs.jsonl", "results.json"}
    network = adapted / "network.onnx"
    command = [sys.executable, "-m", "utils.classify", network, query, "--csv", file]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    expected = table(adapted / "predictions.csv")
    for path in (later / "predictions.csv", file):
        rows = table(path)
        assert [(row["file"], row["class"]) for row in rows] == [(row["file"], row["class"]) for row in expected]
        assert shares(rows) == pytest.approx(shares(expected), abs=1e-4)


def test_each_fold_is_tested_by_a_network_that_was_adapted_without_it(start, adapted, photographs):
    task = load_own_task(photographs / "support", channels=1, side=28)
    labels, said = [], []
    for number, (rest, left_out) in enumerate(stratified_folds(task.labels.tolist(), 3, 21), start=1):
        search = start.unfold(TEST_TASK, number)
        search.adapt(task.images[rest], task.labels[rest])
        labels += task.labels[left_out].tolist()
        said += search.classify(task.images[left_out], task.labels[left_out], task.images[rest]).predictions
    right = sum(one == other for one, other in zip(labels, said, strict=True))
    folds = json.loads((adapted / "results.json").read_text())["folds"]
    assert folds["accuracy"] == right / len(labels) == right / 8


def test_classifying_later_imports_what_it_uses(adapted, photographs, tmp_path):
    flags = ["--adapted", adapted / "adapted.pt", "--query", photographs / "query", "--path", tmp_path / "later"]
    code = (
        f"import runpy, sys; sys.argv = {['onnas.py', *map(str, flags)]!r}; "
        "runpy.run_path('onnas.py', run_name='__main__'); "
        "names = 'torchmeta torchvision matplotlib tensorboard jinja2 h5py onnx onnxruntime torch._dynamo'; "
        "print([name for name in names.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_that_is_done_is_done_again_only_by_resume(scripts, adapted, trained, photographs, tmp_path):
    path, query = shutil.copytree(adapted, tmp_path / "run"), ("--query", photographs / "query", "--folds", 3)
    again = own(scripts, trained / "meta_cell.pt", photographs, path)
    assert "already holds a run" in again.complaint()
    (path / "predictions.csv").unlink()
    own(scripts, trained / "meta_cell.pt", photographs, path, *query, "--resume").succeeded()
    assert (path / "predictions.csv").read_bytes() == (adapted / "predictions.csv").read_bytes()


# --- What is refused, or said -----------------------------------------------------------------------------------------


def image(path: Path, side: int = 28, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), (200, 10, 10) if mode == "RGB" else 90).save(path)


def test_bad_support_set_is_refused_by_name(scripts, trained, tmp_path):
    """Of the kinds in tests/utils/data/test_own_task.py one."""
    image(tmp_path / "support" / "a" / "1.png")
    done = own(scripts, trained / "meta_cell.pt", tmp_path, tmp_path / "run")
    assert "holds only one class, a" in done.complaint()
    assert not (tmp_path / "run").exists()


def test_bad_queries_and_files_are_refused_before_the_search(scripts, trained, photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    cell, run = trained / "meta_cell.pt", tmp_path / "run"
    assert "holds no image" in own(scripts, cell, photographs, run, "--query", tmp_path / "empty").complaint()
    image(tmp_path / "odd" / "\udce9.png")
    assert "is not UTF-8" in own(scripts, cell, photographs, run, "--query", tmp_path / "odd").complaint()
    assert "--folds 9 is too many" in own(scripts, cell, photographs, run, "--folds", 9).complaint()
    query = ("--query", photographs / "query", "--path", run)
    done = scripts.run("onnas.py", "--adapted", cell, *query)
    assert "does not hold an adapted network" in done.complaint()
    assert "tfml.py --path" in own(scripts, tmp_path / "runs" / "meta_cell.pt", photographs, run).complaint()
    assert not run.exists()


def test_meta_cell_that_does_not_say_its_image_size(scripts, trained, photographs, tmp_path):
    old = tmp_path / "old.pt"
    values = MetaCell.load(trained / "meta_cell.pt").as_dict()
    del values["trained_on"]
    torch.save(values, old)
    assert "give --input_size" in own(scripts, old, photographs, tmp_path / "run").complaint()
    own(scripts, old, photographs, tmp_path / "run", "--input_size", 20).succeeded()
    assert AdaptedNetwork.load(tmp_path / "run" / "adapted.pt").preparation.side == 20


def test_colour_is_made_grey_for_a_grey_meta_cell_and_said(scripts, trained, tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        image(tmp_path / "support" / name, 40, "RGB")
    done = own(scripts, trained / "meta_cell.pt", tmp_path, tmp_path / "run").succeeded()
    assert "3 of 3 images have colours: they are made grey." in done.stdout
    assert "Images are taken at 28x28 pixels" in done.stdout
    assert "was trained for tasks of 3 ways: the head of 2 starts at zero" in done.stdout


# --- A folder of images to meta-train on ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Twenty classes of eight images of noise, in one folder: the seed splits them."""
    folder = tmp_path_factory.mktemp("classes")
    generator = torch.Generator().manual_seed(0)
    for label in range(20):
        (folder / f"class{label}").mkdir()
        for number in range(8):
            pixels = torch.randint(256, (12, 12, 3), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")
    return folder


def test_meta_training_on_a_folder_serves_own_images(scripts, classes, photographs, tmp_path):
    data = ("--dataset", "imagefolder", "--data_path", classes, "--input_size", 10)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    scripts.tfml(whole, *data).succeeded()
    scripts.tfml(parted, *data, "--meta_epochs", 2).succeeded()
    scripts.tfml(parted, *data, "--resume").succeeded()
    assert contents(parted)["meta_cell.pt"] == contents(whole)["meta_cell.pt"]
    trained_on = MetaCell.load(whole / "meta_cell.pt").trained_on
    assert (trained_on.dataset, trained_on.shape, trained_on.split_seed) == ("imagefolder", [3, 10, 10], 21)
    assert (trained_on.ways, trained_on.shots, trained_on.meta_epochs) == (3, 3, 4)
    done = own(scripts, whole / "meta_cell.pt", photographs, tmp_path / "own").succeeded()
    assert "9 of 9 images are grey: they get three equal channels." in done.stdout
    # Another seed draws other tasks, but of the classes that were not trained on.
    few_shot = ("--dataset", "imagefolder", "--data_path", classes, "--seed", 5)
    searched = scripts.onnas(whole / "meta_cell.pt", tmp_path / "searched", *few_shot).succeeded()
    assert "seed 21 splits its 20 classes into 13 train, 3 val, 4 test" in searched.stdout
    results = json.loads((tmp_path / "searched" / "results.json").read_text())
    assert results["data"] == {"split": "test", "classes": 4, "images": 32}


def test_settings_can_be_chosen_on_validation_classes(scripts, trained, tmp_path):
    data = write_omniglot(tmp_path / "data")
    flags = ("--dataset", "omniglot", "--data_path", data, "--split", "val", "--n", 4)
    done = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", *flags).succeeded()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["data"]["split"] == "val"
    assert "was trained for tasks of 3 ways: the head of 4 starts at zero" in done.stdout
