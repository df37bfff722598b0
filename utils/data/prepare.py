"""Turns a download of Omniglot or miniImageNet into the files that torchmeta reads.

torchmeta's own preparation needs its own download, unpacks archives and lists files in the order of the file system.
Here a source (zips, tars, folders or pickles) is read as a stream, checked, and written in sorted order, so that the
same source gives the same files on every machine:

    omniglot/data.hdf5                images_background|images_evaluation / alphabet / character: uint8 (20, 105, 105)
    omniglot/{train,test}_labels.json, vinyals_{train,val,test}_labels.json: [[group, alphabet, character], ...]
    miniimagenet/{split}_data.hdf5    datasets / class: uint8 (images, 84, 84, 3)
    miniimagenet/{split}_labels.json  [class, ...]
"""

import contextlib
import http.client
import io
import json
import lzma
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from PIL import Image
from torchvision.datasets.utils import download_url
from tqdm import tqdm

from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError
from utils.run.files import locked, replacing_folder

SPLITS = ("train", "val", "test")
WEBSITE = {
    "omniglot": "https://github.com/brendenlake/omniglot",
    "miniimagenet": "https://lyy.mpi-inf.mpg.de/mtl/download/Lmzjm9tX.html",
}
PREPARED_FILES = {
    "omniglot": ("data.hdf5", "train_labels.json", "test_labels.json", *(f"vinyals_{s}_labels.json" for s in SPLITS)),
    "miniimagenet": tuple(f"{split}_{kind}" for split in SPLITS for kind in ("data.hdf5", "labels.json")),
}
OMNIGLOT_GROUPS = {"images_background": "train", "images_evaluation": "test"}
DRAWINGS_PER_CHARACTER = 20
PICKLE_NAME = "mini-imagenet-cache-{}.pkl"
PICKLES_ARCHIVE = "mini-imagenet.tar.gz"

# What zipfile, tarfile, the decompressors and pickle raise for a file that is cut short, corrupt or unreadable.
DAMAGE = (
    *(OSError, EOFError, RuntimeError, struct.error, zlib.error, lzma.LZMAError),
    *(zipfile.BadZipFile, tarfile.TarError),
    *(pickle.UnpicklingError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError, MemoryError),
)

# A member of a source: its name, with / between folders, and a function that reads it (None for a folder).
Member = tuple[str, Callable[[], bytes] | None]


def prepare_command(dataset: str, data_path: Path | str) -> str:
    """The command that prepares a manual download."""
    return f"python torchmeta_loader.py --prepare {dataset} --source FILE_OR_DIR --data_path {data_path}"


def is_prepared(dataset: str, data_path: Path) -> bool:
    """Whether every file that torchmeta reads is there."""
    return all((data_path / dataset / name).is_file() for name in PREPARED_FILES[dataset])


def prepare(dataset: str, source: Path, data_path: Path) -> str | None:
    """Writes ``data_path/dataset`` from ``source``, a folder or one of the files in it, unless it is prepared already.

    Returns:
        one sentence on what was found; None where nothing was to be done.

    Raises:
        InputError: the source is not there, cut short, corrupt or incomplete, or the folder cannot be written.
            Nothing half-written is left.
    """
    return _once(dataset, data_path, partial(_prepare, dataset, source, data_path))


def download(dataset: str, data_path: Path) -> None:
    """Downloads Omniglot or miniImageNet and prepares it in ``data_path``, unless it is prepared already.

    Raises:
        InputError: the download failed; the message says how to do it by hand. Nothing half-written is left.
    """
    _once(dataset, data_path, partial(_download, dataset, data_path))


def _once(dataset: str, data_path: Path, make: Callable[[], str]) -> str | None:
    """What ``make`` returns, None where the data set is prepared; processes that come at once wait for the first."""
    if is_prepared(dataset, data_path):
        return None
    with locked(data_path / f".{dataset}.lock"):
        return None if is_prepared(dataset, data_path) else make()  # it may be by now: this process has waited


def _prepare(dataset: str, source: Path, data_path: Path) -> str:
    if not source.exists():
        raise InputError(f"--source {source} does not exist: give the folder or one of the files of {dataset}.")
    folder = source if source.is_dir() else source.parent
    find, write = {
        "omniglot": (_find_omniglot, _write_omniglot),
        "miniimagenet": (_find_miniimagenet, _write_miniimagenet),
    }[dataset]
    parts = find(folder)
    with _replacing_files(data_path / dataset) as temporary:
        return write(parts, temporary)


