"""``capdeploy predict``: what a bundle says to images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdeploy.cli._output import format_option, tell

if TYPE_CHECKING:
    from capdeploy.bundle import Bundle


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--runtime", default="onnxruntime", show_default=True, help="What runs it.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32",
              show_default=True, help="Of the graphs that the bundle has.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--trust-factory", is_flag=True, help="Let the bundle name code that builds it.")
@format_option
def command(
    bundle: Path,
    images: tuple[Path, ...],
    runtime: str,
    precision: str,
    threads: int,
    trust_factory: bool,
    style: str,
) -> None:
    """Answer IMAGES with the network in BUNDLE.

    An image that looks like none of the kept classes is said to be none of them, where the
    bundle was made with images of other classes at hand. The bundle is verified first.
    """
    import json

    from capdeploy import bundle as bundles
    from capdeploy.predict import predict
    from capdeploy.report.tables import Table

    opened = bundles.read(bundle).in_precision(precision, runtime)
    bundles.verify(opened)
    shown = (_pixels(path, opened) for path in images)
    found = predict(opened, shown, runtime=runtime, threads=threads, trust_factory=trust_factory)
    rows = tuple(
        (str(path), "none of them" if answer.rejected else answer.label,
         f"{answer.confidence:.1%}", answer.label if answer.rejected else "")
        for path, answer in zip(images, found, strict=True)
    )  # fmt: skip
    document = {
        "schema_version": 1,
        "answers": [{"image": str(path), **answer.model_dump(mode="json")}
                    for path, answer in zip(images, found, strict=True)],
    }  # fmt: skip
    note = "confidence among the outputs" + ("" if found[0].calibrated else ", not calibrated")
    columns = ("image", "answer", "confidence", "nearest")
    tell(style, json.dumps(document), [Table("Answers", columns, rows, (note,))])


def _pixels(path: Path, opened: Bundle) -> Any:
    from importlib.util import find_spec

    from capdeploy.errors import DataError, MissingExtraError

    if find_spec("PIL") is None:
        raise MissingExtraError("pillow", "predict")
    from capdeploy import pixels

    try:
        return pixels.fit(pixels.decode(path), opened.manifest.preprocessing)
    except pixels.BAD as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror
            else str(error) if type(error) is ValueError  # our own words
            else "it is none, or damaged"
        )  # fmt: skip
        raise DataError(f"{path} cannot be read as an image: {reason}") from error
