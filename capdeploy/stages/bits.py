"""Which graphs in fewer bits a recipe asks for, and what they need."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from capdeploy import recipes
from capdeploy.errors import ConfigError, MissingError
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.recipe import Recipe

Precision = Literal["fp16", "int8"]
GraphRuntime = Literal["onnxruntime", "openvino"]
GPUS = frozenset({"cuda", "tensorrt"})
"""Devices on which ONNX Runtime computes in half precision; its CPU kernels cast every layer."""


def wanted(recipe: Recipe) -> list[tuple[Precision, GraphRuntime]]:
    """List the graphs that a recipe asks for besides the one in single precision.

    Parameters
    ----------
    recipe : Recipe
        Names precisions, and runtimes by its profile.

    Returns
    -------
    list[tuple[Precision, GraphRuntime]]
        8 bits for every runtime of graphs, 16 for OpenVINO, and for ONNX Runtime if the profile
        has a GPU that it runs on.

    Raises
    ------
    ConfigError
        If a precision is asked for that no runtime here takes.
    MissingError
        If a package for one of them is not installed; better now than after the training.
    """
    target = recipes.profile_of(recipe).runtime
    runtimes = target.runtimes
    found: list[tuple[Precision, GraphRuntime]] = []
    if "int8" in recipe.precision and "onnxruntime" in runtimes:
        found.append(("int8", "onnxruntime"))
    if "fp16" in recipe.precision and "onnxruntime" in runtimes and GPUS & set(target.devices):
        found.append(("fp16", "onnxruntime"))
    if "openvino" in runtimes:
        found += [(each, "openvino") for each in ("fp16", "int8") if each in recipe.precision]
    for asked in recipe.precision:
        if asked != "fp32" and asked not in {precision for precision, _ in found}:
            both = "onnxruntime and openvino"
            takers = "openvino, and onnxruntime on cuda" if asked == "fp16" else both
            raise ConfigError(
                f"--precision {asked} is for {takers}, and the runtimes here are "
                f"{', '.join(runtimes)} on {', '.join(target.devices)}; add one with --runtimes "
                f"or --devices, or give --precision fp32"
            )
    for precision, runtime in found:
        packages = [runtime, *(["nncf"] if (precision, runtime) == ("int8", "openvino") else [])]
        for package in packages:
            if find_spec(package) is None:
                raise MissingError(
                    f"{package} is not installed, and {precision} for {runtime} needs it: pip "
                    f"install 'capdeploy[{packages[-1]}]', or leave {runtime} out of --runtimes"
                )
    return found


def needs_reduced_range(profile: HardwareProfile) -> bool:
    """Tell whether the device sums pairs of 8-bit products in 16 bits: x86 without VNNI."""
    device = profile.device
    return device.arch in ("x86_64", "any") and not any("vnni" in isa for isa in device.isa)
