"""The drawings to try the own-images command on."""

import numpy as np
import pytest
from PIL import Image

from utils.data import drawings, own_task
from utils.data.glyphs import SyntheticGlyphs
from utils.errors import InputError


def test_drawings_are_those_of_the_test_split(tmp_path):
    folder = tmp_path / "drawings"
    drawings.write_drawings(folder)
    task = own_task.load_own_task(folder / "support", channels=1, side=28)
    queries = own_task.list_queries(folder / "query", task.class_names).files
    assert len(task.class_names) == 5
    assert task.labels.bincount().tolist() == [5] * 5
    assert task.notes == ()
    assert [query.label for query in queries] == [label for label in range(5) for _ in range(10)]
    glyphs = SyntheticGlyphs(21, "test")
    for label in range(5):
        for drawing in range(15):
            part = "support" if drawing < 5 else "query"
            with Image.open(folder / part / f"glyph_{label + 1}" / f"{drawing + 1:02}.png") as image:
                expected = glyphs.read([label], [drawing])[0, 0].numpy()
                assert np.array_equal(np.asarray(image), expected)


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot write .*drawings"):
        drawings.write_drawings(tmp_path / "file" / "drawings")
