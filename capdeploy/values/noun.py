"""The base of every noun: a frozen pydantic model with one-line refusals and readable JSON."""

from __future__ import annotations

import json
import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from capdeploy.errors import ConfigError

SCHEMA_VERSION = 1


class Noun(BaseModel):
    """A value that is checked at birth, never changes, and has a JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Write the noun as indented JSON; lists of plain numbers stay on one line."""
        return _compact(json.dumps(self.model_dump(mode="json", by_alias=True), indent=2)) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "JSON") -> Self:
        """Read a noun back.

        Parameters
        ----------
        text : str | bytes
            The JSON document.
        source : str
            What to call the document in an error message, usually its path.

        Returns
        -------
        Self
            A noun equal to the one that was written.

        Raises
        ------
        ConfigError
            If the document is not JSON, or not a valid noun of this kind.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{source}: {first_fault(error)}") from error

    @classmethod
    def from_plain(cls, data: dict[str, Any], *, source: str) -> Self:
        """Build a noun from plain Python data, with the same refusals as `from_json`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{source}: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """Put the first fault of a validation into one line, and count the rest."""
    faults = error.errors(include_url=False)
    rest = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{in_words(faults[0])}{rest}"


def in_words(fault: ErrorDetails) -> str:
    """Put one fault into one line: the place, what is wrong, what was found."""
    place = ".".join(str(part) for part in fault["loc"])
    found = "" if fault["type"] in {"missing", "json_invalid"} else _shown(fault.get("input"))
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place + ': ' if place else ''}{message}{found}"


def _shown(value: object) -> str:
    text = repr(value)
    return "" if len(text) > 60 else f", found {text}"


def _compact(text: str) -> str:
    number = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
    listing = re.compile(rf"\[\s*({number}(?:,\s*{number})*)\s*\]")
    return listing.sub(lambda match: "[" + re.sub(r"\s+", " ", match.group(1)) + "]", text)
