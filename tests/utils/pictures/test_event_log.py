"""Events, read back by TensorBoard's own reader."""

import io

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import contents, fill
from utils.errors import InputError
from utils.pictures.event_log import EventLog
from utils.pictures.style import new_figure
from utils.results.log_rows import DerivedEpochRow


def row(epoch: int, loss: float = 0.5) -> DerivedEpochRow:
    peaks = {"peak_memory_mib": 3.0, "peak_memory_breakdown_mib": {"parameters": 1.0, "other": 2.0}}
    return DerivedEpochRow(epoch=epoch, loss=loss, accuracy=0.25, seconds=1.5, **peaks)


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def losses(folder) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars("loss/loss")]


def test_a_row_is_its_numbers_in_groups(tmp_path):
    log = EventLog(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    log.add_row(row(2), {"lr": 0.125})
    breakdown = "memory/peak_memory_breakdown_mib"
    tags = {"accuracy/accuracy": 0.25, "loss/loss": 0.5, "memory/peak_memory_mib": 3.0, "time/seconds": 1.5}
    tags |= {f"{breakdown}/parameters": 1.0, f"{breakdown}/other": 2.0, "other/lr": 0.125}
    events = read(tmp_path / "tb")
    assert set(events.Tags()["scalars"]) == set(tags)
    for tag, value in tags.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(2, value)]


def test_a_figure_is_a_picture(tmp_path):
    EventLog(tmp_path).add_figures(3, {"search/cells": new_figure(3, 2)})
    (image,) = read(tmp_path).Images("search/cells")
    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
        assert (image.step, picture.size) == (3, (image.width, image.height))


def test_every_row_is_there_at_once(tmp_path):
    log = EventLog(tmp_path)
    for epoch in range(3):
        log.add_row(row(epoch, epoch))
        assert losses(tmp_path) == [(number, number) for number in range(epoch + 1)]


def test_a_later_life_takes_the_place_of_what_it_does_again(tmp_path):
    for first, last, value in ((0, 4, 1.0), (2, 3, 2.0), (3, 6, 3.0)):
        log = EventLog(tmp_path, first)
        for epoch in range(first, last):
            log.add_row(row(epoch, value))
    assert losses(tmp_path) == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]


def test_a_later_life_after_half_a_record(tmp_path):
    log = EventLog(tmp_path)
    for epoch in range(2):
        log.add_row(row(epoch, epoch))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    EventLog(tmp_path, 1).add_row(row(1, 10.0))
    assert losses(tmp_path) == [(0, 0.0), (1, 10.0)]


def test_full_disk(tiny_disk):
    fill(tiny_disk)
    with pytest.raises(InputError, match="No space left"):
        EventLog(tiny_disk / "tb").add_row(row(0))
    assert list(contents(tiny_disk)) == ["ballast"]
