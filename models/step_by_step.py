"""Step-by-step back-propagation: the gradient of ordinary back-propagation, with one candidate's activations at a time.

A mixed operation is linear in its candidates, so nothing inside it has to survive the forward pass: the gradient of a
candidate's weight is <g, o(x)>, and that of the state it reads the sum over candidates. The forward pass keeps the
states of the nodes alone. The backward pass goes from the last cell to the stem, and in a cell from the last state to
the first: it runs one trained candidate again, takes its gradients and frees it (On-NAS, step-by-step
back-propagation; here what flows through the skip from cell c-2 is part of it).

What is left at the peak must be there: the network, its gradients of the batch so far and Adam's second moment (the
first is the gradient itself, as beta1 = 0); the support images; the states of the nodes that the cells to come read;
in the first cell the gradients of its nodes, one input, its gradient, and the activations of the widest candidate.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from models.batch_norm import channel_means, normalisation_gradient
from models.given_gradient import backward
from models.search_cell import Mixture, Run, convolve_states
from models.supernet import STEM, Supernet, pooled
from utils.data.pixels import unit_range


@dataclass(frozen=True)
class MicroBatch:
    """Images and their loss.

    images: (N, in_channels, H, W).
    mixtures: one for each cell type. What their coefficients were computed from gets its gradient too.
    criterion: from the logits (N, ways) to the loss, a scalar.
    keep: (layers, E, k, N) drop-path factors; None: nothing is dropped.
    """

    images: torch.Tensor
    mixtures: dict[str, Mixture]
    criterion: Callable[[torch.Tensor], torch.Tensor]
    keep: torch.Tensor | None = None


def step_by_step_backward(
    supernet: Supernet, micro_batch: MicroBatch, *, of_weights: bool, keep_inputs: bool
) -> torch.Tensor:
    """Does what ``criterion(supernet(images, mixtures, keep)).backward()`` does, in one candidate's memory.

    Args:
        of_weights: the supernet's parameters get a gradient.
        keep_inputs: the two inputs of each cell are kept from the forward pass, the faster schedule; otherwise only
            the states of the nodes are, the leanest one, and the inputs are computed again.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: the candidates see a part of the channels, and this does not know what passes by them.
    """
    if supernet.settings.partial_channels > 1:
        raise ValueError("step-by-step back-propagation does not know partial channels")
    both_ways = _Pass(supernet, micro_batch, of_weights, keep_inputs)
    with torch.no_grad():
        features = both_ways.forward()
    return both_ways.backward(features, micro_batch.criterion)


class _Pass:
    """The forward and the backward pass of a micro-batch, and what the first keeps for the second."""

    def __init__(self, supernet: Supernet, micro_batch: MicroBatch, of_weights: bool, keep_inputs: bool):
        self.supernet = supernet
        self.images = unit_range(micro_batch.images.contiguous(memory_format=torch.channels_last))
        self.mixtures = micro_batch.mixtures
        self.keep = micro_batch.keep
        self.of_weights = of_weights
        self.keep_inputs = keep_inputs
        layers = range(len(supernet.cells))
        # Of each cell its nodes, its two inputs (state, scale of its BN), and the gradients in front of that BN.
        self.nodes: list[list[torch.Tensor] | None] = [None for _ in layers]
        self.inputs = [[None, None] for _ in layers]
        self.input_gradients = [[None, None] for _ in layers]
        self.coefficient_gradients = {
            cell_type: torch.zeros_like(mixture.coefficients)
            for cell_type, mixture in self.mixtures.items()
            if mixture.coefficients.requires_grad
        }
        self.mixed: set[str] = set()  # the cell types with a candidate that got a gradient

    def forward(self) -> torch.Tensor:
        """From the images to the features (N, S) in front of the head."""
        supernet = self.supernet
        states = supernet.stem_states(self.images)
        for layer, cell in enumerate(supernet.cells):
            readers = supernet.readers(layer - 1)
            for (reader, side), read in zip(readers, self.read(readers, states), strict=True):
                self.inputs[reader][side] = read
            del states, read
            older, newer = (state for state, _ in self.inputs[layer])
            states = cell(older, newer, self.mixture(layer), self._keep(layer))
            if not self.keep_inputs:
                del older, newer
                self.inputs[layer] = [None, None]
            self.nodes[layer] = states
        return pooled(states)

    def backward(self, features: torch.Tensor, criterion: Callable) -> torch.Tensor:
        """From the features (N, S) in front of the head down to the stem; returns the loss."""
        features = features.detach().requires_grad_()
        loss = criterion(self.supernet.head(features))
        head = list(self.supernet.head.parameters()) if self.of_weights else []
        loss.backward(inputs=[features, *head])
        with torch.no_grad(), self.supernet.tracking.paused():
            self._backward(features.grad)
        for cell_type in self.mixed & self.coefficient_gradients.keys():
            backward([self.mixtures[cell_type].coefficients], [self.coefficient_gradients[cell_type]])
        return loss.detach()

    def _backward(self, feature_gradient: torch.Tensor) -> None:
        last = len(self.supernet.cells) - 1
        for layer in range(last, -1, -1):
            gradients = self._last_gradients(feature_gradient) if layer == last else self._output_gradients(layer)
            if gradients is not None:
                self._cell_backward(layer, gradients)
            self.nodes[layer] = None
        if self.of_weights:
            self._output_gradients(STEM)

    def mixture(self, layer: int) -> Mixture:
        return self.mixtures[self.supernet.settings.cell_type(layer)]

    def _keep(self, layer: int) -> torch.Tensor | None:
        return None if self.keep is None else self.keep[layer]

    # --- Between cells: an output and those that read it -------------------------------------------------------------

    def read(self, readers: list[tuple[int, int]], states: Iterable[torch.Tensor]) -> list[tuple]:
        """What the inputs ``readers`` make of an output's states: each the new state and the scale of its BN."""
        inputs = [self.supernet.cells[cell].inputs[side] for cell, side in readers]
        convolved = convolve_states(inputs, states)
        return [(x, reader.norm.normalise(x)) for reader, x in zip(inputs, convolved, strict=True)]

    def _input(self, layer: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An input of a cell as (state, scale), kept or computed again."""
        if self.inputs[layer][side] is not None:
            return self.inputs[layer][side]
        output = self.supernet.output_read_by(layer, side)
        states = self.nodes[output] if output > STEM else map(self._stem_state, range(self.supernet.settings.nodes))
        return self.read([(layer, side)], states)[0]

    def _stem_state(self, index: int) -> torch.Tensor:
        """One of the states of :meth:`Supernet.stem_states`, computed without the others."""
        convolution, norm = self.supernet.stem
        channels = self.supernet.settings.init_channels
        part = slice(index * channels, (index + 1) * channels)
        return norm(F.conv2d(self.images, convolution.weight[part], padding=convolution.padding), part)

    def _last_gradients(self, feature_gradient: torch.Tensor) -> list[torch.Tensor]:
        """Those of the last cell's nodes, given that of their means over pixels (N, S)."""
        nodes = self.nodes[-1]
        pixels = nodes[0].shape[2] * nodes[0].shape[3]
        parts = (feature_gradient / pixels)[..., None, None].chunk(len(nodes), dim=1)
        return [
            part.expand_as(node).contiguous(memory_format=torch.channels_last)
            for part, node in zip(parts, nodes, strict=True)
        ]

    def _output_gradients(self, layer: int) -> list[torch.Tensor] | None:
        """Those of an output's states, from the inputs that read them; None, if no gradient reaches these.

        The readers' weights get theirs; and, for the stem's output, the stem, instead of its states.
        """
        readers = [(c, side) for c, side in self.supernet.readers(layer) if self.input_gradients[c][side] is not None]
        if not readers:
            return None
        inputs = [self.supernet.cells[cell].inputs[side] for cell, side in readers]
        arriving = [self.input_gradients[cell][side] for cell, side in readers]
        parameters = [parameter for reader in inputs for parameter in reader.parameters()] if self.of_weights else []
        if layer == STEM:
            parameters += self.supernet.stem.parameters()
        gradients = []
        for index in range(self.supernet.settings.nodes):
            with torch.enable_grad():
                x = self._stem_state(index) if layer == STEM else self.nodes[layer][index].detach().requires_grad_()
                activated = F.relu(x)
                outputs = [reader.convolve(activated, index) for reader in inputs]
            backward(outputs, arriving, inputs=parameters if layer == STEM else [x, *parameters])
            if layer > STEM:
                gradients.append(x.grad.contiguous(memory_format=torch.channels_last))
        for cell, side in readers:
            self.input_gradients[cell][side] = None
        return gradients

    # --- Within a cell: a state and the candidates that read it ------------------------------------------------------

    def _cell_backward(self, layer: int, gradients: list[torch.Tensor]) -> None:
        """Takes a cell's gradients, given those of its nodes, which are added to on the way."""
        cell = self.supernet.cells[layer]
        means = {}
        for index in reversed(range(len(cell.sources))):
            del self.nodes[layer][max(0, index - 1) :]  # those that no candidate still to come reads
            if index >= 2:
                gradient = self._source_backward(layer, index, self.nodes[layer][-1], gradients, means, True)
                if gradient is not None:
                    gradients[index - 2].add_(gradient)
                continue
            state, scale = self._input(layer, index)
            # Below the first cells there are weights only.
            wanted = self.of_weights or self.supernet.output_read_by(layer, index) > STEM
            gradient = self._source_backward(layer, index, state, gradients, means, wanted)
            if gradient is not None:
                of_batch = cell.inputs[index].norm.training
                self.input_gradients[layer][index] = normalisation_gradient(gradient, state, scale, of_batch)
            self.inputs[layer][index] = None

    def _source_backward(
        self, layer: int, index: int, state: torch.Tensor, gradients: list[torch.Tensor], means: dict, wanted: bool
    ) -> torch.Tensor | None:
        """Takes the gradients of what leaves a state; returns that of the state if ``wanted`` (and if there is one)."""
        mixture = self.mixture(layer)
        runs = [run for run in self.supernet.cells[layer].sources[index].runs(mixture) if run.trained_edges(mixture)]
        total = None

        def add(run: Run, x: torch.Tensor) -> None:
            nonlocal total
            gradient = self._run_backward(layer, run, x.detach().requires_grad_(wanted), gradients, means)
            if gradient is not None:
                total = gradient if total is None else total.add_(gradient)

        # ReLU's share first: so one sum serves both.
        activated = F.relu(state)
        for run in runs:
            if run.takes_relu:
                add(run, activated)
        if total is not None:
            total.mul_(activated.sign_())
        del activated
        for run in runs:
            if not run.takes_relu:
                add(run, state)
        return total

    def _run_backward(
        self, layer: int, run: Run, x: torch.Tensor, gradients: list[torch.Tensor], means: dict[int, torch.Tensor]
    ) -> torch.Tensor | None:
        """Runs a trained candidate again and takes its gradients; returns that of ``x`` if it requires one.

        Args:
            gradients: those of the nodes. means: their channel means, as far as they were needed yet.
        """
        mixture, keep = self.mixture(layer), self._keep(layer)
        cell_type = self.supernet.settings.cell_type(layer)
        of_coefficients = self.coefficient_gradients.get(cell_type)
        parameters = list(run.operation.parameters()) if self.of_weights else []
        of_operation = x.requires_grad or bool(parameters)
        if not (of_operation or of_coefficients is not None):
            return None
        with torch.set_grad_enabled(of_operation):
            body = run.operation.body(x).contiguous(memory_format=torch.channels_last)
        norm, output, scale = run.operation.norm, body.detach(), None
        if norm is not None:
            scale = norm.normalise(output)

        # What arrives at the output is a sum over the edges, each with its weight.
        self.mixed.add(cell_type)
        terms, along = [], None
        for edge, node in run.trained_edges(mixture).items():
            arriving = gradients[node]
            if keep is not None:
                arriving = arriving * keep[edge, run.candidate, :, None, None, None]
            if of_coefficients is not None:
                along = channel_means(arriving * output)
                of_coefficients[edge, run.candidate] += along.sum() * (output.numel() // len(along))
            terms.append((mixture.coefficients[edge, run.candidate], arriving))
        if not of_operation:
            return None
        mean = None
        if len(terms) > 1:
            weight, arriving, along = 1.0, sum(weight * arriving for weight, arriving in terms), None
        else:
            weight, arriving = terms.pop()
            if keep is None and norm is not None:
                mean = means[node] = means[node] if node in means else channel_means(arriving)
        if norm is None:  # the skip; a new tensor all the same, as the caller adds to what it gets
            of_body = arriving * weight
        else:
            of_body = normalisation_gradient(arriving, output, scale * weight, norm.training, mean, along)
        backward([body], [of_body], inputs=[x, *parameters] if x.requires_grad else parameters)
        return x.grad
