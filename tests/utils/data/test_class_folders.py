"""Which files of a folder are images of which class, and what is refused."""

import os
import unicodedata
from pathlib import Path

import pytest

from utils.data.class_folders import list_classes, list_files
from utils.errors import InputError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as refusal:
        list_classes(folder)
    assert "\n" not in str(refusal.value)
    str(refusal.value).encode()  # a terminal can print it
    return str(refusal.value)


@pytest.fixture
def expected(tmp_path) -> dict[str, list[Path]]:
    """Two classes in tmp_path."""
    return {name: [touch(tmp_path / name / file) for file in ("0.png", "README.jpg")] for name in ("cat", "dog")}


def test_hidden_files_and_companions_are_passed_over(expected, tmp_path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README.md", "readme", "LICENSE.txt", "._cat.png"):
        touch(tmp_path / "cat" / name)
    touch(tmp_path / "labels.csv")
    touch(tmp_path / ".ipynb_checkpoints/0.png")
    touch(tmp_path / "cat/.ipynb_checkpoints/0.png")
    assert list_classes(tmp_path) == expected


def test_linked_folders_and_files_are_followed(expected, tmp_path):
    store = touch(tmp_path / ".store/cow/0.png").parent
    (tmp_path / "cow").symlink_to(Path(".store") / "cow")
    (tmp_path / "dog/1.png").symlink_to(store / "0.png")
    expected["dog"].insert(1, tmp_path / "dog/1.png")
    assert list_classes(tmp_path) == {"cat": expected["cat"], "cow": [tmp_path / "cow/0.png"], "dog": expected["dog"]}


def test_no_class_folders(expected, tmp_path):
    empty = tmp_path / ".empty"
    empty.mkdir()
    assert complaint(empty) == f"{empty} holds no class folders: images lie in {empty}/<class>/."
    assert complaint(tmp_path / "gone") == f"cannot read {tmp_path / 'gone'}: No such file or directory."
    image = touch(tmp_path / "stray.PNG")
    assert complaint(tmp_path) == f"{image} belongs to no class: images lie in {tmp_path}/<class>/."


def test_an_empty_class(expected, tmp_path):
    touch(tmp_path / "cow/.DS_Store")
    assert complaint(tmp_path) == f"{tmp_path / 'cow'} holds no images: fill or remove that class folder."


@pytest.mark.parametrize("name", ["notes.txt", "0.png.part", "0", "IMG_1.HEIC", "vector.eps"])
def test_a_file_that_is_no_image(name, expected, tmp_path):
    file = touch(tmp_path / "dog" / name)
    assert complaint(tmp_path).startswith(f"{file} is of no format that is read: convert it to PNG or JPEG, or take ")


def test_a_folder_in_a_class(expected, tmp_path):
    touch(tmp_path / "dog/terrier/0.png")
    folder = tmp_path / "dog"
    assert complaint(tmp_path) == f"{folder}/terrier is a folder in a class folder: images lie directly in {folder}."


def test_accents_are_written_in_two_ways_and_mean_one_name(expected, tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    touch(tmp_path / apart / "0.png")
    assert composed in list_classes(tmp_path)
    touch(tmp_path / composed / "0.png")
    assert complaint(tmp_path).endswith("beside it are the same name in Unicode: rename one of them.")


@pytest.mark.parametrize(
    ("name", "escaped"), [(b"caf\xe9", "caf\\xe9"), (b"two\nlines", "two\\nlines"), (b"dog/\xff.png", "dog/\\xff.png")]
)
def test_names_that_are_no_text(name, escaped, expected, tmp_path):
    path = tmp_path / os.fsdecode(name)
    touch(path if path.suffix else path / "0.png")
    text = f"the name {tmp_path}/{escaped} is not UTF-8 or has control characters: rename it."
    assert complaint(tmp_path) == text


def test_files_at_any_depth(tmp_path):
    files = [touch(tmp_path / name) for name in ("a.png", "b/c/d.jpg", "b/e.txt", "f/g.heic")]
    for name in (".hidden.png", ".folder/x.png", "b/Thumbs.db"):
        touch(tmp_path / name)
    (tmp_path / "b/loop").symlink_to(tmp_path)
    assert list_files(tmp_path) == files
