"""Training a meta-cell that decides, before or in the place of meta-training: three phases on batches of many classes.

Free: each step runs one path, every path as likely, so that all candidates learn to work alone. Search: paths are
drawn from alpha and beta, which move by their gradient, and away from networks of more work than asked for. Decided:
alpha and beta rest; most steps train the network that they point to, some the relaxed one at a temperature of the
annealing, so that a task's search starts well too, and some another path.
"""

import math

import torch

from models.search_cell import Mixture
from search_space.architecture import Architecture
from search_space.deciding.class_means import class_mean_loss
from search_space.deciding.paths import draw_paths
from search_space.deciding.work import Work
from search_space.found import genotype_mixtures
from search_space.normalizers import AnnealedNormalizer
from search_space.pretraining.tied_training import TiedTraining
from search_space.search_network import SearchNetwork
from search_space.settings import DecidingSettings
from utils.data.labelled_images import LabelledImages
from utils.data.views import Views
from utils.draws import torch_generator
from utils.errors import InputError
from utils.run.ranks import Ranks

FREE, SEARCH, DECIDED = "free", "search", "decided"
IMAGES_A_CLASS = 4  # of a batch; more where there are too few classes to fill it
WARM_UP = 0.01  # share of the steps over which the learning rate rises
WEIGHT_DECAY = 1e-4
ARCHITECTURE_BETAS = (0.5, 0.999)
# BN sees a quarter, a half or all of --pretrain_micro_batch, of images of different classes, and in this share of the
# paths' steps the whole batch. On the device micro-batches are small: what is only trained on large ones loses there.
PARTS, WHOLE = (4, 2, 1), 0.4
RELAXED, OTHER_PATH = 0.12, 0.1  # shares of the decided steps
T_MIN, T_MAX, PRUNE_THRESHOLD = 0.1, 1.0, 0.01


