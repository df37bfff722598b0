"""Files that are damaged in every way, for every command that reads them."""

import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from tests.campaign.judging import Outcome, problem_of
from tests.campaign.runs import Kinds, as_shell
from tests.sources import DRAWINGS, SPLITS, blocks, encoded, miniimagenet_pickles, miniimagenet_tars, omniglot_zips

HUGE = [10**20, -1, 1e308, float("nan"), None, True, "x", [], {}, [[]], "\ud800", "<script>", "9" * 5000]


# --- Mutations ------------------------------------------------------------------------------------------------------


def cut_short(path: Path, draws: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draws.randrange(path.stat().st_size + 1)])


def flip_bits(path: Path, draws: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draws.choice((1, 1, 8, 64))):
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def write_garbage(path: Path, draws: random.Random) -> None:
    garbage = (b"", b"\0" * 4096, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00", b"%!PS-Adobe", b"null", b"{}")
    path.write_bytes(draws.choice((*garbage, draws.randbytes(1000))))


def splice(path: Path, draws: random.Random) -> None:
    content, place = path.read_bytes(), draws.randrange(path.stat().st_size)
    inserted = draws.choice((b"\0", b"\n", b"9" * 400, content[:100], b"\xef\xbb\xbf"))
    path.write_bytes(content[:place] + inserted + content[place:])


def be_no_file(path: Path, draws: random.Random) -> None:
    path.unlink()
    draws.choice((os.mkfifo, os.mkdir, lambda p: p.symlink_to(p), lambda p: p.symlink_to("/dev/zero")))(path)


def swap_rows(path: Path, draws: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(draws.randrange(len(lines) + 1), draws.choice(lines))
    draws.shuffle(lines)
    path.write_bytes(b"".join(lines))


def change_value(path: Path, draws: random.Random) -> None:
    """Another value, of another kind too, somewhere in one of the objects of the file."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    rows = [json.loads(line) for line in lines]
    holder = draws.choice(rows)
    key = draws.choice(list(holder))
    while isinstance(holder[key], (dict, list)) and holder[key] and draws.random() < 0.7:
        holder = holder[key]
        key = draws.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key] = draws.choice(HUGE)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def inflate(path: Path, draws: random.Random) -> None:
    """The same zip, its members packed, and one of them many times as large."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    largest = max(members, key=lambda name: len(members[name]))
    members[largest] = bytes(draws.choice((2**20, 2**28)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


ANY = (cut_short, flip_bits, write_garbage, splice, be_no_file)
BY_ENDING: dict[str, tuple[Callable, ...]] = {
    ".json": (*ANY, change_value, change_value, change_value),
    ".jsonl": (*ANY, change_value, change_value, swap_rows, swap_rows),
    ".pt": (*ANY, inflate),
    ".zip": (*ANY, inflate),
}


# --- Readers --------------------------------------------------------------------------------------------------------


def files(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """One damaged file each, and a command that reads it: done, or refused in a sentence."""
    readers = (of_a_run, of_a_run, of_a_run, trained, prepared, searched_from)
    for number, reader in zip(range(times), cycle(readers), strict=False):
        place = kinds.folder / f"files{number}"
        place.mkdir()
        file, command = reader(kinds, place, draws)
        mutate = draws.choice(BY_ENDING.get(file.suffix, ANY))
        mutate(file, draws)
        finished = kinds.scripts.run(*command)
        yield Outcome(f"{mutate.__name__} of {file}: {as_shell(command)}", problem_of(finished))


def of_a_run(kinds: Kinds, place: Path, draws: random.Random) -> tuple[Path, list]:
    """A file of a finished run, which is gone on with, shown or put into tables."""
    kind, run = draws.choice(kinds.each), place / "run"
    shutil.copytree(kind.reference, run)
    file = draws.choice([file for file in sorted(run.iterdir()) if file.suffix in (".json", ".jsonl", ".pt", ".txt")])
    shows = ["utils/report/__main__.py", run], ["utils/tables/__main__.py", run, "--path", place / "tables"]
    return file, draws.choice((kind.command(run, "--resume"), *shows))


def searched_from(kinds: Kinds, place: Path, draws: random.Random) -> tuple[Path, list]:
    cell = Path(shutil.copy(kinds.cell, place))
    return cell, kinds.few_shot.command(place / "run", "--meta_cell", cell)


def trained(kinds: Kinds, place: Path, draws: random.Random) -> tuple[Path, list]:
    if draws.random() < 0.5:
        name = draws.choice(("genotype.json", "genotype.txt"))
        genotype = Path(shutil.copy(kinds.full.reference / name, place))
        return genotype, kinds.full.command(place / "run", "--genotype", genotype)
    shutil.copytree(kinds.images, place / "images")
    image = draws.choice(sorted((place / "images").rglob("*.png")))
    return image, kinds.full.command(place / "run", "--data_path", place / "images")


def prepared(kinds: Kinds, place: Path, draws: random.Random) -> tuple[Path, list]:
    """One of the downloaded files of a data set, of a class or a character a part, that is prepared."""
    write = draws.choice((omniglot_zips, miniimagenet_tars, miniimagenet_pickles))
    if write is omniglot_zips:
        name, drawing = "omniglot", encoded(blocks(0, 7, 105), "png")
        parts = {part: f"{part}/Latin/character01/{{}}.png" for part in ("images_background", "images_evaluation")}
    else:
        name, drawing = "miniimagenet", encoded(blocks(0, 6, 84, 3), "jpeg")
        parts = {part: f"{part}/n{part}/{{}}.jpg" for part in SPLITS}
    files = {part: {place.format(number): drawing for number in range(DRAWINGS)} for part, place in parts.items()}
    source = write(place / "source", files)
    places = ["--source", source, "--data_path", place / "data"]
    return draws.choice(sorted(source.iterdir())), ["torchmeta_loader.py", "--prepare", name, *places]