def _download(dataset: str, data_path: Path) -> str:
    if dataset == "omniglot":
        omniglot = torchmeta.datasets.omniglot.OmniglotClassDataset
        files = [(f"{omniglot.download_url_prefix}/{n}.zip", f"{n}.zip", md5) for n, md5 in omniglot.zips_md5.items()]
    else:
        drive = torchmeta.datasets.miniimagenet.MiniImagenetClassDataset
        # confirm=t answers Google Drive's question whether to fetch a file too large for its virus scan.
        url = f"https://drive.usercontent.google.com/download?id={drive.gdrive_id}&export=download&confirm=t"
        files = [(url, PICKLES_ARCHIVE, drive.gz_md5)]
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=data_path, prefix="download-"))
            for url, name, md5 in files:
                download_url(url, temporary, name, md5)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise InputError(
                f"--download of {dataset} failed ({error}): get it by hand from {WEBSITE[dataset]}, then run "
                f"{prepare_command(dataset, data_path)}."
            ) from error
        return _prepare(dataset, Path(temporary), data_path)


# --- Omniglot -------------------------------------------------------------------------------------------------------


def _find_omniglot(folder: Path) -> dict[str, Path]:
    """The zip or the unpacked folder of each of Omniglot's two groups."""
    found = {}
    for group in OMNIGLOT_GROUPS:
        # The zip first: it has checksums, its unpacked folder has not.
        candidates = [folder / f"{group}.zip", folder / group]
        found[group] = _first_existing(candidates, folder, "omniglot")
    return found


def _write_omniglot(parts: dict[str, Path], folder: Path) -> str:
    present = {}
    with h5py.File(folder / "data.hdf5", "w") as file:
        for group, path in parts.items():
            images = ArchivedImages(path, top=group, depth=2, decode=_decode_drawing)
            for character, drawings in images.counts.items():
                if drawings != DRAWINGS_PER_CHARACTER:
                    raise InputError(f"{path} holds {drawings} drawings of {character}, not {DRAWINGS_PER_CHARACTER}.")
            _write_images(file.create_group(group), images, (105, 105), group)
            present[group] = [(group, *name.split("/")) for name in images.counts]
            _write_labels(folder / f"{OMNIGLOT_GROUPS[group]}_labels.json", present[group])
    everything = {character for characters in present.values() for character in characters}
    missing, sizes = 0, {}
    for split in SPLITS:
        listed = _vinyals_characters(split)
        kept = [character for character in listed if character in everything]
        _write_labels(folder / f"vinyals_{split}_labels.json", kept)
        missing += len(listed) - len(kept)
        sizes[split] = len(kept)
    groups = " + ".join(f"{len(characters)} {group}" for group, characters in present.items())
    note = f"; the source lacks {missing} of Omniglot's characters" if missing else ""
    return f"{groups} characters, Vinyals' split {_sizes(sizes)}{note}"


def _vinyals_characters(split: str) -> list[tuple[str, str, str]]:
    """The (group, alphabet, character) of Vinyals' split, sorted, as torchmeta ships them."""
    listed = torchmeta.datasets.utils.get_asset("omniglot", f"{split}.json")
    return sorted(
        (f"images_{group}", alphabet, character)
        for group, alphabets in listed.items()
        for alphabet, characters in alphabets.items()
        for character in characters
    )


def _decode_drawing(data: bytes) -> np.ndarray:
    """Omniglot's black-on-white PNG -> white on black, uint8 (105, 105), as torchmeta stores it."""
    drawing = Image.open(io.BytesIO(data)).convert("L")
    if drawing.size != (105, 105):
        raise ValueError(f"it is {drawing.width}x{drawing.height}, not 105x105")
    return 255 - np.asarray(drawing)


# --- miniImageNet ---------------------------------------------------------------------------------------------------


def _find_miniimagenet(folder: Path) -> dict[str, Path]:
    """The tar, the pickle, the folder, or the archive of all pickles that holds each split."""
    found = {}
    for split in SPLITS:
        names = (f"{split}.tar", f"{split}.tar.gz", f"{split}.tgz", PICKLE_NAME.format(split), split, PICKLES_ARCHIVE)
        found[split] = _first_existing([folder / name for name in names], folder, "miniimagenet")
    return found


