"""The flags of onnas.py, and which of them go together."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from search_space.flags.declare import FEW_SHOT, FULL, OWN, TASKS, Flags, Section, build, declared, flag, parse
from search_space.flags.own_images import OwnFlags, complete, settle_own_images
from search_space.flags.shared import (
    EPOCHS,
    FULL_TASK_PRESET,
    IMAGES,
    LR,
    OF_DATA_SETS,
    SMALL_TASKS,
    AdaptationFlags,
    RunFlags,
    TaskFlags,
    fill_in,
    preset,
    refuse_other_size,
    refuse_rising_temperature,
)
from search_space.methods import METHODS, method_flags, settings_of
from search_space.settings import FASTEST, FOUND, LEANEST, NETWORKS, ORDINARY, Schedule, SearchSettings
from utils.data.names import FEW_SHOT_SETS, FULL_TASK_SETS
from utils.run.cli import ArgumentParser, place, real, switch, whole

DATASETS = {FEW_SHOT: FEW_SHOT_SETS, FULL: FULL_TASK_SETS}


@dataclass(frozen=True)
class KindFlags(Section):
    title = "what is searched, and from where"
    task: str = flag(
        str,
        "many small tasks, one full data set, or one small task of your own images (default: own with --support or "
        "--adapted, else fewshot)",
        choices=TASKS,
    )
    meta_cell: Path | None = flag(
        place,
        "meta_cell.pt, written by tfml.py; a full task can do without (default: from scratch)",
        metavar="FILE",
        changes=True,
    )


@dataclass(frozen=True)
class NetworkFlags(Section):
    title = "network: that of a meta-cell or genotype, which flags must agree with; else 28 channels, 4 cells, 3 nodes"
    init_channels: int | None = flag(whole(2, 4096), "C: channels of a node, even")
    layers: int | None = flag(whole(1, 64), "cells")
    nodes: int | None = flag(whole(1, 8), "nodes of a cell")
    reduction_layers: list[int] | None = flag(whole(0, 63), "cells of stride 2, counted from 0", nargs="*")
    partial_channels: int | None = flag(whole(1, 64), "pcdarts: the candidates see 1/K of the channels")


@dataclass(frozen=True)
class SearchFlags(Section):
    title = "on-device search"
    eval_epochs: int | None = flag(
        whole(1, 1_000_000),
        "few-shot: test tasks; the steps of the first few are shown by TensorBoard",
        100,
        changes=True,
        only=OF_DATA_SETS,
    )
    split: str | None = flag(
        str, "of the data set; settings are chosen on val", "test", choices=("val", "test"), only=(FEW_SHOT,)
    )
    search: str = flag(
        str,
        "what gets gradient. onnas: candidates and edge pairs chosen by their expected final value; random: chosen "
        "uniformly; full: all; metanas: all, with n separate cells; darts: all, without edge pairs; pcdarts: the same "
        "on a part of the channels. darts and pcdarts take a plain softmax and prune nothing",
        "onnas",
        choices=tuple(METHODS),
    )
    sampleno: int = flag(whole(1), "onnas, random: candidates of an edge that get gradient", 2)
    alpha_expect: int = flag(switch, "onnas: 1 chooses by expected final value, 0 uniformly", 1)
    beta_sampling: int = flag(switch, "onnas, random: 1 gives gradient to one edge pair a node", 1)
    unrolled: int = flag(switch, "darts: 1 takes the architecture gradient one weight step ahead", 0)
    batch_size: int = flag(whole(2, IMAGES), "images of a batch (default: the preset's, for a full task 64)")
    export_network: str | None = flag(
        str,
        "small tasks: what --export writes, and what classifies your own images; auto: found, unless relaxed has more "
        "of the support images right or the search has not decided (default: auto)",
        choices=NETWORKS,
        only=SMALL_TASKS,
    )


@dataclass(frozen=True)
class MemoryFlags(Section):
    title = "memory"
    split_num: int | None = flag(
        whole(1, IMAGES), "micro-batches of a batch, gradients accumulated (default: 1, or the budget's)"
    )
    step_by_step: int = flag(
        switch,
        "1: back-propagation a cell and a candidate at a time; 0: all at once. The gradient is the same (default: 1; "
        "pcdarts knows 0 only)",
    )
    schedule: str | None = flag(
        str,
        "step by step: fastest keeps each cell's two inputs; leanest computes them again (default: fastest, or the "
        "budget's)",
        choices=(FASTEST, LEANEST),
    )
    memory_budget: float | None = flag(
        real(1, 1e9),
        "choose the fastest schedule and the largest micro-batch whose tensors stay within MIB; --schedule and "
        "--split_num, where given, stay as they are",
        metavar="MIB",
    )
    process_budget: float | None = flag(
        real(1, 1e9),
        "the same for the peak of the process's resident memory, libraries included (few-shot, own images; on a CPU)",
        metavar="MIB",
    )
    dry_run: bool = flag(bool, "print the memory that the search would take, and its parts, and exit")

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names of the schedules that the flags leave, from the fastest."""
        if not self.step_by_step:
            return (ORDINARY,)
        return (self.schedule,) if self.schedule else (FASTEST, LEANEST)

    @property
    def preferred(self) -> Schedule:
        """What is run where memory does not matter."""
        return Schedule(self.schedules[0], self.split_num or 1)

    @property
    def is_planned(self) -> bool:
        """Whether the memory is to be worked out before the search."""
        return self.dry_run or not (self.memory_budget is None and self.process_budget is None)


