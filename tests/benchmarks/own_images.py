"""Files of images against episodes: what onnas.py --support makes of the same images, and of other numbers of them.

    python -m tests.benchmarks.own_images --dataset miniimagenet --meta_cell checkpoints/miniimagenet.pt

Each draw is a task of the test classes, written as PNG files into plain folders. All rows of a comparison classify the
same queries, image by image, with the relaxed network, so that differences are paired. What is measured goes into
--path, a line a draw, and the same command goes on where it stopped.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from search_space.search_network import load_meta_cell
from torchmeta_loader import episodes, few_shot_tasks
from utils.data.episode import Episode
from utils.errors import InputError
from utils.results.intervals import mean_and_ci95
from utils.run.cli import ArgumentParser, place, run, whole
from utils.run.progress import progress_bar

ONNAS = Path(__file__).resolve().parents[2] / "onnas.py"
WAYS = 5
UNEQUAL = (1, 3, 5, 8, 20)  # support images of the classes
# The rows of each comparison; the first is what the others are held against.
EPISODES, EQUAL, MIRRORED = "episodes", "files", "files, and each mirrored"
FIRST, ALL = "the first image of each class", f"{', '.join(map(str, UNEQUAL))} images of the classes"
COMPARISONS = {"episodes": (EPISODES, EQUAL), "mirrored": (EQUAL, MIRRORED), "unequal": (FIRST, ALL)}


def parse_args():
    parser = ArgumentParser(prog="own_images.py", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=("omniglot", "miniimagenet"), default="miniimagenet", help="of the draws")
    parser.add_argument("--meta_cell", type=place, default=Path("checkpoints/miniimagenet.pt"), help="of that data set")
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared data sets")
    parser.add_argument("--compare", choices=tuple(COMPARISONS), default="episodes", help="what with what")
    parser.add_argument("--draws", type=whole(2), default=20, help="tasks")
    parser.add_argument("--shots", type=whole(1), default=5, help="support images a class, but for unequal")
    parser.add_argument("--seed", type=whole(0), default=23, help="of every random draw")
    parser.add_argument("--path", type=place, default=Path("runs/own_images"), help="folder of what is measured")
    return parser.parse_args()


def write_images(folder: Path, images: torch.Tensor) -> None:
    """uint8 (N, C, H, W), as PNG files."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(folder / f"{number:02}.png")


def onnas(path: Path, *flags: object) -> None:
    common = ["--export_network", "relaxed", "--transductive", 0, "--report", 0, "--tensorboard", 0, "--path", path]
    command = [sys.executable, ONNAS, *flags, *common]
    finished = subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if finished.returncode != 0:
        raise InputError(f"onnas.py did not end well: {finished.stderr.splitlines()[-1]}")


def accuracy_of_files(args, episode: Episode, images: Sequence[int], mirrored: bool = False) -> float:
    """That of ``onnas.py --support --query`` on the files of a task.

    Args:
        images: how many of each class, the first ones. mirrored: their mirror images beside them.
    """
    with TemporaryDirectory() as folder:
        support, query = Path(folder) / "support", Path(folder) / "query"
        for label, count in enumerate(images):
            own = episode.support[episode.support_labels == label][:count]
            write_images(support / f"class{label}", torch.cat([own, own.flip(3)]) if mirrored else own)
            write_images(query / f"class{label}", episode.query[episode.query_labels == label])
        path = Path(folder) / "run"
        onnas(path, "--meta_cell", args.meta_cell, "--support", support, "--query", query, "--seed", args.seed)
        return json.loads((path / "results.json").read_text())["accuracy"]


def accuracies_of_episodes(args) -> list[float]:
    """Those of the few-shot search, adapted as the meta-cell says that its tasks are."""
    path = args.path / f"{args.dataset}_{args.meta_cell.stem}_episodes"
    adaptation = load_meta_cell(args.meta_cell).trained_on.adaptation
    flags = [word for name, value in adaptation.items() for word in (f"--{name}", value)]
    size = ["--n", WAYS, "--k", args.shots, "--q", 15, "--eval_epochs", args.draws, "--seed", args.seed]
    data = ["--dataset", args.dataset, "--data_path", args.data_path]
    onnas(path, "--meta_cell", args.meta_cell, *data, *size, *flags, "--resume")
    return [json.loads(line)["accuracy"] for line in (path / "tasks.jsonl").read_text().splitlines()][: args.draws]


def measure(args) -> list[dict[str, float]]:
    """For each draw the accuracy of each row."""
    shots = max(UNEQUAL) if args.compare == "unequal" else args.shots
    size = {"ways": WAYS, "shots": shots, "queries": 15}
    tasks = few_shot_tasks(args.dataset, "test", **size, seed=args.seed, data_path=args.data_path)
    args.path.mkdir(parents=True, exist_ok=True)
    file = args.path / f"{args.dataset}_{args.meta_cell.stem}_{args.compare}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    of_episodes = accuracies_of_episodes(args) if args.compare == "episodes" else []
    left = range(len(lines), args.draws)
    bar = progress_bar(left, "own images", "draw", len(lines), args.draws)
    for number, episode in zip(bar, episodes(tasks, left), strict=True):
        of_files = {
            EQUAL: ([args.shots] * WAYS, False),
            MIRRORED: ([args.shots] * WAYS, True),
            FIRST: ([1] * WAYS, False),
            ALL: (UNEQUAL, False),
        }
        rows = COMPARISONS[args.compare]
        lines.append({name: accuracy_of_files(args, episode, *of_files[name]) for name in rows if name != EPISODES})
        if EPISODES in rows:
            lines[-1][EPISODES] = of_episodes[number]
        with file.open("a") as log:
            log.write(json.dumps(lines[-1]) + "\n")
    return lines


def main():
    args = parse_args()
    lines = measure(args)
    print(
        f"{args.dataset}, {args.meta_cell.name}, {args.draws} draws of {WAYS} test classes, 15 queries each; percent\n"
    )
    print("| support set | accuracy | difference |\n| --- | --- | --- |")
    first = COMPARISONS[args.compare][0]
    for name in COMPARISONS[args.compare]:
        mean, interval = mean_and_ci95([100 * line[name] for line in lines])
        difference, its_interval = mean_and_ci95([100 * (line[name] - line[first]) for line in lines])
        paired = "" if name == first else f"{difference:+.1f} +- {its_interval:.1f}"
        print(f"| {name} | {mean:.1f} +- {interval:.1f} | {paired} |")


if __name__ == "__main__":
    run(main, "own_images.py", "the same command goes on where it stopped.")
