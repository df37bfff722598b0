"""What the search is worth: the network it finds against one of a random genotype, trained equally.

    python -m tests.benchmarks.random_genotype --data_path cifar10 --seeds 1 2 3 --init_channels 8 --epochs 10 ...

Runs onnas.py --task full once for each seed and kind of genotype, as processes of their own in --path; flags that it
does not know itself go to onnas.py. The same command goes on where an earlier one stopped. Prints the test accuracies,
with mean and standard deviation, and the minutes from the first image to the trained network.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

from search_space.genotype import random_genotype, save_genotype
from search_space.primitives import FULL_TASK
from utils.draws import torch_generator
from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, run, whole

ONNAS = Path(__file__).resolve().parents[2] / "onnas.py"


def parse_args():
    parser = ArgumentParser(prog="random_genotype.py", description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=place, default=Path("runs/random_genotype"), help="folder of the runs")
    parser.add_argument("--seeds", type=whole(0), nargs="+", default=[1, 2, 3], help="of search, genotype and training")
    parser.add_argument("--nodes", type=whole(1), default=3, help="nodes of a cell")
    return parser.parse_known_args()


def results_of(path: Path, seed: int, nodes: int, flags: list[str]) -> dict:
    """Runs onnas.py into ``path``, if it has not run there yet, and reads what it found."""
    command = [sys.executable, str(ONNAS), "--task", "full", "--path", str(path), "--seed", str(seed), "--resume"]
    if subprocess.run([*command, "--nodes", str(nodes), *flags]).returncode != 0:
        raise InputError(f"onnas.py did not end well in {path}: it says why above.")
    return json.loads((path / "results.json").read_text())


def main():
    args, flags = parse_args()
    args.path.mkdir(parents=True, exist_ok=True)
    searched, random = [], []
    for seed in args.seeds:
        searched.append(results_of(args.path / f"searched_{seed}", seed, args.nodes, flags))
        file = args.path / f"random_{seed}.json"
        save_genotype(random_genotype(FULL_TASK, args.nodes, torch_generator(seed, "random genotype")), file)
        random.append(results_of(args.path / f"random_{seed}", seed, args.nodes, [*flags, "--genotype", str(file)]))

    print(f"| genotype | {' | '.join(f'seed {seed}' for seed in args.seeds)} | mean +- sd | parameters | minutes |")
    print("| --- " * (len(args.seeds) + 4) + "|")
    for name, results in (("searched", searched), ("random", random)):
        accuracies = [100 * result["derived_accuracy"] for result in results]
        parameters = fmean(result["derived_parameters"] for result in results)
        minutes = fmean(result.get("search_seconds", 0) + result["derived_seconds"] for result in results) / 60
        spread = f" +- {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        each = " | ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        print(f"| {name} | {each} | {fmean(accuracies):.1f}{spread} | {parameters:,.0f} | {minutes:.1f} |")


if __name__ == "__main__":
    run(main, "random_genotype.py", "the same command goes on where it stopped.")
