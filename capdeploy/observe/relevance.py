"""Layer-wise relevance propagation: what each response contributed to one answer.

Relevance starts as 1 at one output of each image and is handed back from every operation to its
inputs by the rules of `observe.rules`. Operations are found by torch.fx, so functional additions,
concatenations and in-place activations are seen like modules. Batch normalisation is folded into
the convolution in front of it, on a copy.

Bach et al., On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
propagation, PLoS ONE 10(7), 2015.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from capdeploy.errors import ArchitectureError
from capdeploy.observe import operations, rules
from capdeploy.observe.flow import Flow
from capdeploy.observe.fold import alike, unproven
from capdeploy.observe.rules import Halves, Rules
from capdeploy.observe.taps import evaluating
from capdeploy.observe.trace import Trace
from capdeploy.observe.walk import call

_RECTIFIERS = {nn.ReLU, nn.ReLU6, F.relu, F.relu6, torch.relu, "relu"}


@dataclass(frozen=True)
class Explanation:
    """Relevance of one batch.

    Parameters
    ----------
    layers : Mapping[str, torch.Tensor]
        At the output of each convolution and linear layer, in the output's shape; of one that runs
        at several resolutions (N, C, all positions, 1).
    inputs : torch.Tensor | None
        At the input, (images asked for, 3, H, W); None if it was not asked for.
    absorbed : float
        Share of the relevance that did not arrive at the input: biases keep some, and so do
        responses that nothing contributed to. 0 if the input was not asked for.
    """

    layers: Mapping[str, torch.Tensor]
    inputs: torch.Tensor | None
    absorbed: float


def _both(before: torch.Tensor | None, relevance: torch.Tensor) -> torch.Tensor:
    if before is None:
        return relevance
    if before.shape == relevance.shape:
        return before + relevance
    return torch.cat([before.flatten(2), relevance.flatten(2)], dim=2)[..., None]


class _Tracer(fx.Tracer):
    """Sees layers whole, those of a class of the user's own too, if they compute as torch's do."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Tell whether a module is one operation."""
        plain = type(module).forward in (nn.Conv2d.forward, nn.Linear.forward)
        return plain or super().is_leaf_module(module, name)


