"""The flags in a run's args.json that reports and tables read; what a script records is its own settings' matter."""

from pathlib import Path
from typing import Annotated, TypedDict

from utils.results.checking import Rule, damaged, misfit, read_json

SCRIPTS = "onnas.py or tfml.py"

METHODS = ("full", "darts", "pcdarts", "metanas", "random", "onnas")  # of --search

Method = Annotated[str, Rule(METHODS.__contains__, f"one of {', '.join(METHODS)}")]
Count = Annotated[int, Rule(lambda value: value >= 0, "0 or more")]


META_CELL = "meta_cell (SHA-256)"
Digests = TypedDict("Digests", {META_CELL: str | None}, total=False)


class OptionalSettings(Digests, total=False):
    """What a kind of run may lack."""

    use_vinyals_split: Count | None
    name: str | None
    seed: Count | None
    split_num: Count | None
    schedule: str | None
    step_by_step: Count | None


class Settings(OptionalSettings):
    """What both scripts record, among others."""

    script: str
    dataset: str
    n: Count
    k: Count
    q: Count
    eval_epochs: Count


class OnnasSettings(Settings):
    """What onnas.py records."""

    task: str
    search: Method
    epochs: Count
    derived_epochs: Count
    genotype: str | None


class OwnSettings(OptionalSettings):
    """What onnas.py records of a task of one's own images."""

    script: str
    task: str
    search: Method
    support: str | None
    query: str | None
    adapted: str | None


class TfmlSettings(Settings):
    """What tfml.py records."""

    meta_epochs: Count


KINDS = {"onnas.py": OnnasSettings, "tfml.py": TfmlSettings}
OWN = "own"  # onnas.py's --task


def read_settings(path: Path) -> OnnasSettings | OwnSettings | TfmlSettings | None:
    """Reads args.json; None if another program wrote it.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    values = read_json(path, SCRIPTS)
    script = values.get("script") if isinstance(values, dict) else None
    if not isinstance(script, str) or script not in KINDS:
        return None
    wrong = misfit(values, OwnSettings if values.get("task") == OWN else KINDS[script], "it")
    if wrong:
        raise damaged(path, wrong, script)
    return values
