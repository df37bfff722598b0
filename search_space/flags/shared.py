"""The flags that both scripts have, and the published presets that the flags left out are taken from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_space.flags.declare import FEW_SHOT, FULL, OWN, Section, flag
from search_space.normalizers import ANNEAL_MODES, NORMALIZERS, Normalizer
from search_space.settings import HEAD_STARTS, META, SearchSettings
from utils.run.cli import DEVICES, ArgumentParser, place, real, switch, whole

# The published settings. test_batch_size is the task batch of testing; miniImageNet's is 5 with one shot.
METANAS = {
    "task_train_steps": 5,
    "n_train": 15,
    "batch_size": 20,
    "meta_batch_size": 10,
    "w_meta_lr": 1.0,
    "a_meta_lr": 0.6,
}
PRESETS = {
    "in_metanas": {**METANAS, "test_batch_size": 15, "w_lr": 0.01, "alpha_lr": 0.01},
    "og_metanas": {**METANAS, "test_batch_size": 10, "w_lr": 0.005, "alpha_lr": 0.005},
}
# CIFAR-10's.
FULL_TASK_PRESET = {"test_batch_size": 64, "w_lr": 0.025, "alpha_lr": 3e-4}

OF_DATA_SETS, SMALL_TASKS = (FEW_SHOT, FULL), (FEW_SHOT, OWN)  # which tasks have a use for a flag
EPOCHS = 10_000_000  # more than years of them
IMAGES = 1_000_000  # more than memory holds
LR = 100  # with it nothing is learnt any more


def preset(name: str | None, dataset: str, shots: int) -> dict[str, Any]:
    """The preset of this name, or the one of a data set."""
    name = name or ("in_metanas" if dataset == "miniimagenet" else "og_metanas")
    values = dict(PRESETS[name])
    if name == "in_metanas" and shots == 1:
        values["test_batch_size"] = 5
    return values


def fill_in(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Gives the flags that have no value yet theirs of ``defaults``; it may have others, too."""
    for name, default in defaults.items():
        if name in values and values[name] is None:
            values[name] = default


@dataclass(frozen=True)
class RunFlags(Section):
    title = "run"
    path: Path = flag(place, "folder that everything is written into", changes=True)
    name: str = flag(str, "a name for the run in the progress bar and in args.json", "", changes=True)
    seed: int = flag(whole(0), "of every random draw", 21)
    device: str = flag(str, "auto: a GPU where there is one", "auto", choices=DEVICES, changes=True)
    tf32: int = flag(switch, "1: a GPU rounds what it multiplies to TF32, 11 of float32's 24 bits", 0)
    resume: bool = flag(bool, "go on with the run in --path, if there is one", changes=True)
    report: int = flag(
        switch,
        "1: writes report.html, of a full task genotype.png too: needs Jinja2 and Matplotlib",
        1,
        changes=True,
        needs=("jinja2", "matplotlib"),
    )
    tensorboard: int = flag(
        switch,
        "1: writes events into tb/: needs TensorBoard and Matplotlib, 150 MiB of memory",
        1,
        changes=True,
        needs=("tensorboard", "matplotlib"),
    )


@dataclass(frozen=True)
class TaskFlags(Section):
    title = "tasks"
    dataset: str | None = flag(str, "where the images are from", only=OF_DATA_SETS)
    data_path: Path | None = flag(
        place, "folder of the data sets, or the image folder", Path("data"), changes=True, only=OF_DATA_SETS
    )
    input_size: int | None = flag(
        whole(8, 4096),
        "side that images of your own are resized to, in a full task those of any data set (default: the meta-cell's; "
        "without one as they are, if all are square and of one size)",
        metavar="PIXELS",
    )
    download: bool | None = flag(
        bool, "fetch the data set if it is not in --data_path", changes=True, only=OF_DATA_SETS
    )
    use_vinyals_split: int | None = flag(
        switch,
        "Omniglot: 1 Vinyals' 1028/172/423 characters, 0 background/evaluation (964/659)",
        1,
        only=OF_DATA_SETS,
    )
    n: int | None = flag(whole(2, 10_000), "ways: classes of a task", 5, only=OF_DATA_SETS)
    k: int | None = flag(whole(1, 10_000), "shots: support images a class of a test task", 5, only=OF_DATA_SETS)
    q: int | None = flag(whole(1, 10_000), "query images a class of a test task", 1, only=OF_DATA_SETS)
    workers: int | None = flag(
        whole(0, 64), "processes that load images beside the main one", 0, changes=True, only=OF_DATA_SETS
    )


