"""The base of every noun: a frozen pydantic model with one-line refusals and readable JSON."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from capdeploy.errors import ConfigError, printable

SCHEMA_VERSION = 1
# Python's TOML reader takes time in the square of a key's length: a minute for 64 KiB of "a.a.a".
DEEPEST_KEY = 100


def _finite(value: JsonValue) -> JsonValue:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:  # pydantic lets them pass here although the model forbids them
        raise ValueError("NaN, infinity and numbers of 4300 digits are no JSON") from error
    return value


Argument = Annotated[JsonValue, AfterValidator(_finite)]
"""Any value that JSON can hold, and give back."""


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


class TellingNoun(Noun):
    """A noun whose documents tell what follows from its fields, too; that is not read back."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_follows(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: each for key, each in data.items() if key not in cls.model_computed_fields}
        return data


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
    return printable(f"{place + ': ' if place else ''}{message}{found}")


def toml_table(text: bytes, *, source: str) -> dict[str, Any]:
    """Read a TOML document.

    Parameters
    ----------
    text : bytes
        The document.
    source : str
        What to call it in an error message.

    Returns
    -------
    dict[str, Any]
        Its tables.

    Raises
    ------
    ConfigError
        If it is not TOML, or nested or long beyond reason.
    """
    try:
        words = text.decode()
        # Whatever stands between two signs of structure counts as one part of a key.
        if "a." * DEEPEST_KEY in re.sub(r"[^.,=\n\[\]{}#]+", "a", words):
            raise ConfigError(f"{source}: a key has more than {DEEPEST_KEY} parts; shorten it")
        table = tomllib.loads(words)
        json.dumps(table, default=str)  # fails where a hexadecimal number is longer than any text
        return table
    except ValueError as error:  # TOML's own, no UTF-8, or a number of more than 4300 digits
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply; flatten its lists and tables") from error


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of more than 4300 digits
        return ""
    return "" if len(text) > 60 else f", found {text}"


def _compact(text: str) -> str:
    number = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
    # Strings come first, so that what looks like a list inside of one stays as it is.
    listing = re.compile(rf'"(?:[^"\\]|\\.)*"|\[\s*({number}(?:,\s*{number})*)\s*\]')
    return listing.sub(
        lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]" if found[1] else found[0], text
    )
