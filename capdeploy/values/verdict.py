"""What a comparison of two bundles can end with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capdeploy.values.noun import Noun


class Kept(Noun):
    """Nothing got worse."""

    kind: Literal["kept"] = "kept"


class Regressed(Noun):
    """Something got worse beyond doubt."""

    kind: Literal["regressed"] = "regressed"
    findings: tuple[str, ...] = Field(min_length=1)


class Inconclusive(Noun):
    """The noise does not allow an answer."""

    kind: Literal["inconclusive"] = "inconclusive"
    reasons: tuple[str, ...] = Field(min_length=1)


class Incomparable(Noun):
    """The two were measured under different conditions."""

    kind: Literal["incomparable"] = "incomparable"
    differing: tuple[str, ...] = Field(min_length=1)


Verdict = Annotated[Kept | Regressed | Inconclusive | Incomparable, Field(discriminator="kind")]
