"""A network walked through piece by piece, over many batches, each as far as it is needed.

Solving layers in order of execution needs the input of each in turn, while the weights in front of
it have changed. Started anew for every layer, the passes grow with the square of the depth; here
every batch stands in front of a layer with the values that are still needed, and goes on from
there. Where those values are too large for the memory that may be used (the first layers of a
large image), a batch goes back to where it stood before.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from capdeploy.observe.taps import evaluating, out_of_place, tapped
from capdeploy.rebuild import NORMS

Batch = Callable[[], torch.Tensor]
ROOM = 1 << 29
"""Bytes of values that a walk remembers, in all its batches."""


class _ReachedError(Exception):
    """The watched layer has run; the rest of the pass is not needed."""


class Arrival(NamedTuple):
    """What a batch meets at a layer.

    Parameters
    ----------
    read : torch.Tensor
        What the layer reads.
    beside : torch.Tensor | None
        What the layer's output, normalised if a norm follows, will be added to, where that is known
        by then: the shortcut around a residual branch. None: nothing, or not known.
    """

    read: torch.Tensor
    beside: torch.Tensor | None


ADDING = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})


@dataclass
class _Stand:
    """Where one batch stands: before which operation, and the values that are still needed."""

    place: int = 0
    values: dict[fx.Node, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(each.untyped_storage().nbytes() for each in _tensors(self.values.values()))

    def copy(self) -> _Stand:
        """Return a stand that may go on by itself; tensors are never overwritten."""
        return _Stand(self.place, dict(self.values))


class Walk:
    """A network on its way through some batches.

    Parameters
    ----------
    network : nn.Module
        The network, in evaluation mode; its weights may change behind the layer that is reached.
    batches : list[Batch]
        Make (n, 3, H, W) images; called again where nothing is remembered.
    room : int
        Bytes to remember, see `ROOM`.
    """

    def __init__(self, network: nn.Module, batches: list[Batch], room: int = ROOM) -> None:
        self._network = network
        self._layers = list(network.modules())
        self._batches = batches
        self._room = room
        self._stands = [_Stand() for _ in batches]
        self._nodes: list[fx.Node] = []
        self._places: dict[str, int] = {}
        self._used = 0
        # A network with control flow cannot be taken apart; it is run up to the layer instead.
        with contextlib.suppress(Exception):
            self._graph = fx.symbolic_trace(network)
            self._nodes = list(self._graph.graph.nodes)
            if self._answers_alike():
                self._places = {
                    str(node.target): place
                    for place, node in enumerate(self._nodes) if node.op == "call_module"
                }  # fmt: skip
        order = {node: place for place, node in enumerate(self._nodes)}
        self._last = {
            node: max((order[user] for user in node.users), default=0) for node in self._nodes
        }

    def at(self, layer: str, number: int) -> Arrival:
        """Walk a batch up to a layer.

        Parameters
        ----------
        layer : str
            It runs once in a pass, and not before a layer that the batch has reached already.
        number : int
            Place of the batch.

        Returns
        -------
        Arrival
            What the layer reads, and what its output is added to.
        """
        return self._arrive(layer, number)[0]

    def through(self, layer: str, number: int) -> tuple[Arrival, torch.Tensor]:
        """Walk a batch up to a layer, and on through it, so that it does not run twice.

        Parameters
        ----------
        layer : str
            See `at`; its weights stay as they are, and it is not asked for again.
        number : int
            Place of the batch.

        Returns
        -------
        tuple[Arrival, torch.Tensor]
            What the batch meets there, and what the layer makes of it.
        """
        arrival, stand = self._arrive(layer, number)
        with torch.no_grad(), evaluating(self._network, self._layers):
            if stand is None:
                return arrival, self._network.get_submodule(layer)(arrival.read)
            with out_of_place(self._network, self._layers):
                answer = self._step(number, stand)
        self._settle(number, stand)
        return arrival, answer

    def _arrive(self, layer: str, number: int) -> tuple[Arrival, _Stand | None]:
        with torch.no_grad(), evaluating(self._network, self._layers):
            if layer not in self._places:
                return Arrival(self._run_up_to(layer, self._batches[number]()), None), None
            stand = self._stands[number].copy()
            place = self._places[layer]
            with out_of_place(self._network, self._layers):
                while stand.place < place:
                    self._step(number, stand)
                self._settle(number, stand)
                node = self._nodes[place]
                read = stand.values[node.all_input_nodes[0]]
                return Arrival(read, self._beside(node, stand.values)), stand

    def _answers_alike(self) -> bool:
        """Tell whether the operations one by one answer as the network, and overwrite nothing.

        They may not where an activation in place changes what is read elsewhere, or where the
        forward function has further arguments.
        """
        values: dict[fx.Node, Any] = {}
        versions: dict[fx.Node, int] = {}
        with torch.no_grad(), evaluating(self._network, self._layers):
            images = self._batches[0]()
            expected = self._network(images.clone())
            with out_of_place(self._network, self._layers):
                for node in self._nodes:
                    if node.op == "output":
                        break
                    values[node] = self._run(node, values, lambda: images)
                    if isinstance(values[node], torch.Tensor):
                        versions[node] = values[node]._version
        found = values[self._nodes[-1].args[0]]  # type: ignore[index]
        unchanged = all(values[node]._version == before for node, before in versions.items())
        return unchanged and torch.equal(found, expected)

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any], batch: Batch) -> Any:
        if node.op == "placeholder":
            return batch()
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._graph)
        return call(self._graph, node, values)

    def _step(self, number: int, stand: _Stand) -> Any:
        """Run the operation that a batch stands in front of; forget what no later one needs."""
        node = self._nodes[stand.place]
        result = stand.values[node] = self._run(node, stand.values, self._batches[number])
        for source in (*node.all_input_nodes, node):
            if self._last[source] <= stand.place:
                stand.values.pop(source, None)
        stand.place += 1
        return result

    def _settle(self, number: int, stand: _Stand) -> None:
        """Remember where a batch stands, if there is room."""
        used = self._used - self._stands[number].size + stand.size
        if used <= self._room:
            self._stands[number], self._used = stand.copy(), used

    def _beside(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> torch.Tensor | None:
        """Find what an operation's output is added to, among the values that are known."""
        users = list(node.users)
        if len(users) == 1 and self._is_norm(users[0]):
            node, users = users[0], list(users[0].users)
        called = ("call_function", "call_method")
        # A sum with keywords is scaled; a module may be called "add" and be anything.
        if len(users) != 1 or users[0].op not in called or users[0].kwargs:
            return None
        if users[0].target not in ADDING:
            return None
        others = [each for each in users[0].args if isinstance(each, fx.Node) and each is not node]
        value = self._known(others[0], values) if len(others) == 1 else None
        return value if isinstance(value, torch.Tensor) else None

    def _known(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Return a value that is there, or that operations without weights make of such values."""
        if node in values:
            return values[node]
        plain = node.op in ("call_function", "call_method") or (
            node.op == "call_module"
            and not any(True for _ in self._graph.get_submodule(str(node.target)).parameters())
        )
        if not plain or not node.all_input_nodes:
            return None
        sources = {each: self._known(each, values) for each in node.all_input_nodes}
        if any(value is None for value in sources.values()):
            return None
        return call(self._graph, node, sources)

    def _is_norm(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            self._graph.get_submodule(str(node.target)), NORMS
        )

    def _run_up_to(self, layer: str, images: torch.Tensor) -> torch.Tensor:
        caught: list[torch.Tensor] = []

        def hook(_: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            caught.append(inputs[0])
            raise _ReachedError

        with tapped(self._network, [layer], hook), contextlib.suppress(_ReachedError):
            self._network(images)
        return caught[0]


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def call(graph: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Run one operation of a traced network without overwriting any value.

    Parameters
    ----------
    graph : fx.GraphModule
        The network.
    node : fx.Node
        The operation: a module, a method or a function.
    values : Mapping[fx.Node, Any]
        Results of those before it.

    Returns
    -------
    Any
        Its result.
    """
    arguments = fx.node.map_arg(node.args, values.__getitem__)
    keywords = dict(fx.node.map_arg(node.kwargs, values.__getitem__))
    if node.op == "call_module":
        return graph.get_submodule(str(node.target))(*arguments, **keywords)
    if keywords.get("inplace") is True:
        keywords["inplace"] = False
    if node.op == "call_method":
        # add_ and the like would overwrite a value that is still needed.
        name = str(node.target)
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        return getattr(arguments[0], name)(*arguments[1:], **keywords)
    in_place: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul}
    function: Any = in_place.get(node.target, node.target)
    return function(*arguments, **keywords)
