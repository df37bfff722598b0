"""How much of a data set a run used: all of it, or what it had beside what was published."""

from utils.results.published import FEW_SHOT_SPLITS, FULL_TASKS
from utils.results.schema import FewShotResults, FullTaskResults, MetaTrainingResults

COMPLETE = "complete"


def few_shot_data(result: FewShotResults | MetaTrainingResults) -> str:
    """Of a split, e.g. "complete"."""
    classes, images = result.data["classes"], result.data["images"]
    vinyals = result.settings.get("use_vinyals_split", 1) if result.dataset == "omniglot" else 1
    published = FEW_SHOT_SPLITS.get((result.dataset, vinyals), {}).get(result.data["split"])
    if published is None:
        return f"{classes:,} classes, drawn" if result.dataset == "synthetic" else f"{classes:,} classes"
    if (classes, images) == (published[0], published[0] * published[1]):
        return COMPLETE
    has = f"{classes:,} classes, {images:,} images"
    if classes and images % classes == 0:
        has = f"{classes:,} classes of {images // classes:,} images"
    kind = "subset" if images < published[0] * published[1] else "other than published"
    return f"{kind}: {has} (published: {published[0]:,} of {published[1]:,})"


def full_task_data(result: FullTaskResults) -> str:
    """Of a data set, e.g. "complete"."""
    sizes = tuple(result.data[key] for key in ("classes", "train_images", "test_images"))
    has, published = "{:,} classes, {:,} + {:,} images".format(*sizes), FULL_TASKS.get(result.dataset)
    if published is None:
        return has
    if sizes == published:
        return COMPLETE
    kind = "subset" if sum(sizes[1:]) < sum(published[1:]) else "other than published"
    return f"{kind}: {has} (published: {published[1]:,} + {published[2]:,})"
