"""Classifies photographs with an exported network. This file and the network are all that a device needs.

    python -m utils.classify NETWORK.onnx PHOTOGRAPHS [--csv FILE]
    python classify.py NETWORK.onnx PHOTOGRAPHS [--csv FILE]        where it was copied to

It needs onnxruntime, numpy and Pillow 10.1 or newer, and nothing of this project. PHOTOGRAPHS is a folder, whose files
are classified at any depth, or one file. An image is prepared as in training: see :func:`prepare`.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os.write(2, b"\nclassify: interrupted.\n") and os._exit(130))

import argparse
import contextlib
import csv
import io
import json
import stat
import time
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    if __name__ == "__main__":
        bytearray(48 * 2**20)  # they take more than this; in less, numpy's import tries again for ever
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps, UnidentifiedImageError
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(f"classify: error: {missing.name} is not installed: pip install onnxruntime numpy Pillow.", file=sys.stderr)
    sys.exit(2)
except (ImportError, MemoryError) as failed:
    if __name__ != "__main__":
        raise
    while failed.__cause__ is not None:  # numpy wraps what it was in pages of advice
        failed = failed.__cause__
    why = str(failed)
    if not why or any(sign in why for sign in ("failed to map segment", "cannot allocate memory")):
        why = "out of memory: onnxruntime, numpy and Pillow do not fit."
    print(f"classify: error: {why.splitlines()[0]}", file=sys.stderr)
    sys.exit(2)

PREPARATION = 1  # the version of what :func:`prepare` does; a network says which one it was trained with
METADATA = ("classes", "input_size", "mean", "std", "preparation", "bits")  # of a network, each as JSON
# Pillow would try others, some of which start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
# Files that systems and authors leave among images.
COMPANIONS, COMPANION_STEMS = ("thumbs.db", "desktop.ini"), ("readme", "license", "licence")
SMALLEST_SIDE = 8
# How Pillow names pixels of more than 8 bits in a file; ";16" alone is also said of colours that share 16 bits.
DEEP_LAYOUTS = ("I;16", ";16B", ";16L", ";16N", ";16S", ";16BS", ";16NS")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag
UNREAD = "unread"  # in the place of a class
SECONDS_BETWEEN_LINES, TABLE_ROWS, TABLE_WIDTH = 3, 20, 80


class Refusal(Exception):
    """One sentence on what is wrong with a file or a flag, for the person who typed the command."""


@dataclass(frozen=True)
class Prediction:
    """What is said of a file: the probability of each class; None: it could not be read, for a reason."""

    file: str
    probabilities: list[float] | None
    reason: str = ""


@dataclass(frozen=True)
class Network:
    """A network and what its file says of itself.

    shape: (channels, height, width). mean, std: (channels, 1, 1), of images in [0, 1].
    bits: of pixels that files keep with more than 8; None: not known.
    """

    session: onnxruntime.InferenceSession
    classes: list[str]
    shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    bits: int | None

    @classmethod
    def load(cls, path: Path) -> Network:
        """Raises:
        Refusal: no such file, no ONNX file, or not one that this project exported.
        MemoryError: it does not fit.
        """
        if not path.is_file():
            raise Refusal(f"{path} is no file: name a network that onnas.py wrote by --export, a file of .onnx.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # both keep memory for the next image
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen of its own, which share no base
            reason = str(error).splitlines()[0]
            if "bad_alloc" in reason:
                raise MemoryError from error
            raise Refusal(f"{path} is no network that onnxruntime {onnxruntime.__version__} loads: {reason}") from error
        try:
            values = session.get_modelmeta().custom_metadata_map
            told = {key: json.loads(values[key]) for key in METADATA}
            network = cls(
                session,
                [str(name) for name in told["classes"]],
                tuple(told["input_size"]),
                *(np.array(told[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std")),
                told["bits"],
            )
            channels, _, _ = network.shape
            if channels not in (1, 3) or not len(network.mean) == len(network.std) == channels:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal(f"{path} does not say how to prepare images: onnas.py --export writes such.") from error
        if told["preparation"] != PREPARATION:
            raise Refusal(f"{path} prepares images as version {told['preparation']}, this file as {PREPARATION}.")
        return network

    def classify(self, path: Path) -> list[float]:
        """The probability of each class.

        Raises:
            Refusal: the image cannot be read.
        """
        image = read_image(path, self.shape, self.bits)
        normalised = (image.astype(np.float32) / np.float32(255) - self.mean) / self.std
        (logits,) = self.session.run(["logits"], {"images": normalised[None]})[0].astype(np.float64)
        powers = np.exp(logits - logits.max())
        return (powers / powers.sum()).tolist()


# --- Preparing an image -----------------------------------------------------------------------------------------------


def read_image(path: Path, shape: tuple[int, int, int], bits: int | None) -> np.ndarray:
    """The image of a file as :func:`prepare` makes it.

    Raises:
        Refusal: why it is not read; the sentence does not name it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise Refusal("it is of no format that is read: convert it to PNG or JPEG")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refusal("it is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, and about what else a file holds
            with Image.open(path, formats=FORMATS) as image:
                return prepare(image, shape, bits)
    except (Refusal, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Refusal("it is no whole image: convert it to PNG or JPEG") from error
    except Exception as error:  # Pillow raises almost anything for a damaged image
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise Refusal(f"it may be cut short or corrupt: {reason}") from error


def prepare(image: Image.Image, shape: tuple[int, int, int], bits: int | None) -> np.ndarray:
    """An opened image as uint8 (channels, height, width), which a network takes divided by 255 and normalised.

    In this order, so that other programs can do the same:
    1. of several frames or pages, the first; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at
       least twice the wanted one;
    2. turned upright, as its EXIF orientation says;
    3. pixels of more than 8 bits keep the upper 8 of their ``bits``;
    4. transparency is laid over white;
    5. grey by the weights 0.299, 0.587, 0.114, or RGB;
    6. resized, bilinear with antialiasing; an image of another shape is stretched.

    Raises:
        Refusal: it is too small, or leaves open what is white.
    """
    channels, height, width = shape
    if min(image.size) < SMALLEST_SIDE:
        raise Refusal(f"it is too small, {image.width}x{image.height} pixels: {SMALLEST_SIDE} is the least side")
    if image.mode == "F":
        raise Refusal("it has floating-point pixels, whose range is not known: save it with 8 or 16 bits")
    deep = _is_deep(image)
    if deep and image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise Refusal("it has pixels of 16 bits of which 0 is white: save it with 8 bits")  # Pillow ignores it
    image.draft(None, (2 * width, 2 * height))
    ImageOps.exif_transpose(image, in_place=True)
    if deep:
        _check_range(image, bits)
    if image.mode.startswith("I"):
        pixels = np.asarray(image) >> ((bits or 16) - 8 if deep else 8)
        if "transparency" in image.info:
            pixels = np.where(np.asarray(image) == image.info["transparency"], 255, pixels)
        picture = Image.fromarray(pixels.astype(np.uint8))
    elif image.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    else:
        picture = image
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def _check_range(image: Image.Image, bits: int | None) -> None:
    """Refuses pixels of more than 8 bits whose largest value does not fit, or leaves their range open."""
    if image.mode.startswith("I"):
        least, largest = np.asarray(image).min(), np.asarray(image).max()
    else:  # of colours Pillow keeps the upper 8 bits
        least, largest = 0, int(np.asarray(image.convert("RGB")).max()) * 256 + 255
    if least < 0 or largest > 0xFFFF:
        raise Refusal(f"it has pixels from {least} to {largest}, whose range is not known: save it with 8 bits")
    if bits is None and largest < 2**12:
        raise Refusal(f"it has pixels of 16 bits, none above {largest}: what is white is not known, save it with 8")
    if bits is not None and largest >= 2**bits:
        raise Refusal(f"it has pixels of up to {largest}, more than the {bits} bits of the training images")


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel of a pixel has more than 8 bits, and no word on what is white; of an image not decoded yet."""
    layouts = (tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3])
    return any(str(layout).endswith(DEEP_LAYOUTS) for layout in layouts) or (
        image.mode.startswith("I") and image.format != "PPM"
    )


# --- Files and the command --------------------------------------------------------------------------------------------


def list_files(folder: Path) -> list[Path]:
    """All visible files at any depth, whatever they are, sorted; none twice where folders link to each other.

    Raises:
        Refusal: a folder cannot be read, or a name is not UTF-8 or has control characters.
    """
    files, seen = [], set()

    def walk(folder: Path) -> None:
        if folder.resolve() in seen:
            return
        seen.add(folder.resolve())
        for entry in sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in entry.name):
                raise Refusal(f"the name {os.fsencode(entry)} is not UTF-8 or has control characters: rename it.")
            if entry.is_dir():
                walk(entry)
            elif not _is_companion(entry):
                files.append(entry)

    walk(folder)
    return files


def _is_companion(path: Path) -> bool:
    about = path.stem.lower() in COMPANION_STEMS and path.suffix.lower() not in SUFFIXES
    return about or path.name.lower() in COMPANIONS


def classify_files(network: Network, photographs: Path) -> Iterator[Prediction]:
    """What is said of each file; a line on standard error every few seconds.

    Raises:
        Refusal: there is nothing to classify.
    """
    if not photographs.exists():
        raise Refusal(f"{photographs} is neither a folder nor a file: name the photographs to classify.")
    files = list_files(photographs) if photographs.is_dir() else [photographs]
    if not any(path.suffix.lower() in SUFFIXES for path in files):
        raise Refusal(f"{photographs} holds no photographs: put some there, at any depth.")
    said = time.monotonic()
    for number, path in enumerate(files):
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            with contextlib.suppress(OSError):  # nobody reads it
                print(f"{number} of {len(files)} photographs", file=sys.stderr, flush=True)
        name = path.relative_to(photographs).as_posix() if photographs.is_dir() else path.name
        try:
            yield Prediction(name, network.classify(path))
        except Refusal as refusal:
            yield Prediction(name, None, str(refusal))


def csv_text(classes: list[str], predictions: list[Prediction]) -> str:
    """A line a file: its name, its class, and the probability of each class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "class", *classes])
    for prediction in predictions:
        if prediction.probabilities is None:
            table.writerow([prediction.file, UNREAD, *("" for _ in classes)])
        else:
            best = max(range(len(classes)), key=prediction.probabilities.__getitem__)
            table.writerow([prediction.file, classes[best], *(f"{value:.6f}" for value in prediction.probabilities)])
    return text.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new.

    Raises:
        Refusal: it cannot be written. What was there still is.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def table_text(classes: list[str], predictions: list[Prediction], rows: int | None = None) -> str:
    """What was said of each file that was read, the least sure first; ``rows``: of so many."""
    read = [prediction for prediction in predictions if prediction.probabilities is not None]
    read.sort(key=lambda prediction: max(prediction.probabilities))
    width = min(max([len("class"), *(len(name) for name in classes)]), TABLE_WIDTH // 3)
    room = TABLE_WIDTH - width - len("100.0 %    ")
    lines = [f"   sure  {'class':{width}}  file"]
    for prediction in read[:rows]:
        surest = max(prediction.probabilities)
        name = classes[prediction.probabilities.index(surest)]
        lines.append(f"{100 * surest:5.1f} %  {_fitting(name, width):{width}}  {_fitting(prediction.file, room)}")
    return "\n".join(lines)


def _fitting(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="classify", allow_abbrev=False, description="Classifies photographs with a network that onnas.py exported."
    )
    parser.add_argument("network", type=Path, metavar="NETWORK.onnx", help="written by onnas.py --export")
    parser.add_argument("photographs", type=Path, metavar="PHOTOGRAPHS", help="a folder, at any depth, or one file")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the probability of every class here")
    args = parser.parse_args()
    network = Network.load(args.network.expanduser())
    if args.csv and (args.csv.expanduser().is_dir() or not args.csv.expanduser().parent.is_dir()):
        raise Refusal(f"--csv {args.csv} must name a file in a folder that is there.")
    predictions = list(classify_files(network, args.photographs.expanduser()))
    if args.csv:
        write_whole(args.csv.expanduser(), csv_text(network.classes, predictions))
    print(table_text(network.classes, predictions, TABLE_ROWS if args.csv else None))
    unread = [prediction for prediction in predictions if prediction.probabilities is None]
    for prediction in unread:
        print(f"{prediction.file} was not read: {prediction.reason}.", file=sys.stderr)
    place = f", in {args.csv}; above are the least sure" if args.csv else ""
    print(f"{len(predictions) - len(unread)} of {len(predictions)} files classified{place}", flush=True)


def _end(words: str, status: int) -> None:
    """Ends the process, with these last words where somebody reads them."""
    try:
        os.write(2, f"{words}\n".encode())
    finally:
        os._exit(status)


def _reason(error: Exception) -> str:
    """In words; of the system's own errors without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the output'}: {error.strerror}."
    return str(error) or "out of memory: make the photographs smaller, or the memory limit larger."


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except (Refusal, OSError, MemoryError) as error:
        _end(f"classify: error: {_reason(error)}", 2)
    except KeyboardInterrupt:
        _end("\nclassify: interrupted; no CSV was written.", 130)
