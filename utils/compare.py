r"""Compares search methods on the same few-shot tasks, or on the same full task: accuracy, memory and time.

    python -m utils.compare --methods full random onnas --meta_cell runs/omniglot/meta_cell.pt \
        --dataset omniglot --n 5 --k 5 --q 15 --eval_epochs 100 --path runs/compare

Runs onnas.py for each method, into a folder of its own in --path, then prints the table and writes it as compare.md and
compare.json. Flags that are not its own go to onnas.py. The same command again goes on where it was stopped.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("utils.compare")  # before what takes seconds to import

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.results.outcomes import MEASURES, Measure, Outcome, as_row, check_same_tasks, outcome_of
from utils.results.run_files import RunFiles, read_run
from utils.results.schema import FEW_SHOT, FULL
from utils.results.settings import METHODS
from utils.run.cli import ArgumentParser, place, run, whole
from utils.run.files import write_json, write_text
from utils.run.run_directory import lock_folder
from utils.run.start import interrupt_is_taken
from utils.tables.layout import Column, markdown, number, percent, plain, text

ONNAS = Path(__file__).resolve().parents[1] / "onnas.py"
# Methods whose meta-cell is of another kind: the flag that names it, and what makes it.
OWN_CELLS = {
    "metanas": ("metanas_cells", "tfml.py --cells separate"),
    "pcdarts": ("pcdarts_cell", "tfml.py --partial_channels K"),
}
NOT_PASSED_ON = ("--path", "--search", "--task", "--dry_run", "--genotype", "--export")
# What makes the tasks.
DATA = ("--dataset", "--data_path", "--input_size", "--use_vinyals_split")
SHARED = (*DATA, "--n", "--k", "--q", "--eval_epochs", "--seed")
SECONDS_TO_STOP = 10  # what a run may take to end after Ctrl-C


# --- Command line ---------------------------------------------------------------------------------------------------


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    """This script's flags, and those that go to onnas.py."""
    parser = ArgumentParser(
        prog="utils.compare",
        description=__doc__.splitlines()[0],
        epilog="Every other flag goes to onnas.py: see onnas.py --help.",
    )
    parser.add_argument("--path", type=place, default=Path("runs/compare"), help="folder of the table and the runs")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, help="searches, compared with the first of them (default: all)"
    )
    parser.add_argument("--task", choices=(FEW_SHOT, FULL), default=FEW_SHOT, help="few-shot tasks, or one full task")
    parser.add_argument("--meta_cell", metavar="FILE", help="meta_cell.pt, written by tfml.py")
    for method, (flag, recipe) in OWN_CELLS.items():
        parser.add_argument(f"--{flag}", metavar="FILE", help=f"{method}: that of {recipe}, in place of --meta_cell")
    parser.add_argument(
        "--flags",
        nargs=2,
        action="append",
        metavar=("METHOD", "FLAGS"),
        help='flags for one method only, e.g. onnas " --split_num 5", with a space in front; can be repeated',
    )
    parser.add_argument("--seeds", nargs="+", type=whole(0), help="full task: a run of each method with each of them")
    args, passed_on = parser.parse_known_args()
    args.methods = args.methods or list(METHODS)
    if len(set(args.methods)) < len(args.methods):
        parser.error("argument --methods: expected each method once")
    if args.seeds and args.task == FEW_SHOT:
        parser.error("argument --seeds: goes with --task full; few-shot tasks are drawn by a single --seed")
    if args.seeds and (len(set(args.seeds)) < len(args.seeds) or _holds(passed_on, "--seed")):
        parser.error("argument --seeds: expected each seed once, and no --seed beside them")
    args.flags = _flags_by_method(parser, args.flags or [])
    for flag in NOT_PASSED_ON:
        if any(_holds(flags, flag) for flags in (passed_on, *args.flags.values())):
            parser.error(f"{flag} does not go to onnas.py: each of --methods is searched, in a folder of its own")
    for flag in SHARED:
        if any(_holds(flags, flag) for flags in args.flags.values()):
            parser.error(f"argument --flags: {flag} must be the same for every method: give it outside")
    return args, passed_on


def _flags_by_method(parser: ArgumentParser, pairs: list[list[str]]) -> dict[str, list[str]]:
    flags = {method: [] for method in METHODS}
    for method, given in pairs:
        if method not in METHODS:
            parser.error(f"argument --flags: expected one of {', '.join(METHODS)}, got {method!r}")
        try:
            flags[method] += shlex.split(given)
        except ValueError as error:
            parser.error(f"argument --flags: expected flags as in a shell, got {given!r}: {error}")
    return flags


def _holds(flags: list[str], flag: str) -> bool:
    return any(text.partition("=")[0] == flag for text in flags)


def choose_cells(args: argparse.Namespace) -> dict[str, str | None]:
    """The meta-cell of each method.

    Raises:
        InputError: a method has none, though few-shot tasks need one.
    """
    cells = {}
    for method in args.methods:
        flag, recipe = OWN_CELLS.get(method, ("meta_cell", "tfml.py"))
        own = getattr(args, flag)
        if args.task == FEW_SHOT and not own:
            raise InputError(f"--methods {method} needs --{flag} FILE: the meta_cell.pt that {recipe} writes.")
        cells[method] = own or args.meta_cell
    return cells


