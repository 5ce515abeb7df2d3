"""Context managers that touch a network and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Hook = Callable[[str, nn.Module, Any, Any], Any]


@contextmanager
def tapped(network: nn.Module, layers: Iterable[str], hook: Hook) -> Iterator[None]:
    """Call a hook after each forward pass of the named layers; remove it on the way out.

    Parameters
    ----------
    network : nn.Module
        The network to watch.
    layers : Iterable[str]
        Qualified layer names.
    hook : Hook
        Called with (name, layer, inputs, output); a result other than None replaces the output.

    Yields
    ------
    None
        While the hooks are in place.
    """
    handles = []
    try:
        for name in layers:
            layer = network.get_submodule(name)

            def call(layer: nn.Module, inputs: Any, output: Any, name: str = name) -> Any:
                return hook(name, layer, inputs, output)

            handles.append(layer.register_forward_hook(call))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(network: nn.Module, layers: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Put a network into evaluation mode, and every layer back into its own mode afterwards.

    Walks ask for this thousands of times, so a list of all its layers may be given: finding them
    takes longer than looking at them. Nothing is written to a network that evaluates already.
    """
    training = [layer for layer in layers or network.modules() if layer.training]
    try:
        if training:
            network.eval()
        yield
    finally:
        for layer in training:
            layer.training = True


@contextmanager
def out_of_place(network: nn.Module, layers: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Let activations write to new memory, so that values that are kept stay what they were.

    A list of layers may be given, see `evaluating`; those that do not write in place are passed by.
    """
    changed = [
        layer for layer in layers or network.modules() if getattr(layer, "inplace", False) is True
    ]
    try:
        for layer in changed:
            layer.inplace = False  # type: ignore[assignment]
        yield
    finally:
        for layer in changed:
            layer.inplace = True  # type: ignore[assignment]


@contextmanager
def requiring_grad(network: nn.Module, required: bool) -> Iterator[None]:
    """Set every parameter's ``requires_grad``, and put each back afterwards; grads are cleared."""
    before = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()
    ]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(required)
        yield
    finally:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad
