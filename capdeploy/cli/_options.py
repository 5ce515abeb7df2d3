"""The options of ``compress``: each is a key of the recipe, and one loop makes them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from capdeploy.catalog import Catalog
from capdeploy.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])


class Numbers(click.ParamType[Any]):
    """Comma-separated numbers."""

    name = "numbers"

    def __init__(self, least: int = 1, most: int | None = None, *, whole: bool = False) -> None:
        self._least, self._most, self._whole = least, most, whole

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """Read the numbers; one may stand for all where a fixed count is expected."""
        try:
            numbers = [(int if self._whole else float)(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(
                f"{value!r} is not {'a whole number' if self._whole else 'a number'} "
                "or a comma-separated list of such",
                param,
                ctx,
            )
        if self._most is not None and len(numbers) == 1:
            numbers *= self._most
        if len(numbers) < self._least or (self._most and len(numbers) != self._most):
            self.fail(f"{value!r}: expected 1 or {self._most} numbers", param, ctx)
        return numbers


class Finite(click.FloatRange):
    """A number within bounds; not NaN, which no bound stops, and not infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Words(click.ParamType[Any]):
    """Comma-separated words."""

    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """Split at commas."""
        return [part.strip() for part in str(value).split(",") if part.strip()]


def _names(package: str, noun: str) -> str:
    catalog: Catalog[Any] = Catalog(f"capdeploy.{package}", "", noun)
    return ", ".join(catalog.names())


