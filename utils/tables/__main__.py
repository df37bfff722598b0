r"""Puts finished runs into the paper's tables: memory, few-shot accuracy, the full task, storage.

    python -m utils.tables runs --path runs/tables

Reads the runs in the folders and below them, and writes tables.md (also printed), tables.json, memory.png and
few_shot.png into --path. What was not run is "not run"; each table is followed by the commands that fill it.
"""

from pathlib import Path

from utils.errors import InputError
from utils.run.cli import ArgumentParser, folder, run
from utils.run.files import replacing, write_json
from utils.tables import few_shot, full_task, memory, storage
from utils.tables.accuracy_chart import draw_accuracy
from utils.tables.runs import UnfinishedRun, find_runs
from utils.tables.text import markdown_table

TABLES = {"memory": memory, "few_shot": few_shot, "full_task": full_task, "storage": storage}


def as_markdown(tables: dict[str, list[dict]], unfinished: list[UnfinishedRun]) -> str:
    """Every table with its commands, then the unfinished runs."""
    sections = [
        f"## {module.TITLE}\n\n{module.as_markdown(tables[name])}\n\n```bash\n{module.COMMANDS}\n```"
        for name, module in TABLES.items()
    ]
    if unfinished:
        lines = ([f"`{run.path}`", run.progress] for run in unfinished)
        sections.append(f"## Unfinished runs\n\n{markdown_table(('folder', 'progress'), lines)}")
    return "\n\n".join(sections) + "\n"


def main():
    parser = ArgumentParser(prog="utils.tables", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=folder, metavar="RUN_FOLDER", help="folder of a run, or one above several"
    )
    parser.add_argument("--path", type=folder, default=Path("runs/tables"), help="folder that it is written into")
    args = parser.parse_args()
    runs = find_runs(args.runs)
    tables = {name: module.rows(runs) for name, module in TABLES.items()}
    text = as_markdown(tables, runs.unfinished)
    try:
        args.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --path {args.path}: {error.strerror}.") from error
    with replacing(args.path / "tables.md") as temporary:
        temporary.write_text(text)
    unfinished = [{"run": str(run.path), "progress": run.progress} for run in runs.unfinished]
    write_json(args.path / "tables.json", {**tables, "unfinished": unfinished})
    memory.draw(tables["memory"], args.path / "memory.png")
    draw_accuracy(tables["few_shot"], args.path / "few_shot.png")
    print(text, end="")


if __name__ == "__main__":
    run(main, "utils.tables", "the runs are as they were.")
