"""The flags of tfml.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_space.flags.declare import Flags, Section, build, flag, parse
from search_space.flags.shared import (
    EPOCHS,
    IMAGES,
    LR,
    AdaptationFlags,
    RunFlags,
    TaskFlags,
    fill_in,
    preset,
    refuse_other_size,
    refuse_rising_temperature,
)
from search_space.settings import DecidingSettings, PretrainingSettings, SearchSettings
from utils.data.names import FEW_SHOT_SETS, INPUT_SHAPES
from utils.run.cli import ArgumentParser, place, real, switch, whole

NOT_OF_ADAPTING = ("hp_setting", "transductive")
SMALLEST_DECIDING = 8  # images of a batch: two classes
SMALL_IMAGE = 32  # pixels: of larger images a task by itself fills the caches, and takes gigabytes


@dataclass(frozen=True)
class MetaTrainingFlags(Section):
    title = "meta-training"
    meta_cell: Path | None = flag(
        place,
        "start from this meta_cell.pt of the same network; the head of another --n starts at zero (default: from "
        "scratch)",
        changes=True,
    )
    meta_epochs: int = flag(whole(0, EPOCHS), "0 writes the untrained meta-cell", 30000, changes=True)
    warm_up_epochs: int = flag(whole(0, EPOCHS), "meta-epochs, from the first, that adapt weights only", 15000)
    meta_batch_size: int = flag(whole(1, 10_000), "tasks of a meta-epoch (default: the preset's)")
    n_train: int = flag(whole(1, 10_000), "support images a class of a training task (default: the preset's)")
    task_train_steps: int = flag(whole(1, EPOCHS), "epochs over a training task's support set (default: the preset's)")
    batch_size: int = flag(whole(2, IMAGES), "images of a training task's batch (default: the preset's)")
    tasks_at_once: int = flag(
        whole(1, 10_000),
        "tasks adapted side by side, one by one with --partial_channels; another number rounds differently (default: 5 "
        "of images of up to 32x32 pixels, else 1)",
    )
    compile: int = flag(
        switch,
        "1: tasks side by side run what torch.compile makes of their passes, where none has pruned a candidate, after "
        "minutes of compiling: on a GPU CUDA graphs; on a CPU compiling takes longer than it saves",
        0,
    )
    w_meta_lr: float = flag(real(0, LR), "step of the first fold for weights (default: the preset's)")
    a_meta_lr: float = flag(real(0, LR), "that for alpha and beta (default: the preset's)")
    meta_lr_decay: str = flag(
        str,
        "linear: both steps of the first fold shrink to 0 over --meta_epochs, as Reptile's (Nichol et al. 2018)",
        "none",
        choices=("none", "linear"),
    )
    drop_path_prob: float = flag(real(0, 0.99), "of each candidate's output, for each image", 0.2)
    task_weighting: str = flag(str, "coefficients of the first fold", "softmax", choices=("softmax", "mean"))
    cell_weighting: str = flag(str, "coefficients of the second fold", "mean", choices=("softmax", "mean"))
    cells: str = flag(str, "separate: keep n cells (MetaNAS, the baseline)", "meta", choices=("meta", "separate"))

    def meta_lrs(self, meta_epoch: int) -> tuple[float, float]:
        """The first fold's steps for weights, and for alpha and beta."""
        decay = 1.0 if self.meta_lr_decay == "none" else 1 - meta_epoch / self.meta_epochs
        return decay * self.w_meta_lr, decay * self.a_meta_lr


@dataclass(frozen=True)
class PretrainingFlags(Section):
    title = "pre-training, before meta-training, to tell all its classes apart"
    pretrain_epochs: int = flag(whole(0, EPOCHS), "passes over the images of the training classes", 0)
    pretrain_batch_size: int = flag(whole(2, IMAGES), "images of a step", 128)
    pretrain_micro_batch: int = flag(
        whole(2, IMAGES),
        "images whose gradient is taken at a time: fewer need less memory; --decide 1 takes up to a whole batch where "
        "one candidate an edge is run",
        32,
    )
    pretrain_lr: float = flag(real(0, LR), "AdamW's largest; it falls to 0 by a cosine", 0.003)
    pretrain_random: int = flag(
        switch, "1: half of each batch goes through random architectures, so that candidates work alone too", 0
    )

    decide: int = flag(
        switch,
        "1: alpha and beta are trained, too, until they decide: first random paths, then a search within "
        "--decide_work, then the network that it found",
        0,
    )
    decide_work: float = flag(
        real(0.01, 1), "share of the supernet's multiply-accumulates that the network found may take", 0.19
    )

    def settings(self, dense: bool) -> PretrainingSettings | DecidingSettings:
        """How the meta-cell is pre-trained; ``dense`` counts without --decide only."""
        shared = {
            "epochs": self.pretrain_epochs,
            "batch_size": self.pretrain_batch_size,
            "micro_batch": self.pretrain_micro_batch,
            "lr": self.pretrain_lr,
        }
        if self.decide:
            return DecidingSettings(**shared, work=self.decide_work)
        return PretrainingSettings(**shared, random_architectures=bool(self.pretrain_random), dense=dense)