# --- Running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """One run of onnas.py; no seed where the flags that go there settle it."""

    method: str
    path: Path
    seed: int | None = None


def plan_runs(args: argparse.Namespace) -> list[PlannedRun]:
    """Method by method, seed by seed."""
    if not args.seeds:
        return [PlannedRun(method, args.path / method) for method in args.methods]
    return [
        PlannedRun(method, args.path / f"{method}_seed{seed}", seed) for method in args.methods for seed in args.seeds
    ]


def search(planned: PlannedRun, script: Path, flags: list[str]) -> None:
    """Runs onnas.py, or what is left of a run; what it says goes to stderr as it comes.

    Raises:
        KeyboardInterrupt: it was stopped by Ctrl-C.
        SystemExit: it failed; with its status.
    """
    command = [sys.executable, str(script), "--search", planned.method, "--path", str(planned.path), "--resume", *flags]
    # Unbuffered, so that its complaint is what it says last.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        try:
            last = _pass_on(process.stdout)
            status = process.wait()
        except KeyboardInterrupt:
            interrupt_is_taken()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)
            process.kill()
            raise
    if status == 130:
        raise KeyboardInterrupt
    if status:
        said = f"{planned.path.name} ended with status {status}: {last or 'it said nothing'}"
        print(f"utils.compare: error: {said}", file=sys.stderr)
        sys.exit(status if status > 0 else 128 - status)
    print(last, file=sys.stderr)


def _pass_on(lines: Iterable[str]) -> str:
    """Writes each line but the last to stderr, and returns that."""
    last = ""
    for line in lines:
        if not line.strip():
            continue
        if last:
            print(last, file=sys.stderr, flush=True)
        last = line.rstrip("\n")
    return last


def finished_run(path: Path) -> RunFiles:
    """Reads what onnas.py left.

    Raises:
        InputError: it is not all that a finished run leaves.
    """
    files = read_run(path)
    if not files.finished:
        raise InputError(f"{path / 'results.json'} is not of the run in its folder, which has {files.progress}.")
    return files


# --- The table ------------------------------------------------------------------------------------------------------


def columns(measure: Measure, first: str) -> list[Column]:
    """Of the table, with a line a method; the differences are to the method ``first``."""
    accuracy, spread = measure.accuracy, measure.spread_key
    shown = [
        Column("method", text("method"), "method"),
        Column("schedule", text("schedule"), "schedule"),
        Column(f"{accuracy.replace('_', ' ')} (%)", percent(accuracy, f"{accuracy}_{spread}", "", 2), "accuracy %"),
        Column(f"difference to {first} (%)", percent("difference", f"difference_{spread}", "+", 2), f"to {first} %"),
        Column("peak memory, adapting (MiB)", number("peak_memory_mib", ".1f"), "MiB"),
        Column("testing (MiB)", number("peak_memory_test_mib", ".1f"), "testing"),
        Column("process (MiB)", number("process_memory_mib", ".0f"), "process"),
        Column("seconds a step", number("seconds_per_step", ".3f"), "s a step"),
        Column("supernet parameters", number("supernet_parameters", ",.0f")),
    ]
    if measure is MEASURES[FULL]:
        shown.append(Column("derived parameters", number("derived_parameters", ",.0f"), "parameters"))
        shown.append(Column("derived MACs", number("derived_macs", ",.0f"), "MACs"))
    return shown


def caption(outcome: Outcome, task: str) -> str:
    """What the methods were run on, and what "+-" stands for."""
    result, spread = outcome.results[0], MEASURES[task].spread_name
    if task == FULL:
        return f"{result.dataset}, seeds {', '.join(map(str, outcome.samples))}; +- is the {spread} over seeds."
    return (
        f"{len(outcome.samples)} {result.dataset} tasks, {result.ways}-way {result.shots}-shot, "
        f"{result.queries} queries a class, seed {result.settings.get('seed')}; "
        f"differences are task by task, +- is the {spread}."
    )


def main(script: Path = ONNAS):
    args, passed_on = parse_args()
    cells = choose_cells(args)
    runs = plan_runs(args)
    lock_folder(args.path)
    for turn, planned in enumerate(runs, start=1):
        print(f"{turn}/{len(runs)} {planned.path.name}: loading ...", file=sys.stderr)
        flags = ["--task", FULL] if args.task == FULL else []
        flags += ["--meta_cell", cells[planned.method]] if cells[planned.method] else []
        flags += ["--seed", str(planned.seed)] if planned.seed is not None else []
        search(planned, script, [*flags, *passed_on, *args.flags[planned.method]])
    measure = MEASURES[args.task]
    outcomes = [
        outcome_of(method, [finished_run(planned.path) for planned in runs if planned.method == method])
        for method in args.methods
    ]
    for outcome in outcomes[1:]:
        check_same_tasks(outcome, outcomes[0])
    rows = [as_row(outcome, outcomes[0]) for outcome in outcomes]
    shown, about = columns(measure, outcomes[0].method), caption(outcomes[0], args.task)
    write_text(args.path / "compare.md", f"{about}\n\n{markdown(shown, rows)}\n")
    write_json(args.path / "compare.json", {"task": args.task, "methods": rows})
    print(f"{about}\n\n{plain(shown, rows)}\n\nThe whole table: {args.path / 'compare.md'}")


if __name__ == "__main__":
    run(main, "utils.compare", "finished runs are kept, and the same command goes on.")
