"""Files that are damaged in every way, for every command that reads them."""

import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from tests.campaign.judging import Outcome, problem_of
from tests.campaign.runs import Kinds, as_shell

HUGE = [10**20, -1, 1e308, None, True, "x", [], {}, [[]], "\ud800", "<script>", "9" * 5000]


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
    path.write_bytes(
        content[:place] + draws.choice((b"\0", b"\n", b"9" * 400, content[:100], b"\xef\xbb\xbf")) + content[place:]
    )


def be_no_file(path: Path, draws: random.Random) -> None:
    path.unlink()
    make = draws.choice((os.mkfifo, os.mkdir, lambda p: p.symlink_to(p), lambda p: p.symlink_to("/dev/zero")))
    make(path)


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
    (place / "source").mkdir()
    picture = next(kinds.images.rglob("*.png"))
    if draws.random() < 0.5:
        source, name = place / "source" / "images_background.zip", "omniglot"
        for part in ("background", "evaluation"):
            with zipfile.ZipFile(place / "source" / f"images_{part}.zip", "w") as archive:
                archive.write(picture, f"images_{part}/Latin/character01/0001_01.png")
    else:
        source, name = place / "source" / "train.tar", "miniimagenet"
        for part in ("train", "val", "test"):
            with tarfile.open(place / "source" / f"{part}.tar", "w") as archive:
                archive.add(picture, f"{part}/n01532829/0.png")
    return source, [
        "torchmeta_loader.py",
        "--prepare",
        name,
        "--source",
        place / "source",
        "--data_path",
        place / "data",
    ]