@dataclass(frozen=True)
class FullTaskFlags(Section):
    title = "full task"
    epochs: int = flag(whole(1, EPOCHS), "of the search", 50, only=(FULL,))
    warm_up_epochs: int = flag(whole(0, EPOCHS), "the first epochs, which train weights only", 25, only=(FULL,))
    genotype: Path | None = flag(
        place,
        "train this one's network (.json, or DARTS's .txt); no search",
        metavar="FILE",
        changes=True,
        only=(FULL,),
    )


@dataclass(frozen=True)
class DerivedFlags(Section):
    title = "full task: the derived network"
    derived_epochs: int = flag(whole(0, EPOCHS), "of its training", 100, only=(FULL,))
    derived_channels: int | None = flag(whole(2, 4096), "C (default: the searched network's)", only=(FULL,))
    derived_layers: int | None = flag(
        whole(1, 64),
        "cells; another number than searched has reductions at its thirds (default: the searched network's)",
        only=(FULL,),
    )
    inherit_weights: int = flag(switch, "1: starts from the searched weights, 0: from scratch", 0, only=(FULL,))
    derived_lr: float = flag(real(0, LR), "SGD's learning rate at the start", 0.025, only=(FULL,))
    drop_path_prob: float = flag(real(0, 0.99), "of an edge, for each image, at the last epoch", 0.2, only=(FULL,))
    auxiliary: int = flag(switch, "1: a second head helps to train", 0, only=(FULL,))
    cutout: int = flag(whole(0, 4096), "side in pixels of a square hidden in each image", 0, only=(FULL,))
    export: Path | None = flag(
        place,
        "write the network as FILE.onnx, FILE.int8.onnx and FILE.pt2: of a full task the derived one, of your own "
        "images the adapted one, of many small tasks that of the last",
        metavar="FILE",
        changes=True,
        needs=("onnx", "onnxscript", "onnxruntime"),
    )


@dataclass(frozen=True)
class OnnasFlags(Flags):
    kind: KindFlags
    run: RunFlags
    own: OwnFlags
    tasks: TaskFlags
    adaptation: AdaptationFlags
    network: NetworkFlags
    search: SearchFlags
    memory: MemoryFlags
    full_task: FullTaskFlags
    derived: DerivedFlags

    def search_settings(self) -> SearchSettings:
        """How a task is searched, where memory does not matter."""
        search, adaptation = self.search, self.adaptation
        if self.kind.task != FULL:
            shared = adaptation.of_test_task(search.batch_size)
        else:
            shared = adaptation.settings(
                epochs=self.full_task.epochs,
                architecture_epochs=self.full_task.epochs - self.full_task.warm_up_epochs,
                batch_size=search.batch_size,
                transductive=False,
            )
        shared = replace(shared, schedule=self.memory.preferred, unrolled=bool(search.unrolled))
        return settings_of(
            search.search, shared, search.sampleno, bool(search.alpha_expect), bool(search.beta_sampling)
        )

    def completed(self, adaptation: dict[str, object]) -> "OnnasFlags":
        """Those of own images, with the meta-cell's way to adapt where the command line says nothing.

        Raises:
            InputError: the meta-cell names a value that there is not, or T would rise over a task.
        """
        values = self.as_dict()
        own = [part for part in fields(SearchFlags) if part.name in ("batch_size", "export_network")]
        complete(values, adaptation, self.kind.meta_cell, (*fields(AdaptationFlags), *own))
        return build(OnnasFlags, values)


