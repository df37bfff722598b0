"""What a network says of image files, and what is written and printed of it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, tensor

from models.adapted_network import AdaptedNetwork
from utils.data.own_task import Queries, Query, Unread, read_queries
from utils.errors import InputError
from utils.results.confusion import confusion_text, judge, judged_text
from utils.results.examples import thumbnail
from utils.results.log_rows import PhotographRow
from utils.results.predictions import Prediction, write_predictions
from utils.results.row_log import RowLog
from utils.results.schema import Judged
from utils.run.progress import progress_bar

SHOWN = 60  # images in the report: the least sure
EXPORT_IMAGES = 200  # that exported files are tested on, at most


def classify_files(path: Path, adapted: AdaptedNetwork, queries: Queries) -> dict:
    """Classifies files one by one, and writes predictions.csv and photographs.jsonl into ``path``.

    Returns:
        Figures, under the keys of results.json; those of accuracy if all files that could be read are labelled.
    """
    predictions, unread = [], []
    for query in progress_bar(queries.files, "classifying", "image", 0, len(queries.files)):
        images, _, failed = read_queries([query], adapted.preparation)
        shares = None if failed else adapted.probabilities(images)[0].tolist()
        predictions.append(Prediction(query.name, shares))
        unread += failed
    write_predictions(path / "predictions.csv", adapted.class_names, predictions)
    _write_photographs(path / "photographs.jsonl", adapted, queries.files, predictions)
    judged = _judge(queries.files, predictions, len(adapted.class_names))
    _say(path, adapted.class_names, len(predictions), unread, judged)
    return {"query_images": len(predictions), "unread_images": len(unread), **(judged or {})}


def query_images(queries: Sequence[Query], adapted: AdaptedNetwork) -> tuple[Tensor, Tensor | None]:
    """Some of the images to test on: those that are labelled, with their labels (N,); if none is, any, and None.

    Raises:
        InputError: none of them can be read.
    """
    labelled = [query for query in queries if query.label is not None]
    files = labelled or list(queries)
    images, read, unread = read_queries(files[:: -(-len(files) // EXPORT_IMAGES)], adapted.preparation)
    if not read:
        raise InputError(f"none of the images to test the exported files on can be read, as {unread[0].name}.")
    return images, tensor([query.label for query in read]) if labelled else None


def _judge(queries: Sequence[Query], predictions: Sequence[Prediction], ways: int) -> Judged | None:
    pairs = zip((query.label for query in queries), (prediction.label for prediction in predictions), strict=True)
    known = [pair for pair in pairs if None not in pair]
    return judge(*zip(*known, strict=True), ways) if known else None


def _write_photographs(
    path: Path, adapted: AdaptedNetwork, queries: Sequence[Query], predictions: Sequence[Prediction]
) -> None:
    """The least sure first; they are read once more, so that no more of them are in memory than are shown."""
    names = adapted.class_names
    read = [pair for pair in zip(queries, predictions, strict=True) if pair[1].label is not None]
    log = RowLog(path, PhotographRow, before=0)
    for query, prediction in sorted(read, key=lambda pair: max(pair[1].probabilities))[:SHOWN]:
        images, _, _ = read_queries([query], adapted.preparation)
        log.append(
            PhotographRow(
                file=query.name,
                image=thumbnail(images[0]),
                said=names[prediction.label],
                probability=max(prediction.probabilities),
                label=None if query.label is None else names[query.label],
            )
        )


def _say(path: Path, names: Sequence[str], files: int, unread: Sequence[Unread], judged: Judged | None) -> None:
    for failed in unread:
        print(f"not read: {failed.reason}")
    if judged is not None:
        print(f"accuracy {judged_text(judged)}\n{confusion_text(judged['confusion'], names)}")
    print(f"{files - len(unread)} of {files} files classified: {path / 'predictions.csv'}")
