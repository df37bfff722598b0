"""Published figures and sizes that results are put beside."""

TITLES = {"miniimagenet": "miniImageNet", "omniglot": "Omniglot", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
TITLES |= {"mnist": "MNIST", "fashionmnist": "Fashion-MNIST", "imagefolder": "image folder", "synthetic": "synthetic"}

# Peak memory of adapting, by what gets gradient: On-NAS's on a GPU (MB), and what its published code takes on a CPU
# (MiB of live tensors, several steps); None was not published, or not found again. 5-way 5-shot, one query a class,
# batches of 15, C = 28, 4 cells.
MEMORY = {
    "none": {"miniimagenet": (5168, 4945), "omniglot": (561, 563)},
    "alpha": {"miniimagenet": (352, None), "omniglot": (53, None)},
    "alpha + beta": {"miniimagenet": (320, None), "omniglot": (36, None)},
    "alpha + beta + step-by-step": {"miniimagenet": (243, 284), "omniglot": (26, 41)},
    "the same, leanest schedule": {"miniimagenet": (None, None), "omniglot": (None, None)},
    "all candidates, exact": {"miniimagenet": (None, None), "omniglot": (None, None)},
}
MEMORY_GPU = "paper, GPU (MB)"
MEMORY_CPU = "its code, CPU (MiB)"

# Reptile with a fixed network of four convolutions, transductive, one query a class (Nichol et al. 2018):
# (data set, ways, shots) -> accuracy.
REPTILE = {
    ("omniglot", 5, 1): 0.977,
    ("omniglot", 5, 5): 0.995,
    ("omniglot", 20, 1): 0.894,
    ("omniglot", 20, 5): 0.971,
    ("miniimagenet", 5, 1): 0.500,
    ("miniimagenet", 5, 5): 0.660,
}

# Times less storage, a meta-cell against n cells (On-NAS's claim).
STORAGE_RATIO = 4

# (data set, --use_vinyals_split) -> split -> classes, and images of each.
FEW_SHOT_SPLITS = {
    ("omniglot", 1): {"train": (1028, 20), "val": (172, 20), "test": (423, 20)},
    ("omniglot", 0): {"train": (964, 20), "test": (659, 20)},
    ("miniimagenet", 1): {"train": (64, 600), "val": (16, 600), "test": (20, 600)},
}
# Classes, training images, test images.
FULL_TASKS = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "mnist": (10, 60_000, 10_000),
    "fashionmnist": (10, 60_000, 10_000),
}
