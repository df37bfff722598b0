"""How the tables put things: Markdown, percent, and how much of a data set was used."""

from collections.abc import Iterable
from datetime import timedelta

from utils.results.published import FEW_SHOT_SPLITS, FULL_TASKS, TITLES

NOT_RUN, NOT_PUBLISHED = "not run", "not published"
COMPLETE, NOT_RECORDED = "complete", "size not recorded"


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def title(dataset: str) -> str:
    return TITLES.get(dataset, dataset)


def number(value: float | None, form: str, absent: str = "") -> str:
    return absent if value is None else format(value, form)


def percent(value: float | None, spread: float | None, sign: str = "") -> str:
    """E.g. "92.1 +- 1.4"; empty where there is no value."""
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" + ("" if spread is None else f" +- {100 * spread:.1f}")


def device_name(result: dict) -> str:
    """A processor, or the GPU's name."""
    device = result.get("device") or "device not recorded"
    return "CPU" if device == "cpu" else device


def duration(seconds: float | None) -> str:
    """E.g. "0:08:59"."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def meta_cell_name(digest: str | None) -> str:
    """The first digits of its SHA-256."""
    return (digest or "")[:8]


def selection(search: str, settings: dict) -> str:
    """The search, and what it chooses where that is not the default."""
    if search == "darts" and settings.get("unrolled"):
        return "darts, second order"
    if search not in ("onnas", "random"):
        return search
    words = [search]
    if settings.get("sampleno", 2) != 2:
        words.append(f"{settings['sampleno']} candidates")
    if not settings.get("beta_sampling", 1):
        words.append("all pairs")
    if search == "onnas" and not settings.get("alpha_expect", 1):
        words.append("chosen uniformly")
    return ", ".join(words)


# --- How much of a data set -----------------------------------------------------------------------------------------


def few_shot_data(result: dict) -> str:
    """Of a split: complete, or what it holds and what was published."""
    data = result.get("data")
    if data is None:
        return NOT_RECORDED
    classes, images = data["classes"], data["images"]
    vinyals = result["settings"].get("use_vinyals_split", 1) if result["dataset"] == "omniglot" else 1
    published = FEW_SHOT_SPLITS.get((result["dataset"], vinyals), {}).get(data["split"])
    if published is None:
        return f"{classes:,} classes, drawn" if result["dataset"] == "synthetic" else f"{classes:,} classes"
    if (classes, images) == (published[0], published[0] * published[1]):
        return COMPLETE
    has = f"{classes:,} classes of {images // classes:,} images"
    if images % classes:
        has = f"{classes:,} classes, {images:,} images"
    kind = "subset" if images < published[0] * published[1] else "other than published"
    return f"{kind}: {has} (published: {published[0]:,} of {published[1]:,})"


def full_task_data(result: dict) -> str:
    """Of a data set: complete, or what it holds, and what was published if it was."""
    data = result.get("data")
    if data is None:
        return NOT_RECORDED
    sizes = (data["classes"], data["train_images"], data["test_images"])
    has = "{:,} classes, {:,} + {:,} images".format(*sizes)
    published = FULL_TASKS.get(result["dataset"])
    if published is None:
        return has
    if sizes == published:
        return COMPLETE
    kind = "subset" if sizes[1] + sizes[2] < published[1] + published[2] else "other than published"
    return f"{kind}: {has} (published: {published[1]:,} + {published[2]:,})"