class DecidingTraining(TiedTraining):
    """Trains a network but for its head, on batches of (classes, images a class).

    Raises:
        InputError: a class has too few images.
    """

    def __init__(
        self, network: SearchNetwork, images: LabelledImages, views: Views, settings: DecidingSettings, seed: int
    ):
        super().__init__(network, images, views, settings, seed)
        self.supernet, self.architecture = network.supernet, network.architecture
        self.counts = images.training[:, 0].bincount().tolist()
        self.classes = min(images.classes, settings.batch_size // IMAGES_A_CLASS)
        self.images_a_class = min(settings.batch_size // self.classes, *self.counts)
        if self.images_a_class < 2:
            raise InputError("--decide 1 needs three images of each class: two to train on, one that is held out.")
        shape = tuple(images.read(images.training[:1])[0].shape[1:])
        self.work = Work(network.supernet, shape)
        weights = [*self.tied.parameters.values(), *network.supernet.stem.parameters()]
        self.trained = [*weights, *self.architecture.parameters()]
        self.optimizers = (
            torch.optim.AdamW(weights, settings.lr, weight_decay=WEIGHT_DECAY),
            torch.optim.Adam(self.architecture.parameters(), settings.alpha_lr, ARCHITECTURE_BETAS),
        )

    @property
    def first_searching(self) -> int:
        """The step that begins the search."""
        return round(self.settings.free * self.steps)

    @property
    def first_decided(self) -> int:
        """The step that begins what is decided."""
        return round((self.settings.free + self.settings.search) * self.steps)

    @property
    def phase(self) -> str:
        """That of the next step."""
        if self.step < self.first_searching:
            return FREE
        return SEARCH if self.step < self.first_decided else DECIDED

    def lr(self) -> float:
        """The learning rate of the next step: a rise, half a cosine's way down until it is decided; then all to 0."""
        step, before = self.step, self.first_decided
        share = step / (2 * before) if step < before else (step - before) / (self.steps - before)
        rise = min(1.0, (step + 1) / (WARM_UP * self.steps))
        return self.settings.lr * rise * (1 + math.cos(math.pi * share)) / 2

    def allowed_work(self) -> float:
        """Of the next step, in the search."""
        left = (self.first_decided - self.step) / (self.first_decided - self.first_searching)
        return self.settings.work + self.settings.slack * left

    def advance(self, ranks: Ranks) -> tuple[float, float]:
        """See :meth:`TiedTraining.advance`."""
        phase = self.phase
        if self.step == self.first_decided:
            widen_gaps(self.architecture, self.settings.gap)
        loss, right = self.backward(ranks)
        self.refuse_divergence(loss)
        weights, architecture = self.optimizers
        self.tied.average_gradients()
        for group in weights.param_groups:
            group["lr"] = self.lr()
        weights.step()
        if phase == SEARCH:
            beyond = self.work.share(self.architecture) - self.allowed_work()
            (self.settings.work_weight * beyond.relu()).backward()
            architecture.step()
        self.count_step(loss, right)
        return loss, right

    def backward(self, ranks: Ranks) -> tuple[float, float]:
        """Leaves the gradient of the next step's batch in the parameters; returns its loss and what was right.

        The loss needs all features, and then one micro-batch's activations are there at a time.
        """
        relaxed = self.phase == DECIDED and self._draw("kind") < RELAXED
        parts = list(enumerate(self.micro_batches(whole=not relaxed and self._draw("whole") < WHOLE)))
        views = {number: self._views(number, rows) for number, rows in ranks.share(parts)}

        def features_of(part: tuple[int, torch.Tensor]) -> torch.Tensor:
            with self.supernet.tracking.paused():
                return self.supernet.features(views[part[0]], self.mixtures(relaxed))

        with torch.no_grad():
            features = torch.cat(ranks.gather(lambda part: features_of(part).cpu(), parts))
        features.requires_grad_()
        by_class = features.view(self.images_a_class, self.classes, -1).transpose(0, 1)
        loss, right = class_mean_loss(by_class)
        loss.backward()
        gradients = features.grad.split([len(rows) for _, rows in parts])

        def gradient_of(part: tuple[int, torch.Tensor]) -> dict[int, torch.Tensor]:
            """Of the parameters that are run, by number, in a row: AdamW leaves the others alone."""
            self._zero_grad()
            own = features_of(part)
            own.backward(gradients[part[0]].to(own.device))
            return {number: own.grad.flatten().cpu() for number, own in enumerate(self.trained) if own.grad is not None}

        of_parts = ranks.gather(gradient_of, parts)
        self._zero_grad()  # a process may have had no part
        # In one order and layout, however many processes there are: so the sum is the same to the last bit.
        for number in of_parts[0]:
            summed = torch.stack([gradient[number] for gradient in of_parts]).sum(0)
            self.trained[number].grad = summed.to(self.network.device).view_as(self.trained[number])
        return loss.item(), right.item()

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _draw(self, what: str, micro_batch: int = 0) -> float:
        """Of the next step, uniform in [0, 1)."""
        return torch.rand((), generator=self._generator(what, micro_batch)).item()

    def _generator(self, what: str, micro_batch: int = 0) -> torch.Generator:
        return torch_generator(self.seed, f"deciding/{what}", self.step, micro_batch)

    def mixtures(self, relaxed: bool) -> dict[str, Mixture]:
        """Those of the next step, of all its micro-batches the same.

        Args:
            relaxed: all candidates, at a temperature of the annealing.
        """
        if relaxed:
            temperature = T_MIN + (T_MAX - T_MIN) * self._draw("temperature")
            with torch.no_grad():
                return self.architecture.mixtures(AnnealedNormalizer("softmax", temperature, 0.0), PRUNE_THRESHOLD)
        if self.phase == DECIDED and self._draw("path") >= OTHER_PATH:
            return self.found_mixtures()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.phase == SEARCH):
            return draw_paths(self.architecture, self.work.cell_types, T_MAX, self._generator("paths"))

    def found_mixtures(self) -> dict[str, Mixture]:
        """Those of the network that alpha and beta point to now."""
        return genotype_mixtures(self.network.genotype(), self.network.settings, like=self.supernet.head.weight)

    def micro_batches(self, whole: bool) -> tuple[torch.Tensor, ...]:
        """The rows of the next step's images, each micro-batch's (N, 2); images of a class are in different ones."""
        draws = self._generator("batch")
        classes = torch.randperm(self.images.classes, generator=draws)[: self.classes].tolist()
        numbers = [torch.randperm(self.counts[label], generator=draws)[: self.images_a_class] for label in classes]
        rows = torch.stack([torch.tensor(classes).expand(self.images_a_class, -1), torch.stack(numbers, 1)], 2)
        rows = rows.flatten(0, 1)
        part = PARTS[int(torch.randint(len(PARTS), (), generator=draws))]
        size = len(rows) if whole else max(2, self.settings.micro_batch // part)
        return rows.tensor_split(max(1, len(rows) // size))

    def _views(self, micro_batch: int, rows: torch.Tensor) -> torch.Tensor:
        images = self.images.read(rows)[0].to(self.network.device)
        return self.views.of(images, self.views.draw(len(images), self._generator("views", micro_batch)))

    @torch.no_grad()
    def held_out_accuracy(self, ranks: Ranks) -> float:
        """The share of the classes of which the network found classifies a held-out image rightly.

        It is told from as many classes as a batch has, each known by the mean features of images that were trained on,
        one fewer than a batch has; BN sees them all.
        """
        order = torch.randperm(self.images.classes, generator=torch_generator(self.seed, "deciding/held out"))
        first = dict(reversed(self.images.held_out.tolist()))
        shown, mixtures = self.images_a_class - 1, self.found_mixtures()

        def right(classes: torch.Tensor) -> int:
            labels = classes.tolist()
            rows = [(label, number) for number in range(shown) for label in labels]
            rows += [(label, first[label]) for label in labels]
            images = self.images.read(torch.tensor(rows))[0].to(self.network.device)
            with self.supernet.tracking.paused():
                features = self.supernet.features(images, mixtures).view(shown + 1, len(labels), -1)
            nearest = torch.cdist(features[-1], features[:-1].mean(0)).argmin(1)
            return (nearest.cpu() == torch.arange(len(labels))).sum().item()

        groups = order.tensor_split(math.ceil(len(order) / self.classes))
        return sum(ranks.gather(right, groups)) / len(order)


@torch.no_grad()
def widen_gaps(architecture: Architecture, gap: float) -> None:
    """Raises the largest value of each row of alpha and beta until it is ``gap`` above the next, where it is not."""
    for row in architecture.parameters():
        if len(row) > 1:
            (first, second), (place, _) = row.topk(2)
            row[place] += (gap - (first - second)).clamp(min=0)
