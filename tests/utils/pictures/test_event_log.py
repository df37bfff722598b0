"""Events, read back by TensorBoard's own reader."""

import io

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import contents, fill
from utils.errors import InputError
from utils.pictures.event_log import EventLog


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_scalars_pictures_and_texts(tmp_path):
    log, picture = EventLog(tmp_path / "tb"), Image.new("RGB", (30, 20), (200, 10, 10))
    log.add(3, {"group/a": 0.5, "group/b": 2}, {"pictures/red": picture}, {"words": "of *one* step"})
    log.add(4, {"group/a": 0.25})
    assert not (tmp_path / "tb").exists()
    log.write()
    events = read(tmp_path / "tb")
    assert set(events.Tags()["scalars"]) == {"group/a", "group/b"}
    assert scalars(tmp_path / "tb", "group/a") == [(3, 0.5), (4, 0.25)]
    (image,) = events.Images("pictures/red")
    assert (image.step, image.width, image.height) == (3, 30, 20)
    shown = Image.open(io.BytesIO(image.encoded_image_string))
    assert shown.format == "PNG"
    assert shown.convert("RGB").tobytes() == picture.tobytes()
    (text,) = events.Tensors("words/text_summary")
    assert (text.step, text.tensor_proto.string_val) == (3, [b"of *one* step"])


def test_a_row_is_its_numbers(tmp_path):
    log = EventLog(tmp_path)
    row = {"task": 2, "accuracy": 0.5, "loss": None, "parts": {"one": 1.5, "other": {"two": 2}}, "name": "x", "l": [1]}
    log.add_row("task", row)
    tags = {"task/accuracy": 0.5, "task/parts/one": 1.5, "task/parts/other/two": 2.0}
    assert set(read(tmp_path).Tags()["scalars"]) == set(tags)
    for tag, value in tags.items():
        assert scalars(tmp_path, tag) == [(2, value)]


def test_every_row_is_there_at_once(tmp_path):
    log = EventLog(tmp_path)
    for step in range(3):
        log.add_row("step", {"step": step, "value": step})
        assert scalars(tmp_path, "step/value") == [(number, number) for number in range(step + 1)]


def test_a_later_life_takes_the_place_of_what_it_does_again(tmp_path):
    for first, last, value in ((0, 4, 1.0), (2, 3, 2.0), (3, 6, 3.0)):
        log = EventLog(tmp_path, first)
        for step in range(first, last):
            log.add_row("step", {"step": step, "value": value})
    assert scalars(tmp_path, "step/value") == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]


def test_a_later_life_after_half_a_record(tmp_path):
    log = EventLog(tmp_path)
    for step in range(2):
        log.add_row("step", {"step": step, "value": step})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    EventLog(tmp_path, 1).add_row("step", {"step": 1, "value": 10})
    assert scalars(tmp_path, "step/value") == [(0, 0.0), (1, 10.0)]


def test_full_disk(tiny_disk):
    fill(tiny_disk)
    log = EventLog(tiny_disk / "tb")
    with pytest.raises(InputError, match="No space left"):
        log.add_row("step", {"step": 0, "value": 1})
    assert list(contents(tiny_disk)) == ["ballast"]
