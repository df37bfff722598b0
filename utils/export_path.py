"""The names of the files that --export writes; known before anything that writes them is imported."""

from pathlib import Path

from utils.errors import InputError

SUFFIXES = ONNX, INT8, PROGRAM = (".onnx", ".int8.onnx", ".pt2")


def check_export_path(path: Path) -> dict[str, Path]:
    """The files that ``path`` stands for, by suffix; it has one of the suffixes, or none.

    Their folder need not be there yet: it may be that of the run itself.

    Raises:
        InputError: another suffix, no name for a file, or something else of this name.
    """
    if path.name in ("", ".."):
        raise InputError(f"--export must name a file, got {str(path)!r}.")
    # Of two suffixes that fit, the longer comes later.
    suffix = next((suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix)), "")
    stem = path.name.removesuffix(suffix)
    if not stem or Path(stem).suffix:
        raise InputError(f"--export must end with .onnx, with .pt2 or with neither (it names all files), got {path}.")
    files = {suffix: path.with_name(stem + suffix) for suffix in SUFFIXES}
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"--export must name a file, and {path} is a device or a pipe.")
    for file in files.values():
        if file.is_dir():
            raise InputError(f"--export must name a file, and {file} is a folder.")
    return files
