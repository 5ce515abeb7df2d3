"""Everything that one run of ``capdeploy compress`` was asked to do."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.accuracy import DropRule
from capdeploy.values.budget import Allocation, Budget, Limit
from capdeploy.values.noun import SCHEMA_VERSION, Argument, Noun

Ratio = Annotated[float, Field(ge=0, lt=1)]
Augmentation = Literal["crop", "shift", "flip", "colour"]


class Common(Noun):
    """What compressing and training are both told: the images, and how to learn from them."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)

    arch_args: dict[str, Argument] = Field(default_factory=dict)
    data: str = Field(min_length=1, description="kind:PATH, see: capdeploy list data")
    split: str | None = Field(
        default=None, description="80/20, of unsplit data",
        json_schema_extra={"pattern": r"^\d{1,2}/\d{1,2}$"},
    )  # fmt: skip
    split_group: str | None = Field(
        default=None, description="regular expression: images whose match is equal stay together"
    )
    input_size: tuple[int, int] | None = Field(default=None, description="height, width")
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channel_order: Literal["RGB", "BGR"] | None = None
    resize: Literal["short-side-then-centre-crop", "stretch"] | None = None
    crop: float | None = Field(default=None, gt=0, le=1, description="input side / resized side")
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    classes: tuple[str, ...] = Field(
        default=(), description="names, ids, 0-9, globs, @FILE, in output order; () = all"
    )
    samples_per_class: int | None = Field(default=None, ge=2, description="training images, most")
    validation_share: float = Field(default=0.1, gt=0, lt=0.9)
    max_bad_images: int = Field(default=0, ge=0)
    cache_mib: int = Field(default=2048, ge=0, description="memory for decoded images")

    epochs: int = Field(default=3, ge=0)
    lr: float | None = Field(default=None, gt=0, description="None: found by a range test")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps")
    freeze_bn: bool = Field(
        default=False, description="train with the batch-norm statistics as they are"
    )
    balance: bool = Field(default=False, description="weigh the loss against class imbalance")
    augment: tuple[Augmentation, ...] = Field(
        default=(), description="random changes of training images; a flip may change a meaning"
    )
    patience: int = Field(default=5, ge=1, description="epochs without a better validation")
    batch_size: int = Field(default=32, ge=2)
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where networks are scored and trained; auto: cuda if any"
    )

    track: tuple[str, ...] = Field(default=(), description="trackers that keep curves and results")
    track_folder: str = Field(
        default="capdeploy-tracking", min_length=1, description="what trackers keep on this machine"
    )

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if None in self.arch_args.values():
            raise ValueError("an architecture argument is null; leave it out instead")
        return self


