r"""Puts finished runs into the paper's tables: memory, few-shot accuracy, the full task, storage.

    python -m utils.tables runs --path runs/tables

Reads the runs in the folders and below them, prints the tables as far as a terminal is wide, and writes them whole into
--path: tables.md, tables.json, memory.png and few_shot.png. What was not run is "not run"; in tables.md each table is
followed by the commands that fill it.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("utils.tables")  # before what takes seconds to import

from pathlib import Path
from textwrap import fill

from utils.errors import InputError
from utils.results.run_files import RunFiles, find_runs
from utils.results.schema import KINDS
from utils.run.cli import ArgumentParser, place, run
from utils.run.files import write_json, write_text
from utils.tables import few_shot, full_task, memory, storage
from utils.tables.layout import Column, markdown, plain

TABLES = {"memory": memory, "few_shot": few_shot, "full_task": full_task, "storage": storage}
UNFINISHED_COLUMNS = (
    Column("folder", lambda row: f"`{row['run']}`", "folder"),
    Column("progress", lambda row: row["progress"], "progress"),
)


def columns_of(name: str, tables: dict[str, list[dict]]) -> list[Column]:
    return memory.columns(tables["memory"]) if name == "memory" else TABLES[name].COLUMNS


def as_markdown(tables: dict[str, list[dict]], unfinished: list[dict]) -> str:
    """Every table with its commands, then the unfinished runs."""
    sections = [
        f"## {module.TITLE}\n\n{module.NOTE}\n\n{markdown(columns_of(name, tables), tables[name])}\n\n"
        f"```bash\n{module.COMMANDS}\n```"
        for name, module in TABLES.items()
    ]
    if unfinished:
        sections.append(f"## Unfinished runs\n\n{markdown(UNFINISHED_COLUMNS, unfinished)}")
    return "\n\n".join(sections) + "\n"


def as_text(tables: dict[str, list[dict]], unfinished: list[dict]) -> str:
    """Every table in the columns that a terminal has room for, then the unfinished runs."""
    sections = [
        f"{TABLES[name].TITLE}\n{fill(TABLES[name].NOTE, 100)}\n\n{plain(columns_of(name, tables), rows)}"
        for name, rows in tables.items()
    ]
    if unfinished:
        sections.append(f"Unfinished runs\n\n{plain(UNFINISHED_COLUMNS, unfinished)}")
    return "\n\n".join(sections)


def main():
    parser = ArgumentParser(prog="utils.tables", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=place, metavar="RUN_FOLDER", help="folder of a run, or one above several"
    )
    parser.add_argument("--path", type=place, default=Path("runs/tables"), help="folder that it is written into")
    args = parser.parse_args()
    runs = find_runs(args.runs)
    tables = {name: module.rows(runs) for name, module in TABLES.items()}
    unfinished = [_unfinished(run) for run in runs.unfinished(*KINDS)]
    try:
        args.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --path {args.path}: {error.strerror}.") from error
    write_text(args.path / "tables.md", as_markdown(tables, unfinished))
    write_json(args.path / "tables.json", {**tables, "unfinished": unfinished})
    memory.draw(tables["memory"], args.path / "memory.png")
    few_shot.draw(tables["few_shot"], args.path / "few_shot.png")
    print(as_text(tables, unfinished))
    print(f"\nEvery column, and the commands that fill the tables: {args.path / 'tables.md'}")
    print(f"For programs: {args.path / 'tables.json'}; pictures: memory.png and few_shot.png beside it.")


def _unfinished(run: RunFiles) -> dict:
    return {"run": str(run.path), "progress": run.progress}


if __name__ == "__main__":
    run(main, "utils.tables", "the runs are as they were.")
