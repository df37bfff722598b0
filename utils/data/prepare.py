"""Prepares Omniglot or miniImageNet once, from a manual download or its own, in the folder that torchmeta reads."""

import contextlib
import http.client
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torchvision.datasets.utils import download_url

from utils.data.pickled_images import PICKLE_NAME, PICKLES_ARCHIVE
from utils.data.prepared import SPLITS, WEBSITE, is_prepared, prepare_command
from utils.data.torchmeta_files import OMNIGLOT_GROUPS, write_miniimagenet, write_omniglot
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError
from utils.run.files import locked

PARTS = {"omniglot": tuple(OMNIGLOT_GROUPS), "miniimagenet": SPLITS}
# What a part may be, the best first: an archive has checksums, its unpacked folder has not.
FORMS = {
    "omniglot": ("{}.zip", "{}"),
    "miniimagenet": ("{}.tar", "{}.tar.gz", "{}.tgz", PICKLE_NAME, "{}", PICKLES_ARCHIVE),
}
PREPARING, DOWNLOAD = "preparing", "{}.download"  # temporary folders
WRITERS = {"omniglot": write_omniglot, "miniimagenet": write_miniimagenet}


def prepare(dataset: str, source: Path, data_path: Path) -> str | None:
    """Writes ``data_path/dataset`` unless it is prepared already.

    Args:
        source: the folder of the downloaded files, or one of them: then the parts beside it are of the same form.

    Returns:
        what was found, and in which files; None where nothing was to be done.

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
    leftovers = (data_path / dataset / PREPARING, data_path / DOWNLOAD.format(dataset))  # of runs that were killed
    if is_prepared(dataset, data_path) and not any(folder.exists() for folder in leftovers):
        return None
    with locked(data_path / f".{dataset}.lock"):
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        return None if is_prepared(dataset, data_path) else make()  # it may be by now: this process has waited


def _prepare(dataset: str, source: Path, data_path: Path) -> str:
    parts = _find(dataset, source)
    with _replacing_files(data_path / dataset) as temporary:
        found = WRITERS[dataset](parts, temporary)
    return f"{found}, read from {', '.join(map(str, dict.fromkeys(parts.values())))}"


def _find(dataset: str, source: Path) -> dict[str, Path]:
    """The file or folder of each part; what is named is what is read."""
    if not source.exists():
        raise InputError(f"--source {source} does not exist: give the folder or one of the files of {dataset}.")
    forms, folder = FORMS[dataset], source
    named = [form for form in forms if source.name in {form.format(part) for part in PARTS[dataset]}]
    holds_parts = any((source / form.format(part)).exists() for form in forms for part in PARTS[dataset])
    if not source.is_dir() or (named and not holds_parts):
        forms, folder = named, source.parent
    if not forms:
        names = ", ".join(form.format(PARTS[dataset][0]) for form in FORMS[dataset])
        raise InputError(f"--source {source} is no file of {dataset}: those are named {names}.")
    found = {}
    for part in PARTS[dataset]:
        candidates = dict.fromkeys(folder / form.format(part) for form in forms)
        found[part] = next((path for path in candidates if path.exists()), None)
        if found[part] is None:
            names = " or ".join(path.name for path in candidates)
            raise InputError(
                f"--source {source} is incomplete: {folder} lacks {names} (get the files of {dataset} from "
                f"{WEBSITE[dataset]})."
            )
        if not found[part].is_file() and not found[part].is_dir():
            raise InputError(f"{found[part]} is no regular file and no folder.")
    return found


def _download(dataset: str, data_path: Path) -> str:
    if dataset == "omniglot":
        omniglot = torchmeta.datasets.omniglot.OmniglotClassDataset
        files = [(f"{omniglot.download_url_prefix}/{n}.zip", f"{n}.zip", md5) for n, md5 in omniglot.zips_md5.items()]
    else:
        drive = torchmeta.datasets.miniimagenet.MiniImagenetClassDataset
        # confirm=t answers Google Drive's question whether to fetch a file too large for its virus scan.
        url = f"https://drive.usercontent.google.com/download?id={drive.gdrive_id}&export=download&confirm=t"
        files = [(url, PICKLES_ARCHIVE, drive.gz_md5)]
    with _scratch(data_path / DOWNLOAD.format(dataset)) as temporary:
        try:
            for url, name, md5 in files:
                download_url(url, temporary, name, md5)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise InputError(
                f"--download of {dataset} failed ({error}): get it by hand from {WEBSITE[dataset]}, then run "
                f"{prepare_command(dataset, data_path)}."
            ) from error
        return _prepare(dataset, temporary, data_path)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Makes a folder, and removes it at the end."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _replacing_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files become those of ``folder``, all of them or none.

    ``folder`` may be there for a good reason: the downloads may lie in it.
    """
    try:
        with _scratch(folder / PREPARING) as temporary:
            yield temporary
            # Those that are absent come last: with the last one, and not before, the data set is prepared.
            for file in sorted(temporary.iterdir(), key=lambda file: not (folder / file.name).exists()):
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty
