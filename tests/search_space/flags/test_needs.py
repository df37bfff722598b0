"""Flags that need Python packages, on a machine that lacks them."""

import pytest

from search_space.flags import declare
from search_space.flags.onnas import parse_onnas_flags

PLAIN = ["onnas.py", "--meta_cell", "x", "--report", "0", "--tensorboard", "0"]


def complaint(flags: list[str], absent: set[str], monkeypatch, capsys) -> str:
    monkeypatch.setattr(declare, "find_spec", lambda name: None if name in absent else object())
    monkeypatch.setattr("sys.argv", [*PLAIN, *flags])
    with pytest.raises(SystemExit) as ended:
        parse_onnas_flags("-")
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--report", "--tensorboard"])
def test_a_page_or_a_board_that_cannot_be_made_is_refused_before_the_work(flag, monkeypatch, capsys):
    said = complaint([flag, "1"], {"matplotlib"}, monkeypatch, capsys)
    missing = "the Python package matplotlib is not installed: pip install -r requirements.txt"
    assert said == f"onnas.py: error: argument {flag}: {missing}; or {flag} 0 (see onnas.py --help)\n"


def test_all_that_an_export_lacks_is_named(monkeypatch, capsys):
    said = complaint(["--export", "network"], {"onnx", "onnxruntime"}, monkeypatch, capsys)
    missing = "the Python packages onnx and onnxruntime are not installed: pip install -r requirements.txt"
    assert said == f"onnas.py: error: argument --export: {missing} (see onnas.py --help)\n"


def test_what_is_not_asked_for_needs_nothing(monkeypatch):
    monkeypatch.setattr(declare, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", PLAIN)
    assert parse_onnas_flags("-").run.report == 0
