"""Lists the image files of a folder: ``<folder>/<class>/<image>``, or images at any depth.

Nothing is passed over in silence but what is hidden (its name begins with a dot) and ``COMPANIONS``. Linked files and
folders are followed.
"""

import unicodedata
from pathlib import Path, PurePath

from utils.data.image_reader import SUFFIXES
from utils.errors import InputError

# Files that operating systems and authors leave among images.
COMPANIONS = ("thumbs.db", "desktop.ini")
COMPANION_STEMS = ("readme", "license", "licence")


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted by name.

    Raises:
        InputError: no class folders, a class without images, two classes of one name, a file or folder where none
            should be, or a name that is no text.
    """
    classes: dict[str, list[Path]] = {}
    for entry in visible(folder):
        if entry.is_dir():
            name = class_name(entry)
            if name in classes:
                twin = classes[name][0].parent
                raise InputError(f"{entry} and {twin.name} beside it are the same name in Unicode: rename one of them.")
            classes[name] = _list_images(entry)
        elif is_image(entry):
            raise InputError(f"{entry} belongs to no class: images lie in {folder}/<class>/.")
    if not classes:
        raise InputError(f"{folder} holds no class folders: images lie in {folder}/<class>/.")
    return classes


def class_name(folder: Path) -> str:
    """The name of a class: that of its folder in Unicode's normal form, since systems write accents in two ways."""
    return unicodedata.normalize("NFC", folder.name).strip()


def list_files(folder: Path) -> list[Path]:
    """All visible files at any depth, whatever they are, sorted; none twice where folders link to each other."""
    files, seen = [], set()

    def walk(folder: Path) -> None:
        if folder.resolve() in seen:
            return
        seen.add(folder.resolve())
        for entry in visible(folder):
            if entry.is_dir():
                walk(entry)
            elif not is_companion(entry):
                files.append(entry)

    walk(folder)
    return files


def is_image(path: PurePath) -> bool:
    """Whether its ending is that of an image."""
    return path.suffix.lower() in SUFFIXES


def is_companion(path: PurePath) -> bool:
    """Whether a file is one of those that are left among images."""
    return path.name.lower() in COMPANIONS or (path.stem.lower() in COMPANION_STEMS and not is_image(path))


def no_image(name: PurePath | str) -> InputError:
    """The refusal of a file whose ending is none of ``SUFFIXES``."""
    return InputError(
        f"{name} is of no format that is read: convert it to PNG or JPEG, or take it away if it is no image (files "
        f"that are read end in {', '.join(SUFFIXES)})."
    )


def visible(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, sorted by name.

    Raises:
        InputError: the folder cannot be read, or a name is no text.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}.") from error
    for entry in entries:
        check_name(entry)
    return entries


def check_name(path: PurePath | str) -> None:
    """Refuses a name that is not UTF-8, or that would break a line; the refusal has such letters escaped."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(path)):
        name = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))
        name = name.replace("\\udc", "\\x")  # Python's form of a byte that is no UTF-8
        raise InputError(f"the name {name} is not UTF-8 or has control characters: rename it.")


def _list_images(folder: Path) -> list[Path]:
    files = []
    for entry in visible(folder):
        if entry.is_dir():
            raise InputError(f"{entry} is a folder in a class folder: images lie directly in {folder}.")
        if is_image(entry):
            files.append(entry)
        elif not is_companion(entry):
            raise no_image(entry)
    if not files:
        raise InputError(f"{folder} holds no images: fill or remove that class folder.")
    return files