@dataclass(frozen=True)
class NetworkFlags(Section):
    title = "network"
    init_channels: int = flag(whole(2, 4096), "C: channels of a node, even", 28)
    layers: int = flag(whole(1, 64), "cells", 4)
    nodes: int = flag(whole(1, 8), "nodes of a cell", 3)
    reduction_layers: list[int] = flag(
        whole(0, 63), "cells of stride 2, from 0 (default: 1 and 3, if there)", nargs="*"
    )
    partial_channels: int = flag(
        whole(1, 64),
        "K: the candidates see 1/K of the channels, and beta weighs edges and not pairs (PC-DARTS, the baseline)",
        1,
    )


@dataclass(frozen=True)
class MetaTestFlags(Section):
    title = "meta-test, on classes that are not trained on"
    eval_freq: int = flag(whole(1, EPOCHS), "meta-epochs from one meta-test to the next", 1500, changes=True)
    eval_epochs: int = flag(whole(1, 1_000_000), "tasks of a meta-test", 100, changes=True)
    test_batch_size: int = flag(whole(2, IMAGES), "images of a test task's batch (default: the preset's)")


@dataclass(frozen=True)
class TfmlFlags(Flags):
    run: RunFlags
    tasks: TaskFlags
    pretraining: PretrainingFlags
    training: MetaTrainingFlags
    network: NetworkFlags
    test: MetaTestFlags
    search: AdaptationFlags

    def of_training_task(self, meta_epoch: int) -> SearchSettings:
        """How a training task is adapted: in the warm-up its weights only."""
        training, search = self.training, self.search
        searching = meta_epoch >= training.warm_up_epochs
        found_epochs = search.found_of(training.task_train_steps) if searching else 0
        return search.settings(
            epochs=training.task_train_steps,
            architecture_epochs=training.task_train_steps - found_epochs if searching else 0,
            found_epochs=found_epochs,
            batch_size=training.batch_size,
            drop_path_prob=training.drop_path_prob,
            compiled=bool(training.compile),
        )

    def adaptation(self) -> dict[str, object]:
        """How a meta-test adapts, by the names of onnas.py's flags."""
        of_testing = {**vars(self.search), "batch_size": self.test.test_batch_size}
        return {name: value for name, value in of_testing.items() if name not in NOT_OF_ADAPTING and value is not None}

    def may_change(self) -> set[str]:
        """A decay reaches 0 at the end: a longer run would have been another one from its start."""
        return super().may_change() - (set() if self.training.meta_lr_decay == "none" else {"meta_epochs"})


def parse_tfml_flags(documentation: str) -> TfmlFlags:
    """Reads the command line.

    Args:
        documentation: of the script, whose first line --help shows.
    """
    parser = ArgumentParser(prog="tfml.py", description=documentation.splitlines()[0])
    own = {"path": {"default": Path("runs/tfml")}, "dataset": {"choices": FEW_SHOT_SETS, "default": "omniglot"}}
    values = parse(parser, TfmlFlags, own)
    refuse_rising_temperature(parser, values)
    refuse_other_size(parser, values)
    fill_in(values, preset(values["hp_setting"], values["dataset"], values["k"]))
    shape = INPUT_SHAPES.get(values["dataset"])  # a folder of images has its own
    small = (max(shape[1:]) if shape else values["input_size"] or SMALL_IMAGE + 1) <= SMALL_IMAGE
    reductions = [layer for layer in (1, 3) if layer < values["layers"]]
    fill_in(values, {"tasks_at_once": 5 if small else 1, "reduction_layers": reductions})
    side_by_side = min(values["tasks_at_once"], values["meta_batch_size"]) > 1 and values["partial_channels"] == 1
    if values["compile"] and not side_by_side:
        parser.error(
            "argument --compile: 1 is for tasks side by side: --tasks_at_once and --meta_batch_size 2 or more, "
            "--partial_channels 1"
        )
    if values["pretrain_epochs"] and values["partial_channels"] > 1:
        parser.error("argument --pretrain_epochs: a pre-training is of all channels, with --partial_channels 1.")
    _refuse_deciding(parser, values)
    return build(TfmlFlags, values)


def _refuse_deciding(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """Refuses what --decide has no use for, and it where there is nothing to decide in."""
    if not values["decide"]:
        if "decide_work" in parser.given():
            parser.error("argument --decide_work: goes with --decide 1")
        return
    if not values["pretrain_epochs"]:
        parser.error("argument --decide: 1 is a kind of pre-training: it goes with --pretrain_epochs 1 or more")
    if values["pretrain_random"]:
        parser.error("argument --pretrain_random: --decide 1 knows 0 only, it runs single paths")
    if values["pretrain_batch_size"] < SMALLEST_DECIDING:
        parser.error(f"argument --pretrain_batch_size: --decide 1 needs {SMALLEST_DECIDING} images, of two classes")