@dataclass(frozen=True)
class AdaptationFlags(Section):
    title = "search"
    hp_setting: str | None = flag(
        str, "published preset (default: that of the data set)", choices=tuple(PRESETS), only=SMALL_TASKS
    )
    w_lr: float = flag(real(0, LR), "learning rate of the weights (default: the preset's)")
    alpha_lr: float = flag(real(0, LR), "that of alpha and beta (default: the preset's)")
    test_task_train_steps: int | None = flag(
        whole(1, EPOCHS), "epochs over a test task's support set", 10, only=SMALL_TASKS
    )
    test_adapt_steps: float | None = flag(
        real(0, 1),
        "share of these epochs, from the first, that adapt alpha and beta too; the rest adapts weights",
        1.0,
        only=SMALL_TASKS,
    )
    found_epochs: float | None = flag(
        real(0, 1),
        "share of a task's epochs, its last ones, that train only the weights of the found network",
        0.0,
        only=SMALL_TASKS,
    )
    normalizer: str = flag(str, "from alpha and beta to weights", "softmax", choices=NORMALIZERS)
    normalizer_temp_anneal_mode: str = flag(str, "how T goes over a task", "linear", choices=ANNEAL_MODES)
    normalizer_t_max: float = flag(real(1e-3, 1000), "temperature T at a task's start", 1.0)
    normalizer_t_min: float = flag(real(1e-3, 1000), "T at its end, at most as high", 0.1)
    alpha_prune_threshold: float = flag(real(0, 1), "candidates less probable than this are not run", 0.01)
    head_init: str | None = flag(
        str,
        "how a task's head starts. meta: as in the meta-cell; zero: at zero; centroid: at the mean features of each "
        "class's support images (default: meta; centroid where the meta-cell's head is zero)",
        choices=HEAD_STARTS,
        only=SMALL_TASKS,
    )
    transductive: int | None = flag(
        switch,
        "1: BN normalises a query batch by its own statistics; 0: by the support set's, image by image",
        1,
        only=SMALL_TASKS,
    )

    def annealing(self) -> Normalizer:
        """From alpha and beta to weights, with T as it goes over a task."""
        return Normalizer(
            self.normalizer, self.normalizer_temp_anneal_mode, self.normalizer_t_max, self.normalizer_t_min
        )

    def settings(self, **of_task: Any) -> SearchSettings:
        """How a task is searched: what is the same for every kind of task, and ``of_task``."""
        return SearchSettings(
            w_lr=self.w_lr,
            alpha_lr=self.alpha_lr,
            normalizer=self.annealing(),
            prune_threshold=self.alpha_prune_threshold,
            **of_task,
        )

    def found_of(self, epochs: int) -> int:
        """How many of a task's epochs train the found network alone."""
        return round(self.found_epochs * epochs)

    def of_test_task(self, batch_size: int) -> SearchSettings:
        """How a few-shot test task is adapted; every candidate gets gradient."""
        found_epochs = self.found_of(self.test_task_train_steps)
        return self.settings(
            epochs=self.test_task_train_steps,
            architecture_epochs=round(self.test_adapt_steps * (self.test_task_train_steps - found_epochs)),
            found_epochs=found_epochs,
            batch_size=batch_size,
            head_init=self.head_init or META,
            transductive=bool(self.transductive),
        )


def rising_temperature(values: dict[str, Any]) -> str | None:
    """What is wrong where T would rise over a task; None: it falls, or stays."""
    high, low = values["normalizer_t_max"], values["normalizer_t_min"]
    if values["normalizer_temp_anneal_mode"] == "none" or low <= high:
        return None
    return f"argument --normalizer_t_min: must be at most --normalizer_t_max {high:g}, got {low:g}"


def refuse_rising_temperature(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """T falls over a task, or stays."""
    wrong = rising_temperature(values)
    if wrong:
        parser.error(wrong)


def refuse_other_size(parser: ArgumentParser, values: dict[str, Any]) -> None:
    """A few-shot data set that is published has its own size."""
    if values["input_size"] is not None and values["dataset"] != "imagefolder":
        parser.error(f"argument --input_size: goes with --dataset imagefolder, not {values['dataset']}")
