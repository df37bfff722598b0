"""A full task, from its data to its results."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from models.derived_network import DerivedNetwork, DerivedSettings
from search_space.exporting import EXPORTING, export_and_measure
from search_space.flags.onnas import OnnasFlags
from search_space.full_task.plan import FullTaskPlan, data_digest, derived_settings, plan_full_task
from search_space.full_task.run import run_search, train_derived
from search_space.genotype import save_genotype
from search_space.memory.fit import split_note
from search_space.resume import checked_values
from utils.data.full_task_data import FullTask, load_full_task, stratified_halves, warning_of_few_images
from utils.data.image_batches import ImageSet, image_batches
from utils.draws import derive_seed
from utils.results.exports import ExportedFile, exports_text
from utils.results.schema import FullTaskResults, write_results
from utils.run.device import device_name
from utils.run.files import file_digest
from utils.run.process_memory import process_memory
from utils.run.report import draw_genotype, make_report
from utils.run.run_directory import open_run

EXPORT_IMAGES = 200  # at most: INT8 takes its ranges of values from so many, as many test the files


def search_full_task(flags: OnnasFlags, device: torch.device) -> None:
    path, tasks = flags.run.path, flags.tasks

    # Data, and what is run on them: networks, settings, memory.
    data = load_full_task(
        tasks.dataset,
        tasks.data_path,
        seed=flags.run.seed,
        input_size=tasks.input_size,
        download=tasks.download,
    )
    for note in (*data.notes, warning_of_few_images(data, tasks.data_path)):
        if note:
            print(note)
    halves = stratified_halves(data.train.labels, flags.run.seed)
    if flags.memory.is_planned:
        print("Working out the memory of searching and training, a minute or two ...", flush=True)
    plan = plan_full_task(flags, data, halves)
    for line in plan.said:
        print(line)
    if flags.memory.dry_run:
        return
    values = open_full_task(flags, data, plan)

    # Search, unless the genotype is given; then train what was found, and test it.
    genotype, supernet, searched = plan.genotype, None, {}
    if genotype is None:
        search, searched = run_search(flags, device, data, halves, plan)
        genotype, supernet = search.best.genotype, search.network.supernet
        del search
    save_genotype(genotype, path / "genotype.json")
    save_genotype(genotype, path / "genotype.txt")
    settings = derived_settings(flags, plan.network, genotype)
    if flags.run.report:
        draw_genotype(genotype.as_dict(), asdict(settings), path / "genotype.png")
    derived = build_derived(settings, len(data.classes), flags.run.seed).to(device)
    if flags.derived.inherit_weights:
        derived.inherit(supernet)
    del supernet  # its memory is for the training
    trained = train_derived(flags, data, derived)
    results = FullTaskResults(
        dataset=tasks.dataset,
        data={"classes": len(data.classes), "train_images": len(data.train), "test_images": len(data.test)},
        device=device_name(device),
        network=plan.network.as_dict(),
        classes=list(data.classes),
        genotype=genotype.as_dict(),
        settings=values,
        **searched,
        **trained,
        **process_memory(),
    )
    write_results(path / "results.json", results)
    if flags.run.report:
        make_report(path)
    if flags.derived.export is not None:
        exports = export_derived(derived, flags.derived.export, data, results)
        write_results(path / "results.json", replace(results, exports=exports))
    print(f"derived network: test accuracy {results.derived_accuracy:.4f}; {path / 'results.json'}")


def build_derived(settings: DerivedSettings, classes: int, seed: int) -> DerivedNetwork:
    """A derived network with initial weights of its own draws, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "derived initial weights"))
        return DerivedNetwork(settings, classes)


def export_derived(derived: DerivedNetwork, path: Path, data: FullTask, results: FullTaskResults) -> list[ExportedFile]:
    """Exports a trained network, and says how its files do on some of the test images."""
    print(f"{EXPORTING} ...", flush=True)
    exports = export_and_measure(
        derived,
        path,
        *_some_of(data.test),
        calibration=_some_of(data.train)[0],
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        bits=data.train.bits,
        extra={"dataset": results.dataset, "accuracy": results.derived_accuracy, "genotype": results.genotype},
    )
    print(f"derived network, on some of the test images:\n{exports_text(exports)}")
    return exports


def _some_of(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Images of all classes, enough to see how an exported network does: float32 (N, C, H, W), normalised; (N,)."""
    spread = range(0, len(images), -(-len(images) // EXPORT_IMAGES))
    (batch,) = image_batches(images, spread, EXPORT_IMAGES)
    return batch


def open_full_task(flags: OnnasFlags, data: FullTask, plan: FullTaskPlan) -> dict:
    """Opens the run's folder, new or to go on with; returns the values for args.json."""
    if plan.network.partial_channels not in (1, 4):
        print(f"--partial_channels {plan.network.partial_channels}: the candidates see that part of the channels.")
    if plan.genotype is None:
        note = split_note(flags.memory.split_num, plan.size, plan.settings)
        if note:
            print(note)
    genotype = flags.full_task.genotype
    found = {flag: value for flag, value in plan.network.as_dict().items() if flag in vars(flags.network)}
    found |= {"data_path (SHA-256)": data_digest(data), "genotype (SHA-256)": genotype and file_digest(genotype)}
    log = "search.jsonl" if plan.genotype is None else "derived.jsonl"
    values = checked_values(flags, plan.settings, log, found)
    open_run(flags.run.path, values)
    return values