class Recipe(Common):
    """A run, complete: flags, environment, recipe file, profile and defaults merged."""

    checkpoint: str = Field(min_length=1, description="file of weights")
    state_key: str | None = Field(default=None, description="where in it the weights are")
    strip_prefix: str | None = Field(default=None, description="taken away from every name")
    trust_checkpoint: bool = Field(default=False, description="unpickle it, which runs its code")
    ignore_keys: tuple[str, ...] = Field(
        default=(), description="patterns of tensor names that may differ from the architecture"
    )
    arch: str | None = Field(
        default=None,
        min_length=1,
        description="torchvision name, timm:NAME, module:callable, file.py:callable; None: found",
    )

    labels: str | None = Field(default=None, description="file: one name a line, output order")
    label_map: str | None = Field(default=None, description="JSON or TOML: folder -> output id")

    strategy: str = "ocap"
    strategy_args: dict[str, float | str] = Field(default_factory=dict)
    score_images: int = Field(default=512, ge=2)
    ratio: tuple[Ratio, ...] = Field(default=(), description="0.5 if no budget is given at all")
    max_macs: tuple[str, ...] = Field(default=(), description="50%, 150M, ...")
    max_params: tuple[str, ...] = ()
    max_size: tuple[str, ...] = Field(default=(), description="of the ONNX file: 50%, 2MiB, ...")
    max_latency: tuple[str, ...] = Field(
        default=(), description="of one image, measured: 3ms, p90=3ms, 50%"
    )
    speedup: tuple[str, ...] = Field(default=(), description="4x the head-cut network's speed")
    max_rss: tuple[str, ...] = Field(
        default=(), description="peak memory of a process that answers, measured: 90MiB, 70%"
    )
    together: bool = Field(default=False, description="all limits hold for one bundle")
    tolerance: float = Field(default=0.02, gt=0, le=1, description="how far below a limit is met")
    allocation: Allocation | None = Field(
        default=None,
        description="None: uniform for ratios, latency for limits of latency, repair for others",
    )
    steps: int = Field(default=1, ge=1, le=100, description="score, cut and recover, repeatedly")
    sensitivity_images: int = Field(default=256, ge=2)
    align: int = Field(default=8, ge=1)
    floor: float = Field(default=0.0, ge=0, lt=1, description="share every group keeps")
    skip_first: int = Field(default=0, ge=0)
    protect: tuple[str, ...] = ()
    residual: Literal["keep", "prune"] = "prune"
    depth: Literal["keep", "prune"] = Field(
        default="keep", description="prune: residual blocks may be removed whole"
    )
    keep_head: bool = False

    bn_images: int = Field(default=1024, ge=0, description="for BN re-estimation; 0 = off")
    reconstruct: bool | None = Field(
        default=None,
        description="re-solve consumers of cut channels, and train from there; None: if epochs is "
        "0, or if training did worse than that",
    )
    reconstruct_images: int = Field(
        default=2048, ge=2, description="of the kept classes, at most; as many of dropped ones"
    )
    distill: bool = True
    dropped_images: float = Field(
        default=3.0, ge=0, description="unlabelled images of dropped classes per kept-class image"
    )
    temperature: float = Field(default=4.0, gt=0)
    reject_class: bool = Field(
        default=False, description="one more output, for images of none of the kept classes"
    )

    max_accuracy_drop: float | None = Field(
        default=None, ge=0, le=100, description="top-1 points that the compressed network may lose"
    )
    parity_atol: float = Field(default=1e-4, gt=0)
    simplify_seconds: int = Field(default=120, ge=1)
    bundle_images: int = Field(default=128, ge=2, description="test images put into the bundle")

    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        default=("fp32",),
        min_length=1,
        description="fewer bits come besides, for each runtime of graphs; a latency counts in the "
        "first one",
    )
    max_drop: float = Field(
        default=1.0, ge=0, le=100, description="top-1 points that fewer bits may cost"
    )
    drop_rule: DropRule = Field(
        default="real",
        description="when that is too much, by the 95 % interval of what is lost: real = more than "
        "max_drop, and no chance (the interval is above 0); lower = the whole interval is above "
        "max_drop; upper = some of it is; estimate = the interval does not count",
    )
    calibration_images: int = Field(default=256, ge=2, description="of the kept classes")

    profile: str = "this-host"
    runtimes: tuple[str, ...] = Field(default=(), description="() = the profile's")
    devices: tuple[str, ...] = Field(default=(), description="() = the profile's")
    threads: int | None = Field(default=None, ge=1, description="None: the profile's")
    runtime: str | None = Field(
        default=None, description="where latency counts; None: the profile's first that runs ONNX"
    )
    bench: bool = True
    bench_seconds: float = Field(default=3.0, gt=0, description="measuring time of a row")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if len(set(self.ratio)) != len(self.ratio):
            raise ValueError("a ratio is given twice")
        if self.bn_images == 1:
            raise ValueError("bn_images is 1, which has no variance: give 0 (off), or 2 and more")
        if self.reject_class and self.keep_head:
            raise ValueError(
                "reject_class adds an output to a head that is cut; leave out keep_head"
            )
        if len(self.budgets()) != len({budget.name for budget in self.budgets()}):
            raise ValueError("a budget is given twice")
        if self.steps > 1 and self.max_rss:
            raise ValueError("a memory is met in one step; leave out steps, or limit the size")
        return self

    def budgets(self) -> tuple[Budget, ...]:
        """List what was asked for; each makes one bundle.

        Returns
        -------
        tuple[Budget, ...]
            Ratios ascending, then limits.
        """
        rest: dict[str, Any] = {
            "tolerance": self.tolerance, "align": self.align,
            "floor": self.floor, "skip_first": self.skip_first, "protect": self.protect,
            "residual": self.residual, "depth": self.depth,
        }  # fmt: skip
        asked = (
            ("macs", self.max_macs), ("parameters", self.max_params), ("size", self.max_size),
            ("latency", self.max_latency), ("speedup", self.speedup), ("rss", self.max_rss),
        )  # fmt: skip
        limits = [Limit.parse(quantity, text) for quantity, texts in asked for text in texts]
        if self.together:
            return (self._joint(limits, rest),)
        ratios = self.ratio or (() if limits else (0.5,))
        usual = self.allocation or "uniform"
        return (
            *(Budget(ratio=ratio, allocation=usual, **rest) for ratio in sorted(ratios)),
            *(Budget(limit=limit, allocation=self.allocation or _fitting(limit), **rest)
              for limit in limits),
        )  # fmt: skip

    def _joint(self, limits: list[Limit], rest: dict[str, Any]) -> Budget:
        """Make one budget of all limits; what is measured is searched for and comes first."""
        if len(limits) < 2 or self.ratio or self.steps > 1:
            raise ValueError(
                "together needs two limits or more (max_macs, max_params, max_size, max_latency, "
                "speedup, max_rss), no ratio, and a single step"
            )
        first, *others = sorted(limits, key=lambda limit: not limit.measured)
        wanted = {"limit": first, "also": tuple(others)}
        return Budget(allocation=self.allocation or _fitting(first), **wanted, **rest)


def _fitting(limit: Limit) -> Literal["repair", "latency"]:
    return "latency" if limit.quantity == "latency" else "repair"


class TrainRecipe(Common):
    """A run of ``capdeploy train``, complete."""

    arch: str = Field(min_length=1, description="torchvision name, timm:NAME, module:callable")
    init: str | None = Field(
        default=None, description="checkpoint to start from; a head of another width is left out"
    )
    epochs: int = Field(default=30, ge=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    patience: int = Field(default=10, ge=1, description="epochs without a better validation")
    batch_size: int = Field(default=128, ge=2)
    amp: bool | None = Field(
        default=None, description="bfloat16 where it is safe; None: on a GPU that has it"
    )