def _write_miniimagenet(parts: dict[str, Path], folder: Path) -> str:
    owner, sizes = {}, {}
    for split, path in parts.items():
        if path.name in (PICKLE_NAME.format(split), PICKLES_ARCHIVE):
            images = PickledImages(path, split)
        else:
            images = ArchivedImages(path, top=split, depth=1, decode=_decode_photograph)
        for name in images.counts:
            if name in owner:
                raise InputError(f"{path} holds the class {name}, which {parts[owner[name]]} holds for another split.")
            owner[name] = split
        with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
            _write_images(file.create_group("datasets"), images, (84, 84, 3), split)
        _write_labels(folder / f"{split}_labels.json", list(images.counts))
        sizes[split] = len(images.counts)
    return f"{_sizes(sizes)} classes"


def _decode_photograph(data: bytes) -> np.ndarray:
    """A JPEG or PNG of any size -> RGB, uint8 (84, 84, 3)."""
    return _resized(Image.open(io.BytesIO(data)).convert("RGB"))


def _resized(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.size == (84, 84) else image.resize((84, 84), Image.Resampling.BILINEAR))


# --- Sources: `counts` maps each class to its number of images, `read` yields (class, row, image) --------------------


class ArchivedImages:
    """Images in a zip, a tar or a folder: ``.../top/<one folder a class, depth levels down>/<file>``.

    Args:
        path: the archive or the folder.
        top: the folder that holds the classes.
        depth: how many levels of folders name a class.
        decode: bytes of a file -> array of the image.

    Raises:
        InputError: the source is damaged, or a class holds no images.
    """

    def __init__(self, path: Path, top: str, depth: int, decode: Callable[[bytes], np.ndarray]):
        self.path, self.top, self.depth, self.decode = path, top, depth, decode
        files: dict[str, set[str]] = {}
        for class_name, file_name, _ in self._members():
            files.setdefault(class_name, set())
            if file_name:
                files[class_name].add(file_name)
        if not files:
            raise InputError(f"{path} holds no images of the layout {top}/{'<folder>/' * depth}<image>.")
        for class_name in sorted(files):
            if not files[class_name]:
                raise InputError(f"{path} holds no images of the class {class_name}.")
        self.rows = {name: {file: row for row, file in enumerate(sorted(files[name]))} for name in sorted(files)}
        self.counts = {name: len(rows) for name, rows in self.rows.items()}

    def read(self) -> Iterator[tuple[str, int, np.ndarray]]:
        for class_name, file_name, read in self._members():
            if file_name:
                with _refusing(self.path):
                    data = read()
                try:
                    image = self.decode(data)
                except Exception as error:  # Pillow raises almost anything for a damaged image
                    image_name = f"{class_name}/{file_name}"
                    raise InputError(f"{self.path} holds a damaged image, {image_name} ({error}).") from error
                yield class_name, self.rows[class_name][file_name], image

    def _members(self) -> Iterator[tuple[str, str | None, Callable[[], bytes] | None]]:
        """(class, file name, read) of each image; (class, None, None) of each folder of a class."""
        for name, read in self._raw_members():
            parts = PurePosixPath(name).parts
            folders = parts[:-1] if read else parts
            if len(folders) <= self.depth or folders[-self.depth - 1] != self.top:
                continue
            class_name = "/".join(folders[-self.depth :])
            if read is None:
                yield class_name, None, None
            elif not parts[-1].startswith(".") and parts[-1].lower().endswith((".png", ".jpg", ".jpeg")):
                yield class_name, parts[-1], read

    def _raw_members(self) -> Iterator[Member]:
        if self.path.is_dir():
            members = _folder_members(self.path)
        elif self.path.suffix == ".zip":
            members = _zip_members(self.path)
        else:
            members = _tar_members(self.path)
        # Only reading is guarded: what the consumer of a generator raises does not pass through it.
        with _refusing(self.path):
            yield from members


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            yield member.filename, None if member.is_dir() else partial(archive.read, member)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                yield member.name, None
            elif member.isfile():
                yield member.name, partial(_read_tar_member, archive, member)
        # tarfile takes whatever is no header for the end. The true end is a block of zeros; reading on to the end of
        # the file checks the checksum of a compressed one.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end-of-archive mark")
        while archive.fileobj.read(2**20):
            pass