OPTIONS: tuple[tuple[str, Any, str], ...] = (
    (
        "--arch",
        str,
        "torchvision name, timm:NAME, module:callable, file.py:callable; else found.",
    ),
    ("--state-key", str, "Where in the checkpoint the weights are, for example model_ema."),
    ("--strip-prefix", str, "Taken away from the front of every name, for example backbone."),
    ("--ignore-keys", Words(), "Patterns of tensor names that may differ from the architecture."),
    ("--data", str, f"KIND:PATH, see capdeploy list data. Kinds: {_names('data', 'kind')}."),
    ("--split", str, "Split data that has no test part, as 80/20; alike for every seed."),
    ("--split-group", str, "With --split: a regular expression; equal matches stay together."),
    ("--input-size", Numbers(2, 2, whole=True), "Pixels: one side, or height,width."),
    ("--mean", Numbers(3, 3), "Subtracted on the 0..1 scale: one number, or three."),
    ("--std", Numbers(3, 3), "Divided by on the 0..1 scale: one number, or three."),
    ("--channel-order", click.Choice(["RGB", "BGR"]), "Order of the input's channels."),
    (
        "--resize",
        click.Choice(["short-side-then-centre-crop", "stretch"]),
        "How images get the input's shape.",
    ),
    ("--crop", float, "Input side / resized short side; 0.875 is 224 of 256."),
    ("--interpolation", click.Choice(["bilinear", "bicubic", "nearest"]), "Of the resize."),
    ("--labels", str, "File: one name a line, in output order."),
    ("--label-map", str, "JSON or TOML file: data class -> output id."),
    ("--classes", Words(), "Names, ids, 0-9, globs or @FILE, in output order; all if left out."),
    ("--validation-share", float, "Share of the training images held back, if none are set apart."),
    ("--samples-per-class", int, "Most training images of a class."),
    ("--max-bad-images", int, "Unreadable images to tolerate."),
    ("--cache-mib", int, "Memory for decoded images."),
    ("--strategy", str, f"How filters are scored: {_names('strategies', 'strategy')}."),
    ("--score-images", int, "Images to score on."),
    (
        "--ratio",
        Numbers(),
        "Share of filters to drop, default 0.5 without any budget; several make several bundles.",
    ),
    ("--max-macs", Words(), "Most MACs: 50% of the head-cut network's, or 150M; several are fine."),
    ("--max-params", Words(), "Most parameters, likewise."),
    ("--max-size", Words(), "Largest ONNX file, in fp32: 50%, 2MiB; several are fine."),
    ("--max-latency", Words(), "Slowest answer, measured: 3ms, p90=3ms, or 50% of the head-cut's."),
    ("--speedup", Words(), "How many times faster than the head-cut network, measured: 4x."),
    ("--max-rss", Words(), "Most memory of a process that answers, measured: 90MiB or 70%."),
    ("--tolerance", float, "How far below a limit is near enough, a share; a latency: 0.03."),
    (
        "--allocation",
        click.Choice(["uniform", "global", "sensitivity", "repair", "latency"]),
        "Where to cut; default: uniform for ratios, latency for latencies, else repair.",
    ),
    ("--steps", int, "Score, cut and recover so many times on the way to the budget."),
    ("--floor", float, "Share of its channels that every group keeps."),
    ("--align", int, "Kept widths are multiples of this; default: the profile's."),
    ("--skip-first", int, "First convolutions to leave whole."),
    ("--protect", Words(), "Layers whose filters all stay (patterns)."),
    ("--residual", click.Choice(["keep", "prune"]), "Layers that feed a residual add."),
    (
        "--depth",
        click.Choice(["keep", "prune"]),
        "prune: remove residual blocks whole where that harms least for what it saves.",
    ),
    ("--bn-images", int, "Images to re-estimate BN statistics on; 0 is off."),
    ("--epochs", int, "Fine-tuning epochs; 0 is none."),
    ("--lr", float, "Learning rate; default: found by a range test."),
    ("--optimizer", click.Choice(["adamw", "sgd"]), "Of the fine-tuning."),
    ("--weight-decay", float, "Of the optimizer."),
    ("--clip", float, "Largest gradient norm."),
    ("--dropped-images", float, "Unlabelled images of dropped classes per training image."),
    ("--augment", Words(), "Random crop, shift, flip, colour of images; a flip may mislead."),
    ("--patience", int, "Epochs without a better validation before stopping."),
    ("--batch-size", int, "Images per step."),
    ("--seed", int, "Of sampling, training and random scores."),
    ("--device", click.Choice(["auto", "cpu", "cuda"]), "Where to score and train; auto: any GPU."),
    ("--track", Words(), f"Keep curves and results: {_names('trackers', 'tracker')}; offline."),
    ("--track-folder", str, "Where trackers keep theirs."),
    ("--max-accuracy-drop", float, "Top-1 points a network may lose; more is exit code 1."),
    ("--parity-atol", float, "Largest logit error of the graph, or four times float32's own."),
    ("--bundle-images", int, "Test images put into a bundle to check runtimes with."),
    ("--precision", Words(), "fp32, fp16, int8; limits: in the first. Default: the profile's."),
    ("--max-drop", float, "Top-1 points that fewer bits may cost; else rejected (see drop_rule)."),
    ("--profile", str, "Hardware profile: a name or a .toml file."),
    ("--runtimes", Words(), f"Default: the profile's. Known: {_names('runtimes', 'runtime')}."),
    ("--devices", Words(), "To measure on: cpu, cuda, tensorrt, gpu, npu; default: the profile's."),
    ("--runtime", str, "Where times and memory count; default: the profile's first for ONNX."),
    ("--threads", int, "Default: the profile's."),
    ("--bench-seconds", float, "Measuring time of a row."),
)
SWITCHES: tuple[tuple[str, str], ...] = (
    (
        "--reconstruct/--no-reconstruct",
        "Re-solve the layers behind a cut by regression; default: if --epochs is 0, or if "
        "training did worse than that.",
    ),
    ("--trust-checkpoint/--no-trust-checkpoint", "Unpickle the checkpoint: that runs its code."),
    ("--freeze-bn/--train-bn", "Train with fixed batch-norm statistics: for small batches."),
    ("--balance/--no-balance", "Weigh the loss against class imbalance."),
    ("--together/--apart", "All limits for one bundle, instead of a bundle for each."),
    ("--keep-head/--cut-head", "Leave the classifier as it is."),
    ("--distill/--no-distill", "Imitate the head-cut network while fine-tuning."),
    ("--reject-class/--no-reject-class", "One more output, for images of no kept class."),
    ("--bench/--no-bench", "Measure the bundles at the end."),
)

FLAGLESS = (
    "warmup", "temperature", "reconstruct_images", "sensitivity_images", "calibration_images",
    "simplify_seconds", "drop_rule",
)  # fmt: skip
"""Recipe keys that are no flags."""
FLAGLESS_IN_TRAINING = ("warmup",)


