"""What a search is run with, in frozen dataclasses. No torch: a command line is read before torch is imported."""

from dataclasses import dataclass, field

from search_space.normalizers import Normalizer

# The network that classifies when a task has been adapted to: what the genotype names alone, or all that is mixed;
# AUTO: see search_space/task_network.py.
AUTO, FOUND, RELAXED = NETWORKS = ("auto", "found", "relaxed")
# How a backward pass is taken, the fastest first. ORDINARY: one pass over everything that autograd kept; the other two:
# step by step, see models/step_by_step.py.
ORDINARY, FASTEST, LEANEST = ("ordinary", "fastest", "leanest")
# Where a task's head starts. META: as the meta-cell has it, which is zero for another number of ways than its own.
# CENTROID: it classifies by the mean features of the support set's classes, see search_space/head_start.py.
META, ZERO, CENTROID = HEAD_STARTS = ("meta", "zero", "centroid")


@dataclass(frozen=True)
class Schedule:
    """How the gradient of a batch is taken: always the same gradient, but not the same time and memory.

    name: ORDINARY, FASTEST or LEANEST.
    split_num: micro-batches of a batch, whose gradients are accumulated.
    smallest: images of a micro-batch at least. A single one is never enough: BN would leave nothing of it.
    """

    name: str = ORDINARY
    split_num: int = 1
    smallest: int = 2

    @property
    def step_by_step(self) -> bool:
        """Whether one cell's activations exist at a time."""
        return self.name != ORDINARY

    def count(self, batch: int) -> int:
        """Micro-batches of ``batch`` images: ``split_num``, or fewer where one would hold less than ``smallest``."""
        return max(1, min(self.split_num, batch // self.smallest))

    def largest(self, batch: int) -> int:
        """Images of the largest micro-batch of ``batch`` images; the sizes differ by one at most."""
        return -(-batch // self.count(batch))


@dataclass(frozen=True)
class SearchSettings:
    """How a task is adapted, in meta-training and on the device.

    epochs: passes over the support set.
    architecture_epochs: those that adapt alpha and beta too: of a few-shot task the first, of a full one the last.
    found_epochs: the last ones, of a few-shot task, which train the weights of the found network alone.
    batch_size: images of a batch.
    sampleno: candidates of an edge that get gradient, None: all. alpha_expect: chosen by expectation.
    beta_sampling: one edge pair a node gets gradient.
    drop_path_prob: for meta-training only.
    unrolled: the architecture gradient looks one weight step ahead, see search_space/unrolled.py.
    head_init: where a task's head starts, one of HEAD_STARTS.
    transductive: BN normalises a query batch by its own statistics.
    query_batch: images of such a batch; None: batch_size.
    compiled: tasks side by side run code that torch.compile made.
    """

    epochs: int
    architecture_epochs: int
    batch_size: int
    w_lr: float
    alpha_lr: float
    schedule: Schedule = Schedule()
    normalizer: Normalizer = field(default_factory=Normalizer)
    prune_threshold: float = 0.01
    sampleno: int | None = None
    alpha_expect: bool = True
    beta_sampling: bool = False
    drop_path_prob: float = 0.0
    unrolled: bool = False
    head_init: str = META
    found_epochs: int = 0
    transductive: bool = True
    query_batch: int | None = None
    compiled: bool = False


@dataclass(frozen=True)
class PretrainingSettings:
    """How the meta-cell is trained to tell all classes of meta-training apart.

    epochs: passes over the images.
    batch_size: images of a step. micro_batch: those whose gradient is taken at a time; BN uses their statistics.
    lr: AdamW's largest.
    random_architectures: every second micro-batch goes through one instead of the whole mixture.
    dense: a micro-batch is run as few, large convolutions in bfloat16: for a GPU; otherwise step by step.
    """

    epochs: int
    batch_size: int
    micro_batch: int
    lr: float
    random_architectures: bool
    dense: bool = False


@dataclass(frozen=True)
class DecidingSettings:
    """How the meta-cell is trained to decide, see search_space/deciding/training.py.

    epochs: passes over the images. free, search: the shares of the steps of the first two phases.
    batch_size: images of a step. micro_batch: those that BN sees at most, but for paths in a whole batch.
    lr: AdamW's largest, of the weights. alpha_lr: Adam's, of alpha and beta.
    work: the share of the supernet's multiply-accumulates that a path may take on average at the search's end; it
        comes down to it from ``slack`` more. work_weight: of what is beyond it, in the loss.
    gap: the least distance, after the search, of a row's largest value to the next: at T_MIN the others are pruned.
    """

    epochs: int
    batch_size: int
    micro_batch: int
    lr: float
    work: float
    free: float = 0.2
    search: float = 0.2
    alpha_lr: float = 0.01
    slack: float = 0.05
    work_weight: float = 20.0
    gap: float = 0.7
