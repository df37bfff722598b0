"""Classifies images with the network that an earlier run adapted; there is no search."""

import torch

from models.adapted_network import AdaptedNetwork
from search_space.exporting import EXPORTING, export_task_network
from search_space.flags.onnas import OnnasFlags
from search_space.own_images.files import classify_files, query_images
from search_space.resume import checked_values
from utils.data.own_task import list_queries
from utils.results.exports import exports_text
from utils.results.schema import OwnResults, write_results
from utils.run.device import device_name
from utils.run.files import file_digest
from utils.run.run_directory import open_run


def classify_later(flags: OnnasFlags, device: torch.device) -> None:
    path, file = flags.run.path, flags.own.adapted
    adapted = AdaptedNetwork.load(file)
    adapted.network.to(device)
    queries = list_queries(flags.own.query, adapted.class_names)
    for note in queries.notes:
        print(note)
    values = checked_values(flags, None, "predictions.csv", {"adapted (SHA-256)": file_digest(file)})
    open_run(path, values)

    figures = classify_files(path, adapted, queries)
    exports = None
    if flags.derived.export is not None:
        print(f"{EXPORTING}; INT8 takes its ranges from these images ...", flush=True)
        images, labels = query_images(queries.files, adapted)
        exports = export_task_network(
            adapted.network,
            flags.derived.export,
            images,
            labels,
            calibration=images,
            classes=adapted.class_names,
            bits=adapted.preparation.bits,
            extra=adapted.made_from,
        )
        print(exports_text(exports))
    results = OwnResults(
        device=device_name(device),
        network=adapted.network.supernet.settings.as_dict(),
        classes=list(adapted.class_names),
        parameters=adapted.network.parameter_count,
        exports=exports,
        settings=values,
        **figures,
    )
    write_results(path / "results.json", results)
    print(f"python -m utils.report {path} makes a page of it.")
