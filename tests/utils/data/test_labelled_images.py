import torch

from utils.data.labelled_images import LabelledImages


def test_one_image_in_twenty_of_each_class_is_held_out_and_one_at_least():
    images = LabelledImages([40, 5], lambda classes, numbers: torch.tensor([classes, numbers]).T)
    assert images.classes == 2
    assert images.held_out.tolist() == [[0, 38], [0, 39], [1, 4]]
    assert images.training.tolist() == [[0, number] for number in range(38)] + [[1, number] for number in range(4)]


def test_rows_are_read_as_images_with_the_labels_of_their_classes():
    images = LabelledImages([3, 3], lambda classes, numbers: 10.0 * torch.tensor(classes) + torch.tensor(numbers))
    read, labels = images.read(torch.tensor([[1, 2], [0, 1]]))
    assert read.tolist() == [12.0, 1.0]
    assert labels.tolist() == [1, 0]