def parse_onnas_flags(documentation: str) -> OnnasFlags:
    """Reads the command line.

    Args:
        documentation: of the script, whose first line --help shows.
    """
    parser = ArgumentParser(prog="onnas.py", description=documentation.splitlines()[0])
    every = tuple(dict.fromkeys(name for names in DATASETS.values() for name in names))
    says = "where the images are from (default: omniglot, for a full task cifar10)"
    own = {"path": {"default": Path("runs/onnas")}, "dataset": {"choices": every, "help": says}}
    values = parse(parser, OnnasFlags, own)
    if values["task"] is None:
        values["task"] = OWN if values["support"] or values["adapted"] else FEW_SHOT
    _settle(parser, values)
    fill_in(values, {"step_by_step": int(values["search"] != "pcdarts")})
    _refuse_disagreement(parser, values)
    if values["task"] == OWN:
        settle_own_images(parser, values, method_flags(values["search"]))
        return build(OnnasFlags, values)
    task = values["task"]
    fill_in(values, {"dataset": "omniglot" if task == FEW_SHOT else "cifar10"})
    if values["dataset"] not in DATASETS[task]:
        known = ", ".join(DATASETS[task])
        parser.error(f"argument --dataset: --task {task} knows {known}, not {values['dataset']}")
    if task == FEW_SHOT:
        refuse_other_size(parser, values)
    refuse_rising_temperature(parser, values)
    published = FULL_TASK_PRESET
    if task == FEW_SHOT:
        published = preset(values["hp_setting"], values["dataset"], values["k"])
    fill_in(values, {**published, "batch_size": published["test_batch_size"]})
    return build(OnnasFlags, values)


def _settle(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """Refuses flags that the task or the method has no use for, so that what is recorded is what was used."""
    given = parser.given()
    for part in declared(OnnasFlags):
        only = part.metadata["only"]
        if values["task"] in only:
            continue
        if part.name in given:
            parser.error(f"argument --{part.name}: goes with --task {' or '.join(only)}")
        if only != (FULL,):
            values[part.name] = None
    for name, value in method_flags(values["search"]).items():
        if name in given and values[name] != value:
            parser.error(f"argument --{name}: --search {values['search']} knows {value} only")
        values[name] = value


def _refuse_disagreement(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """Refuses flags that do not go together."""
    full, search = values["task"] == FULL, values["search"]
    if not full and values["meta_cell"] is None and values["adapted"] is None:
        parser.error(f"argument --meta_cell: --task {values['task']} needs one, written by tfml.py")
    if values["process_budget"] is not None and values["memory_budget"] is not None:
        parser.error("argument --process_budget: goes without --memory_budget")
    if values["process_budget"] is not None and values["task"] == FULL:
        parser.error("argument --process_budget: --task full knows --memory_budget only")
    if values["unrolled"] and search != "darts":
        parser.error("argument --unrolled: 1 goes with --search darts")
    if values["partial_channels"] and search != "pcdarts":
        parser.error("argument --partial_channels: goes with --search pcdarts")
    if values["export_network"] == FOUND and search == "pcdarts":
        parser.error("argument --export_network: --search pcdarts has no found network of a few images' task")
    if values["step_by_step"] and search == "pcdarts":
        parser.error("argument --step_by_step: --search pcdarts knows 0 only")
    if values["schedule"] and not values["step_by_step"]:
        parser.error("argument --schedule: goes with --step_by_step 1, not 0")
    epochs, warm_up = values["epochs"], values["warm_up_epochs"]
    if full and warm_up >= epochs and values["genotype"] is None:
        parser.error(f"argument --warm_up_epochs: must be less than --epochs {epochs}, got {warm_up}")
    if values["genotype"] is not None and values["inherit_weights"]:
        parser.error("argument --inherit_weights: 1 needs a search, and --genotype does without one")
