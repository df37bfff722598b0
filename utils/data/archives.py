"""The images in a zip, a tar or a folder, one after the other: every member is looked at before it is read."""

import contextlib
import lzma
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from utils.data.class_folders import check_name, is_companion, is_image, no_image, visible
from utils.errors import InputError

# What zipfile, tarfile, the decompressors and pickle raise for a file that is cut short, corrupt or unreadable.
DAMAGE = (
    *(OSError, EOFError, RuntimeError, struct.error, zlib.error, lzma.LZMAError),
    *(zipfile.BadZipFile, tarfile.TarError),
    *(pickle.UnpicklingError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError, MemoryError),
)
LARGEST_IMAGE_FILE = 64 * 2**20  # bytes; photographs have a few MiB
# What tarfile reads whole before it gives a member, to find its long name there.
TAR_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
LARGEST_TAR_HEADER = 2**20  # bytes


@dataclass(frozen=True)
class Member:
    """What an archive or a folder holds.

    name: with / between folders, of which the first is that of the archive or the folder itself.
    size: bytes, as declared.
    read: gives the content; None for a folder.
    """

    name: str
    size: int
    read: Callable[[], bytes] | None


class ArchivedImages:
    """Images in a zip, a tar or a folder: ``.../top/<one folder a class, depth levels down>/<file>``.

    Args:
        path: the archive or the folder.
        top: the folder that holds the classes.
        depth: how many levels of folders name a class.
        decode: (content of a file, its name for complaints) -> array of the image.

    Raises:
        InputError: the source is damaged, a class holds no images, or there is an image outside the classes or
            something else in a class.
    """

    def __init__(self, path: Path, top: str, depth: int, decode: Callable[[bytes, str], np.ndarray]):
        self.path, self.top, self.depth, self.decode = path, top, depth, decode
        files: dict[str, set[str]] = {}
        for class_name, member in self._members():
            known = files.setdefault(class_name, set())
            if member.read is None:
                continue
            name = PurePosixPath(member.name).name
            if name in known:
                raise InputError(f"{path} holds {class_name}/{name} twice.")
            known.add(name)
        if not files:
            raise InputError(f"{path} holds no images of the layout {self._layout()}.")
        for class_name in sorted(files):
            if not files[class_name]:
                raise InputError(f"{path} holds no images of the class {class_name}.")
        self.rows = {name: {file: row for row, file in enumerate(sorted(files[name]))} for name in sorted(files)}
        self.counts = {name: len(rows) for name, rows in self.rows.items()}

    def read(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """(class, number in the class, image) of each image, in the order of the archive."""
        for class_name, member in self._members():
            if member.read is None:
                continue
            if member.size > LARGEST_IMAGE_FILE:
                raise InputError(
                    f"{self._place(member)} has {member.size} bytes: an image file has {LARGEST_IMAGE_FILE} at most."
                )
            with refusing_damage(self.path):
                content = member.read()
            row = self.rows[class_name][PurePosixPath(member.name).name]
            yield class_name, row, self.decode(content, self._place(member))

    def _members(self) -> Iterator[tuple[str, Member]]:
        """(class, member) of each image and of each folder of a class."""
        for member in _members(self.path):
            parts = PurePosixPath(member.name).parts
            # Hidden; __MACOSX/ is what macOS adds to a zip.
            if any(part.startswith((".", "__MACOSX")) for part in parts):
                continue
            check_name(member.name)
            folders = parts[:-1] if member.read else parts
            if len(folders) > self.depth and folders[-self.depth - 1] == self.top:
                if member.read is None or is_image(PurePosixPath(member.name)):
                    yield "/".join(folders[-self.depth :]), member
                elif not is_companion(PurePosixPath(member.name)):
                    raise no_image(self._place(member))
            elif member.read and is_image(PurePosixPath(member.name)):
                raise InputError(f"{self._place(member)} belongs to no class: images lie in {self._layout()}.")

    def _place(self, member: Member) -> str:
        """Where a member is, for complaints."""
        return str(self.path.parent / member.name) if self.path.is_dir() else f"{self.path}: {member.name}"

    def _layout(self) -> str:
        return f"{self.top}/{'<folder>/' * self.depth}<image>"


class TarMember(tarfile.TarInfo):
    """A member of a tar, whose header is looked at before what it announces is read."""

    @classmethod
    def frombuf(cls, *block: object) -> "TarMember":
        """Raises:
        ValueError: a header of names and comments that is far too large.
        """
        member = super().frombuf(*block)
        if member.type in TAR_HEADERS and member.size > LARGEST_TAR_HEADER:
            raise ValueError(f"it has a header of {member.size} bytes")
        return member


@contextlib.contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns what damaged or unreadable files raise into one sentence that names the file."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {error.filename or path}: {error.strerror}.") from error
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":.")
        raise InputError(f"{path} cannot be read whole, it may be cut short or corrupt: {reason}.") from error


def _members(path: Path) -> Iterator[Member]:
    if path.is_dir():
        members = _folder_members(path, path.name)
    elif path.suffix == ".zip":
        members = _zip_members(path)
    else:
        members = _tar_members(path)
    # Only reading is guarded: what the consumer of a generator raises does not pass through it.
    with refusing_damage(path):
        yield from members


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            read = None if member.is_dir() else partial(archive.read, member)
            yield Member(member.filename, member.file_size, read)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, tarinfo=TarMember) as archive:
        for member in archive:
            if not member.isdir() and not member.isfile():
                raise InputError(f"{path} holds {member.name}, a link or a device: unpack it, and name the folder.")
            read = None if member.isdir() else partial(_read_tar_member, archive, member)
            yield Member(member.name, member.size, read)
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


def _folder_members(folder: Path, name: str) -> Iterator[Member]:
    yield Member(name, 0, None)
    for entry in visible(folder):
        if entry.is_dir():
            yield from _folder_members(entry, f"{name}/{entry.name}")
            continue
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{entry} is no regular file.")
        yield Member(f"{name}/{entry.name}", status.st_size, entry.read_bytes)