def _read_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with archive.extractfile(member) as file:
        return file.read()


def _folder_members(path: Path) -> Iterator[Member]:
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path.parent).as_posix()
        yield name, None if entry.is_dir() else entry.read_bytes


class PickledImages:
    """One ``mini-imagenet-cache-<split>.pkl``, by itself or in the tar.gz of all three.

    It holds ``image_data``, uint8 (images, height, width, 3), and ``class_dict``, name -> rows of ``image_data``.

    Raises:
        InputError: the pickle is damaged, holds anything but arrays and plain containers, or a class has no images.
    """

    def __init__(self, path: Path, split: str):
        with _refusing(path):
            content = _load_pickle(path, PICKLE_NAME.format(split))
        if not isinstance(content, dict) or not {"image_data", "class_dict"} <= set(content):
            raise InputError(f"{path} is not what it should be: a dict with image_data and class_dict.")
        self.images, rows = content["image_data"], content["class_dict"]
        if not isinstance(self.images, np.ndarray) or self.images.dtype != np.uint8 or self.images.shape[3:] != (3,):
            raise InputError(f"{path} is not what it should be: image_data must be uint8 (images, height, width, 3).")
        with _refusing(path):
            self.rows = {str(name): np.asarray(rows[name], dtype=np.int64).reshape(-1) for name in sorted(rows)}
        for name, indices in self.rows.items():
            if len(indices) == 0:
                raise InputError(f"{path} holds no images of the class {name}.")
            if indices.min() < 0 or indices.max() >= len(self.images):
                raise InputError(f"{path} is not what it should be: class {name} names rows that image_data lacks.")
        self.counts = {name: len(indices) for name, indices in self.rows.items()}

    def read(self) -> Iterator[tuple[str, int, np.ndarray]]:
        for name, indices in self.rows.items():
            for row, index in enumerate(indices):
                yield name, row, _resized(Image.fromarray(self.images[index]))


class _ArraysOnly(pickle.Unpickler):
    """Admits what numpy arrays and plain containers need; a pickle may otherwise run any code."""

    ADMITTED = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
        + [("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "list"), ("builtins", "range")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array or plain container")
        return super().find_class(module, name)


def _load_pickle(path: Path, name: str) -> dict:
    if path.name != PICKLES_ARCHIVE:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    with tarfile.open(path) as archive:
        for member in archive:
            if PurePosixPath(member.name).name == name and member.isfile():
                return _ArraysOnly(archive.extractfile(member), encoding="latin1").load()
    raise tarfile.ReadError(f"it lacks {name}")


# --- Helpers --------------------------------------------------------------------------------------------------------


def _first_existing(candidates: list[Path], folder: Path, dataset: str) -> Path:
    for path in candidates:
        if path.exists():
            return path
    names = ", ".join(path.name for path in candidates[:-1])
    raise InputError(
        f"--source {folder} is incomplete: it lacks {names} or {candidates[-1].name} "
        f"(get the files of {dataset} from {WEBSITE[dataset]})."
    )


def _write_images(group: h5py.Group, images: ArchivedImages | PickledImages, shape: tuple[int, ...], title: str):
    # Space is set aside in sorted order, not in the order of the source, so that the file is the same for any order.
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    datasets = {
        name: group.create_dataset(name, (count, *shape), dtype="uint8", dcpl=layout)
        for name, count in images.counts.items()
    }
    for name, row, image in tqdm(images.read(), title, total=sum(images.counts.values()), unit="image"):
        datasets[name][row] = image


def _write_labels(path: Path, labels: list) -> None:
    path.write_text(json.dumps(labels))


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{size} {split}" for split, size in sizes.items())


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what damaged files raise into one sentence that names the file."""
    try:
        yield
    except DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":.")
        raise InputError(f"{path} cannot be read whole, it may be cut short or corrupt: {reason}.") from error


@contextlib.contextmanager
def _replacing_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files become those of ``folder``, all of them or none."""
    if not folder.exists():
        with replacing_folder(folder) as temporary:
            yield temporary
        return
    # The folder may be there for a good reason: the downloads lie in it. The finished files are moved in beside them.
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="preparing-") as temporary:
            yield Path(temporary)
            # Those that are absent come last: with the last one, and not before, the data set is prepared.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: not (folder / file.name).exists()):
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}.") from error
