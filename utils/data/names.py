"""The data sets by name; nothing that reads them is imported here, as that takes seconds and hundreds of MiB."""

# Few-shot: channels, height, width.
INPUT_SHAPES = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84), "synthetic": (1, 28, 28)}
FEW_SHOT_SETS = (*INPUT_SHAPES, "imagefolder")
FULL_TASK_SETS = ("cifar10", "cifar100", "mnist", "fashionmnist", "imagefolder")
