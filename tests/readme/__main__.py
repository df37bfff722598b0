"""Runs the command blocks of the README and the other pages, word for word, in a fresh clone of the last commit.

    python -m tests.readme --data_path data
    python -m tests.readme --page README.md --only quickstart.sh --fresh

The slow check that the pages tell the truth: hours for all of them. A page's blocks run in order in one bash, as a
reader would type them: after a command that fails the next ones are still run. Blocks under a comment
<!-- check: parse only, WHY -->, and those that --only leaves out, just set their variables. Prints a Markdown table of
commands, times and exit statuses; ends with status 1 if a block failed. The quick check, without running anything, is
test_readme.py beside this file.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.readme.pages import ROOT, Block, as_script, blocks, pages
from tests.readme.parsing import make_commands
from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, run

# In bash: the status of a block is that of its last command that failed.
START = "trap 'block_status=$?' ERR"


def parse_args():
    parser = ArgumentParser(prog="tests.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="append", help="a page's name, can be repeated (default: all pages)")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="run only the blocks that contain it")
    parser.add_argument("--data_path", type=place, metavar="DIR", help="folder of the data sets: the clone's data/")
    parser.add_argument(
        "--fresh", action="store_true", help="install a .venv as quickstart.sh does (default: the active environment)"
    )
    return parser.parse_args()


def make_clone(clone: Path, data_path: Path | None, fresh: bool) -> dict[str, str]:
    """Clones the repository, with its own .venv or the active environment as one; returns the variables to run in."""
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    if data_path:
        (clone / "data").symlink_to(data_path.resolve())
    active = Path(sys.prefix)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if fresh:
        path = [entry for entry in environment["PATH"].split(":") if Path(entry) != active / "bin"]
        environment["PATH"] = ":".join(path)
        command = "set -euo pipefail; source utils/environment.sh"
        subprocess.run(["bash", "-c", command], cwd=clone, env=environment, check=True)
    else:
        (clone / ".venv").symlink_to(active)
    return {**environment, "PATH": f"{clone / '.venv' / 'bin'}:{environment['PATH']}"}


def run_page(page: str, only: str, clone: Path, scratch: Path, environment: dict[str, str]) -> list[list[str]]:
    """Runs a page's blocks; returns the rows of the table: place, commands, exit status, time."""
    found = blocks((clone / page).read_text())
    report = scratch / "report"
    report.write_text("")
    parse_only, real = (shlex.quote(path) for path in (str(scratch / "commands"), environment["PATH"]))

    def runs(block: Block) -> bool:
        return only in block.text and not block.parse_only

    # What is not run finds no real command, and may not activate an environment that has some.
    def before(block: Block) -> str:
        if not runs(block):
            return f"source() {{ :; }}; exec 8>&1 9>&2 >/dev/null 2>&1; PATH={parse_only}"
        return f"printf '%s\\n' '' {shlex.quote(f'--- {page}, line {block.line}')}; block_status=0; SECONDS=0"

    def after(block: Block) -> str:
        if not runs(block):
            return f"PATH={real}; exec >&8 2>&9 8>&- 9>&-; unset -f source"
        return f'echo "{block.line} $block_status $SECONDS" >>{shlex.quote(str(report))}'

    script = as_script(found, START, before, after)
    subprocess.run(["bash", "-c", script, page], cwd=clone, env=environment)
    done = {line: rest for line, *rest in map(str.split, report.read_text().splitlines())}
    rows = []
    for block in found:
        if only in block.text:
            status, seconds = done.get(str(block.line), ["parse only" if block.parse_only else "not run", ""])
            rows.append([f"{page}:{block.line}", "<br>".join(block.lines), status, seconds])
    return rows


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| block | commands | exit status | seconds |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def main():
    args = parse_args()
    if args.data_path and not args.data_path.is_dir():
        raise InputError(f"--data_path {args.data_path} is not a folder.")
    for page in args.page or []:
        if page not in pages():
            raise InputError(f"--page {page} is none of {', '.join(pages())}.")
    rows = []
    with tempfile.TemporaryDirectory(prefix="on-nas-") as name:
        scratch = Path(name)
        make_commands(scratch / "commands")
        clone = scratch / "clone"
        environment = make_clone(clone, args.data_path, args.fresh)
        for page in args.page or pages():
            rows += run_page(page, args.only, clone, scratch, environment)
            subprocess.run(["git", "clean", "-fdxq", "-e", "/.venv", "-e", "/data"], cwd=clone, check=True)
    print(f"\n{as_markdown(rows)}")
    sys.exit(any(status not in ("0", "parse only") for _, _, status, _ in rows))


if __name__ == "__main__":
    run(main, "tests.readme", "the clone is removed.")