# Written out, since help must not wait for pydantic; a test holds them against the recipes.
DEFAULTS = {
    "--validation-share": "0.1", "--max-bad-images": "0", "--cache-mib": "2048",
    "--strategy": "ocap", "--score-images": "512", "--tolerance": "0.02", "--steps": "1",
    "--floor": "0", "--skip-first": "0", "--residual": "prune", "--depth": "keep",
    "--bn-images": "1024", "--epochs": "3", "--optimizer": "adamw", "--weight-decay": "0.0001",
    "--clip": "1", "--dropped-images": "3", "--patience": "5", "--batch-size": "32",
    "--seed": "0", "--device": "auto", "--track-folder": "capdeploy-tracking",
    "--parity-atol": "0.0001", "--bundle-images": "128", "--max-drop": "1",
    "--profile": "this-host", "--bench-seconds": "3",
    "--trust-checkpoint/--no-trust-checkpoint": "no-trust-checkpoint",
    "--freeze-bn/--train-bn": "train-bn", "--balance/--no-balance": "no-balance",
    "--together/--apart": "apart", "--keep-head/--cut-head": "cut-head",
    "--distill/--no-distill": "distill", "--reject-class/--no-reject-class": "no-reject-class",
    "--bench/--no-bench": "bench",
}  # fmt: skip
IN_TRAINING = {
    "--weight-decay": "0.0005", "--patience": "10", "--batch-size": "128", "--epochs": "30",
}  # fmt: skip


def _told(option: str, text: str, defaults: Mapping[str, str]) -> str:
    default = defaults.get(option)
    return text if default is None else f"{text}  [default: {default}]"


def recipe_options(command: Command) -> Command:
    """Add every recipe option to a command; none has a default here, so that layers can merge."""
    for name, help_text in reversed(SWITCHES):
        command = click.option(name, default=None, help=_told(name, help_text, DEFAULTS))(command)
    for name, kind, help_text in reversed(OPTIONS):
        help_text = _told(name, help_text, DEFAULTS)
        command = click.option(name, type=kind, default=None, help=help_text)(command)
    for flag, noun in (("--strategy-arg", "strategy"), ("--arch-arg", "architecture")):
        command = click.option(
            flag, f"{flag[2:].replace('-', '_')}s", multiple=True, metavar="KEY=VALUE",
            help=f"Argument for the {noun}.",
        )(command)  # fmt: skip
    return command


def layer_options(command: Command, flagless: Iterable[str] = FLAGLESS) -> Command:
    """Add the layers below the flags to a command: a recipe file, and single keys."""
    command = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Set any recipe key; without a flag of their own: {', '.join(flagless)}.",
    )(command)
    return click.option(
        "-c", "--config", type=click.Path(path_type=Path), help="Recipe (TOML)."
    )(command)  # fmt: skip


# What training needs of them; its own are added.
SHARED = frozenset(
    {
        "--data", "--split", "--split-group", "--input-size", "--mean", "--std",
        "--channel-order", "--resize", "--crop", "--interpolation", "--classes",
        "--samples-per-class", "--validation-share", "--max-bad-images", "--cache-mib", "--lr",
        "--optimizer", "--weight-decay", "--clip", "--augment", "--patience", "--batch-size",
        "--seed", "--device", "--track", "--track-folder", "--freeze-bn/--train-bn",
        "--balance/--no-balance",
    }
)  # fmt: skip
TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("--arch", str, "torchvision name, timm:NAME, module:callable or file.py:callable."),
    ("--init", str, "Checkpoint to start from; a head of another width begins fresh."),
    ("--epochs", int, "Most passes over the training images."),
)


def training_options(command: Command) -> Command:
    """Add the options of training to a command."""
    defaults = DEFAULTS | IN_TRAINING
    amp = ("--amp/--no-amp", "Compute in bfloat16 where it is safe; default: on a GPU that can.")
    for name, help_text in (amp, *(switch for switch in SWITCHES if switch[0] in SHARED)):
        help_text = _told(name, help_text, defaults)
        command = click.option(name, default=None, help=help_text)(command)
    shared = [option for option in OPTIONS if option[0] in SHARED]
    for name, kind, help_text in reversed((*TRAINING, *shared)):
        help_text = _told(name, help_text, defaults)
        command = click.option(name, type=kind, default=None, help=help_text)(command)
    return click.option(
        "--arch-arg", "arch_args", multiple=True, metavar="KEY=VALUE",
        help="Argument for the architecture.",
    )(command)  # fmt: skip


def plain(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Turn click's values into recipe values; what was not given is None."""
    values = dict(flags)
    for key, flag in (("arch_args", "--arch-arg"), ("strategy_args", "--strategy-arg")):
        if key not in values:
            continue
        values[key] = pairs(values.get(key) or (), flag) or None
    return values


def pairs(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read ``key=value`` words; values are JSON where they can be."""
    import json

    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{flag} {text}: expected key=value")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
