"""From an image file, of whatever kind, to RGB pixels of the network's size."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from capdeploy.values.checkpoint import Preprocessing

MOST_PIXELS = 89_478_485
"""As many as Pillow takes without a warning: a quarter of a GiB decoded."""
BAD = (
    OSError,  # unknown, truncated, empty or missing
    ValueError,
    SyntaxError,  # Pillow's word for a broken PNG
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)
"""Whatever `decode` raises for an image that cannot be used."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From EXIF's orientation to what brings the image upright."""


def decode(source: Path | IO[bytes]) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB, upright.

    Greyscale, palettes, CMYK and 16 bits are converted, transparency is dropped, an animation
    gives its first frame, and the camera's rotation (EXIF) is carried out.

    Parameters
    ----------
    source : Path | IO[bytes]
        The file, or a stream of its bytes.

    Returns
    -------
    npt.NDArray[np.uint8]
        (H, W, 3).

    Raises
    ------
    ValueError
        If it has too many pixels, values that are not 8 or 16 bits, or is PostScript. Pillow
        raises further errors for damaged files; `BAD` lists them all.
    """
    if isinstance(source, Path):
        # Pillow would map a file that it knows by its path, and turns some of those wrongly.
        with source.open("rb") as stream:
            return decode(stream)
    with Image.open(source) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; {MOST_PIXELS} are the most")
        if image.format == "EPS":
            raise ValueError("it is PostScript, which is a program and would have to run")
        if image.mode in {*_SIXTEEN, "I"}:
            return _deep(_upright(image))
        if image.mode == "F":
            raise ValueError("its values are floating-point numbers of an unknown range")
        return np.asarray(_upright(image).convert("RGB"), dtype=np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Carry the camera's rotation out; Pillow's own way writes all of EXIF anew, if it can."""
    image.load()  # which for some kinds carries it out, and forgets it
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what damaged EXIF raises is not settled; the image itself is sound
        return image
    return image if turn is None else image.transpose(turn)


def _deep(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Bring 16-bit grey to 8 bits by its upper byte; Pillow would clip it to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its values are 32-bit numbers of an unknown range")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def fit(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Bring an image to the input size, as the preprocessing says.

    Parameters
    ----------
    image : npt.NDArray[np.uint8]
        (H, W, 3) RGB.
    preprocessing : Preprocessing
        Gives the input size, and how to get there.

    Returns
    -------
    npt.NDArray[np.uint8]
        (height, width, 3); the same array if it has that size already and none is cropped away.

    Raises
    ------
    ValueError
        If it is so thin that filling the input size with it would take too many pixels.
    """
    height, width = preprocessing.height, preprocessing.width
    whole = preprocessing.resize == "stretch" or preprocessing.crop == 1
    if image.shape[:2] == (height, width) and whole:
        return image
    if preprocessing.resize == "stretch":
        return _resized(image, height, width, preprocessing)
    tall, wide = round(height / preprocessing.crop), round(width / preprocessing.crop)
    # Rounded as torchvision does, by whose eyes most networks were trained and judged.
    if tall * image.shape[1] >= wide * image.shape[0]:
        wide = max(wide, tall * image.shape[1] // image.shape[0])
    else:
        tall = max(tall, wide * image.shape[0] // image.shape[1])
    if tall * wide > MOST_PIXELS:
        raise ValueError(f"{image.shape[1]} x {image.shape[0]} pixels are too thin to be cropped")
    resized = _resized(image, tall, wide, preprocessing)
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    # A copy: a view would keep what was cropped away.
    return resized[top : top + height, left : left + width].copy()


def _resized(
    image: npt.NDArray[np.uint8], height: int, width: int, preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    how = _FILTERS[preprocessing.interpolation]
    return np.asarray(Image.fromarray(image).resize((width, height), how), dtype=np.uint8)
