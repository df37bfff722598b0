"""Writes small drawings to try the own-images command on: python -m utils.data.drawings FOLDER

FOLDER/support/<class>/ has five drawings of each of five glyphs, FOLDER/query/<class>/ has ten others of each. They are
synthetic glyphs of the test split, on which no meta-cell was trained.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("utils.data.drawings")  # before what takes seconds to import

from pathlib import Path

from utils.data.glyphs import draw_glyph, invent_glyph
from utils.draws import numpy_generator
from utils.run.cli import ArgumentParser, place, run
from utils.run.files import replacing_folder

CLASSES, SHOTS, QUERIES = 5, 5, 10
SEED, PURPOSE = 21, "glyphs/test"


def write_drawings(path: Path) -> None:
    """Writes the folder whole or not at all; it must not be there yet.

    Raises:
        InputError: it cannot be written.
    """
    with replacing_folder(path) as temporary:
        for number in range(CLASSES):
            strokes = invent_glyph(numpy_generator(SEED, PURPOSE, number))
            for drawing in range(SHOTS + QUERIES):
                place = temporary / ("support" if drawing < SHOTS else "query") / f"glyph_{number + 1}"
                place.mkdir(parents=True, exist_ok=True)
                image = draw_glyph(strokes, numpy_generator(SEED, PURPOSE, number, drawing))
                image.save(place / f"{drawing + 1:02}.png")


def main() -> None:
    parser = ArgumentParser(prog="utils.data.drawings", description=__doc__.splitlines()[0].partition(":")[0])
    parser.add_argument("path", type=place, metavar="FOLDER", help="is made; one that is there stays as it is")
    path = parser.parse_args().path
    if path.exists():
        print(f"{path} is there already; nothing was changed.")
        return
    write_drawings(path)
    print(f"{path} has {CLASSES * SHOTS} drawings in support/<class>/ and {CLASSES * QUERIES} in query/<class>/.")


if __name__ == "__main__":
    run(main, "utils.data.drawings", "nothing half-written is left.")
