"""The repository's Markdown pages as what can be checked in them: command blocks and links.

A block is fenced and in bash. One that is only to be parsed, never run, stands under a comment that no reader sees:

    <!-- check: parse only, days on a GPU -->
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^ *(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *(?P=fence) *$", re.M | re.S)
SHELLS = ("bash", "sh", "shell", "console")
MARK = re.compile(r"<!-- check: parse only, [^\n]+ -->\s*\Z")
LINK = re.compile(r"\]\(\s*([^)\s]+)|\b(?:src|srcset|href)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z]+:|//")


@dataclass(frozen=True)
class Block:
    """A command block. Its first line's number in the page, counted from 1, and whether it is only to be parsed."""

    line: int
    text: str
    parse_only: bool

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def pages(root: Path = ROOT) -> list[str]:
    """The names of the pages that git tracks, README.md first."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(listed.splitlines(), key=lambda name: (name != "README.md", name))


def copy_tracked(root: Path, folder: Path) -> None:
    """Copies what a clone would hold, with the changes that are not committed yet."""
    listed = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (root / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)


def blocks(text: str) -> list[Block]:
    """A page's command blocks, in order."""
    return [
        Block(
            line=text.count("\n", 0, found.start("text")) + 1,
            text=found["text"],
            parse_only=MARK.search(text, 0, found.start()) is not None,
        )
        for found in FENCED.finditer(text)
        if found["language"] in SHELLS
    ]


def as_script(
    some: Iterable[Block],
    start: str,
    before: Callable[[Block], str] = lambda block: "",
    after: Callable[[Block], str] = lambda block: "",
) -> str:
    """Blocks as one script, whose lines are numbered as in the page, so that bash's complaints are.

    Args:
        start: comes first. before, after: what to put in the place of a block's fences. Each is one line.
    """
    lines = [start]
    for block in some:
        lines += [""] * (block.line - 2 - len(lines))
        lines += [before(block), *block.lines, after(block)]
    return "\n".join(lines) + "\n"


def link_problems(text: str, page: str, folder: Path) -> list[str]:
    """The links and images of a page that lead to no file, folder or heading of the repository's copy in ``folder``."""
    problems = []
    prose = re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))
    for target in {first or second for first, second in LINK.findall(prose)}:
        if ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        file = folder / page if not name else (folder / page).parent / name
        if name and not file.exists():
            problems.append(f"{page}: the link {target} leads to nothing that is tracked")
        elif anchor and anchor not in anchors(text if not name else file.read_text()):
            problems.append(f"{page}: the link {target} leads to no heading")
    return sorted(problems)


def anchors(text: str) -> set[str]:
    """The names that a page's headings have in links."""
    headings = re.findall(r"^#+ +(.*?) *$", FENCED.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