class Explainer:
    """A network prepared for relevance propagation: copied, folded and traced symbolically.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    seen : Trace
        Its trace.
    rules : Rules
        How relevance is handed back.
    images : torch.Tensor
        (N, 3, H, W) float32, a few, to prove on that the folded copy answers alike.

    Raises
    ------
    ArchitectureError
        If torch.fx cannot trace the network, or traces something that answers otherwise.
    """

    def __init__(self, network: nn.Module, seen: Trace, rules: Rules, images: torch.Tensor) -> None:
        self._rules, self._watched = rules, frozenset(seen.filters)
        with torch.no_grad(), evaluating(network):
            wanted = network(images)
        try:
            self._open(unproven(network, seen))
            self._prove(wanted, images)
        except ArchitectureError:  # perhaps for what was folded
            self._open(copy.deepcopy(network).eval())
            self._prove(wanted, images)

    def _open(self, copied: nn.Module) -> None:
        """Trace a copy, and keep what every batch needs of it."""
        for layer in copied.modules():
            if getattr(layer, "inplace", False) is True:
                layer.inplace = False  # type: ignore[assignment]
        try:
            self._graph = fx.GraphModule(copied, _Tracer().trace(copied))
        except Exception as error:  # torch.fx lets whatever the forward function raises through
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ArchitectureError(f"torch.fx cannot trace the network: {line}") from error
        self._graph.requires_grad_(False)
        self._place = {node: place for place, node in enumerate(self._graph.graph.nodes)}
        self._modules = dict(self._graph.named_modules())
        self._winners: dict[fx.Node, tuple[torch.Tensor, torch.Tensor]] = {}
        self._halves = {
            name: Halves(layer)
            for name, layer in self._modules.items() if isinstance(layer, nn.Conv2d)
        }  # fmt: skip

    def _prove(self, wanted: torch.Tensor, images: torch.Tensor) -> None:
        """Stop unless what was traced is the network: tracing sees one way through it only."""
        try:
            values = self._forward(images)
            last = next(reversed(self._graph.graph.nodes))
            same = alike(values[last.args[0]], wanted)
        except Exception as error:  # another way through it than the one that runs may do anything
            raise ArchitectureError("torch.fx cannot follow the network's own decisions") from error
        if not same:
            raise ArchitectureError("what torch.fx traces answers otherwise than the network")
        for node, value in values.items():
            several = isinstance(value, (tuple, list)) and not isinstance(value, torch.Size)
            if several and node.target is operator.getitem:  # of which piece is its relevance?
                raise ArchitectureError("the network slices a list of responses")

    def explain(
        self, images: torch.Tensor, targets: torch.Tensor, *, to_input: int = 0
    ) -> Explanation:
        """Hand relevance back from one output of each image.

        Parameters
        ----------
        images : torch.Tensor
            (N, 3, H, W) float32.
        targets : torch.Tensor
            (N,) int64, the output that is explained.
        to_input : int
            Of how many images, the first ones, to go on through the first layer, for a heatmap.

        Returns
        -------
        Explanation
            Relevance of every layer.
        """
        values = self._forward(images)
        flow = Flow(to_input)
        layers: dict[str, torch.Tensor] = {}
        at_input = None
        for node in reversed(self._graph.graph.nodes):
            if node.op == "output":
                answer = node.args[0]
                one_hot = F.one_hot(targets, values[answer].shape[1])
                flow.give(answer, one_hot.to(images.dtype))
            elif node in flow.pieces:
                flow.give(*self._join(node, values, flow.pieces[node]))
            elif node in flow.given:
                relevance = flow.given.pop(node)
                if node.op == "placeholder":
                    at_input = relevance
                elif node.target is operator.getitem and flow.split(node, values, relevance):
                    continue
                elif node.op == "call_module" and node.target in self._watched:
                    # A layer that runs several times owns what passes in all its runs.
                    name = str(node.target)
                    layers[name] = _both(layers.get(name), relevance)
                for source, share in self._hand_back(node, values, relevance, to_input=to_input):
                    flow.give(source, share)
        self._winners = {}
        if not to_input or at_input is None:
            return Explanation(layers, None, 0.0)
        return Explanation(layers, at_input, 1.0 - float(at_input.sum()) / len(at_input))

    def _hand_back(
        self,
        node: fx.Node,
        values: Mapping[fx.Node, Any],
        relevance: torch.Tensor,
        *,
        to_input: int,
    ) -> Iterator[tuple[fx.Node, torch.Tensor | None]]:
        sources = [
            source for source in node.all_input_nodes
            if isinstance(values.get(source), torch.Tensor) and source.op != "get_attr"
        ]  # fmt: skip
        # In order of execution: where a gate is as large as its signal, it is the later one.
        sources.sort(key=self._place.__getitem__)
        if not sources or (not to_input and all(node.op == "placeholder" for node in sources)):
            return
        inputs = tuple(values[source] for source in sources)
        kind: Any = self._modules[str(node.target)] if node.op == "call_module" else node.target
        if isinstance(kind, nn.Conv2d):
            pixels = sources[0].op == "placeholder"
            few = slice(to_input if pixels else None)
            shares: rules.Shares = (
                rules.convolution(
                    self._halves[str(node.target)],
                    inputs[0][few],
                    values[node][few],
                    relevance[few],
                    self._rules,
                    boxed=pixels and self._rules.bounds is not None,
                    rectified=self._kind(sources[0]) in _RECTIFIERS,
                ),
            )
        elif node in self._winners:
            leaf, result = self._winners.pop(node)
            shares = torch.autograd.grad(result, leaf, relevance)
        else:
            again = self._again(node, values, sources)
            shares = operations.operation(kind, again, inputs, relevance, self._rules)
        yield from zip(sources, shares, strict=True)

    def _again(
        self, node: fx.Node, values: Mapping[fx.Node, Any], sources: list[fx.Node]
    ) -> Callable[..., Any]:
        """Return an operation as a function of its tensor inputs."""

        def again(*inputs: torch.Tensor) -> Any:
            known = dict(values) | dict(zip(sources, inputs, strict=True))
            return call(self._graph, node, known)

        return again

    def _join(
        self, node: fx.Node, values: Mapping[fx.Node, Any], pieces: Mapping[int, torch.Tensor]
    ) -> tuple[fx.Node, torch.Tensor]:
        """Put the relevance of the pieces of a split value together again."""
        source = next(source for source in node.all_input_nodes if source in values)
        again = self._again(node, values, [source])
        with torch.enable_grad():
            leaf = values[source].detach().requires_grad_(True)
            parts = again(leaf)
            picked = [parts[place] for place in pieces]
            return source, torch.autograd.grad(picked, leaf, list(pieces.values()))[0]

    def _forward(self, images: torch.Tensor) -> dict[fx.Node, Any]:
        """Run the network and keep every operation's result."""
        values: dict[fx.Node, Any] = {}
        self._winners = {}
        with torch.no_grad():
            for node in self._graph.graph.nodes:
                if node.op == "placeholder":
                    values[node] = images
                elif node.op == "get_attr":
                    values[node] = operator.attrgetter(str(node.target))(self._graph)
                elif self._pools(node):
                    values[node] = self._pooled(node, values)
                elif node.op != "output":
                    values[node] = call(self._graph, node, values)
        return values

    def _pooled(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> torch.Tensor:
        """Pool, and keep who won: looking for the winners is what costs, and is not done twice."""
        (source,) = node.all_input_nodes
        with torch.enable_grad():
            leaf = values[source].detach().requires_grad_(True)
            result = call(self._graph, node, dict(values) | {source: leaf})
        self._winners[node] = (leaf, result)
        pooled: torch.Tensor = result.detach()
        return pooled

    def _pools(self, node: fx.Node) -> bool:
        """Tell whether an operation is a plain pool of maxima."""
        layer = self._modules.get(str(node.target)) if node.op == "call_module" else None
        return type(layer) is nn.MaxPool2d and not layer.return_indices

    def _kind(self, node: fx.Node) -> Any:
        """Return the class of a module, or the function or method that is called."""
        if node.op == "call_module":
            return type(self._modules[str(node.target)])
        return node.target
