"""Supervised pre-training of the meta-cell, before meta-training: one head tells all its classes apart.

Alpha and beta stay as they are. Half of each batch may go through random architectures
instead of the whole mixture, so that a candidate learns to work without the others: the mixtures of a Gumbel softmax
whose temperature falls until one candidate of an edge, and one pair of a node, is left.
"""

import math

import torch
from torch.nn import functional as F

from models.dense_supernet import DenseSupernet
from models.search_cell import Mixture
from models.step_by_step import MicroBatch, step_by_step_backward
from search_space.architecture import EVERYTHING, Choice
from search_space.normalizers import AnnealedNormalizer
from search_space.pretraining.tied_training import TiedTraining
from search_space.search_network import SearchNetwork
from search_space.settings import PretrainingSettings
from utils.data.labelled_images import LabelledImages
from utils.data.views import Views
from utils.draws import torch_generator
from utils.run.ranks import Ranks

BETAS, WEIGHT_DECAY = (0.9, 0.99), 0.03  # of AdamW
WARM_UP = 0.02  # share of the steps over which the learning rate rises
# The random architectures: T falls geometrically over this share of the steps. At its end a candidate is as good as
# alone, and those of a smaller probability than the threshold are not run.
SHARPENING, T_MAX, T_MIN, PRUNE_THRESHOLD = 0.6, 5.0, 0.1, 0.01


class Pretraining(TiedTraining):
    """Trains a network whose head has a class for each of the images' classes."""

    def __init__(
        self, network: SearchNetwork, images: LabelledImages, views: Views, settings: PretrainingSettings, seed: int
    ):
        super().__init__(network, images, views, settings, seed)
        self.dense = DenseSupernet(network.supernet, self.tied) if settings.dense else None
        self.weights = list(network.supernet.parameters())
        decayed = [weight for weight in self.weights if weight.dim() > 1]
        others = [weight for weight in self.weights if weight.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, settings.lr, BETAS)
        self.optimizers = (self.optimizer,)

    def lr(self) -> float:
        """The learning rate of the next step: a rise, then half a cosine down to 0."""
        share = self.step / self.steps
        return self.settings.lr * min(1.0, (share + 1 / self.steps) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2

    def advance(self, ranks: Ranks) -> tuple[float, float]:
        """See :meth:`TiedTraining.advance`."""
        batch = self.batch()
        parts = [(number, len(rows) / len(batch), rows) for number, rows in enumerate(self._micro_batches(batch))]
        gradients, figures = zip(*ranks.gather(self._gradient, parts), strict=True)
        loss, right = torch.stack(figures).sum(0).tolist()
        self.refuse_divergence(loss)
        # In one order, however many processes there are: so the sum is the same to the last bit.
        self._put_gradient(torch.stack(gradients).sum(0))
        self.tied.average_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr()
        self.optimizer.step()
        self.count_step(loss, right)
        return loss, right

    def batch(self) -> torch.Tensor:
        """The rows of the next step's images; an epoch shows each once at most, in an order of its own."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        rows, size = self.images.training, self.settings.batch_size
        order = torch.randperm(len(rows), generator=torch_generator(self.seed, "pretraining/order", epoch))
        return rows[order[place * size : (place + 1) * size]]

    def _micro_batches(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return batch.tensor_split(math.ceil(len(batch) / self.settings.micro_batch))

    def _gradient(self, part: tuple[int, float, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """A micro-batch's share of the gradient, all weights in a row, and of (loss, classified rightly)."""
        number, share, rows = part
        device = self.network.device
        images, labels = (tensor.to(device) for tensor in self.images.read(rows))
        right = []
        images = self.views.of(images, self.views.draw(len(images), self._generator("views", number)))

        def criterion(logits: torch.Tensor) -> torch.Tensor:
            right.append((logits.detach().argmax(1) == labels).float().mean() * share)
            return F.cross_entropy(logits, labels) * share

        micro_batch = MicroBatch(images, self.mixtures(number), criterion)
        self.optimizer.zero_grad()
        loss = self._backward(micro_batch)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        return torch.cat([gradient.flatten() for gradient in gradients]).cpu(), torch.stack([loss, right[0]]).cpu()

    def _backward(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Leaves a micro-batch's gradient in the weights; returns its loss."""
        if self.dense is None:
            return step_by_step_backward(self.network.supernet, micro_batch, of_weights=True, keep_inputs=True)
        coefficients = {
            cell_type: mixture.coefficients * torch.tensor(mixture.active, device=mixture.coefficients.device)
            for cell_type, mixture in micro_batch.mixtures.items()
        }
        with torch.autocast(micro_batch.images.device.type, torch.bfloat16):
            logits = self.dense(micro_batch.images, coefficients)
        loss = micro_batch.criterion(logits)
        loss.backward()
        return loss.detach()

    def _put_gradient(self, gradient: torch.Tensor) -> None:
        parts = gradient.to(self.network.device).split([weight.numel() for weight in self.weights])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.grad = part.view_as(weight)

    def _generator(self, draw: str, micro_batch: int) -> torch.Generator:
        return torch_generator(self.seed, f"pretraining/{draw}", self.step, micro_batch)

    @torch.no_grad()
    def mixtures(self, micro_batch: int) -> dict[str, Mixture]:
        """Those of a micro-batch of the next step: of the network's alpha and beta, or of a random architecture."""
        architecture, choice = self.network.architecture, EVERYTHING
        normalizer = AnnealedNormalizer("softmax", 1.0, 0.0)
        if self.settings.random_architectures and micro_batch % 2:
            progress = min(1.0, self.step / self.steps / SHARPENING)
            normalizer = AnnealedNormalizer("gumbel_softmax", T_MAX * (T_MIN / T_MAX) ** progress, progress)
            choice = Choice(noise=architecture.draw_noise(self._generator("architecture", micro_batch)))
        return architecture.mixtures(normalizer, PRUNE_THRESHOLD, choice)

    @torch.no_grad()
    def held_out_accuracy(self, ranks: Ranks) -> float:
        """The share of the held-out images that the whole mixture classifies rightly, BN by a micro-batch's statistics.

        They are mixed, so that a micro-batch is no few classes' alone.
        """
        rows = self.images.held_out
        order = torch.randperm(len(rows), generator=torch_generator(self.seed, "pretraining/held out"))
        supernet = self.network.supernet.train()

        def right(part: torch.Tensor) -> int:
            images, labels = (tensor.to(self.network.device) for tensor in self.images.read(part))
            with supernet.tracking.paused():
                logits = supernet(images, self.mixtures(0))
            return (logits.argmax(1) == labels).sum().item()

        return sum(ranks.gather(right, self._micro_batches(rows[order]))) / len(rows)
