"""The data sets that command lines name. Torch is not imported: a command line is read before that."""

# Of few-shot data sets: channels, height, width of an image. A folder of images has its own.
SHAPES = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84)}
INPUT_SHAPES = {**SHAPES, "synthetic": (1, 28, 28)}
FULL_TASKS = ("cifar10", "cifar100", "mnist", "fashionmnist", "imagefolder")
