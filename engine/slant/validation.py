"""Decoded JSON against types and ranges, by pydantic: what does not fit is one sentence that names the field.

Strict: nothing is converted, so that "true" is no boolean, "8" and 8.0 are no integers, and NaN is no number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from slant.errors import SlantError, shortened

T = TypeVar("T")
Table = TypeVar("Table", bound=BaseModel)
STRICT = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)
RECORD = ConfigDict(**STRICT, extra="forbid")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# In the words of JSON; pydantic's own are those of Python.
_MUST = "Input should "
_ALLOWED = {
    "model_type": "be an object",
    "dict_type": "be an object",
    "dataclass_type": "be an object",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "bool_type": "be true or false",
    "none_required": "be null",
    "int_type": "be an integer",
    "int_from_float": "be an integer",
    "float_type": "be a number",
    "string_type": "be a string",
    "string_unicode": "be Unicode text, without lone surrogates",
}


def only(*values: object) -> AfterValidator:
    """For ``Annotated``: the field must be one of these, which are all that slant knows or computes."""

    def check(value: T) -> T:
        if value not in values:
            raise ValueError(f"slant takes only {' or '.join(map(shown, values))}")
        return value

    return AfterValidator(check)


def table(kind: type[Table], raw: object, source: str, error: type[SlantError], advice: str) -> Table:
    """The fields that decoded JSON sets. ``source`` begins the error's sentence and ``advice`` ends it.

    Raises ``error``, naming the first field that is missing, unknown, of the wrong type or out of range.
    """
    return _checked(lambda: kind.model_validate(raw), source, error, advice)


def record(kind: type[T], raw: object, source: str, error: type[SlantError], advice: str) -> T:
    """A dataclass (of dataclasses, tuples and the like) from decoded JSON that holds its fields and no others.

    Raises as ``table`` does.
    """
    # Strict pydantic makes dataclasses of JSON text only.
    text = json.dumps({"record": raw})
    return _checked(lambda: _wrapper(kind).model_validate_json(text).record, source, error, advice)  # type: ignore


@cache
def _wrapper(kind: type) -> type[BaseModel]:
    return create_model("Wrapper", __config__=RECORD, record=(kind, ...))


def _checked(read: Callable[[], T], source: str, error: type[SlantError], advice: str) -> T:
    try:
        return read()
    except ValidationError as problem:
        found = problem.errors(include_url=False)
        more = f" ({len(found) - 1} more of its fields are wrong)" if len(found) > 1 else ""
        # The reason why a value is not computed here says what to do.
        end = "." if found[0]["type"] == "value_error" else f"; {advice}."
        raise error(_sentence(source, found[0]) + more + end) from None


def _sentence(source: str, problem: ErrorDetails) -> str:
    kind, message = problem["type"], problem["msg"]
    keys = [key for key in problem["loc"] if key != "record"]
    places = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    place = shortened("".join(places).removeprefix(".") or '""' * bool(keys))
    place = place.encode(errors="backslashreplace").decode().replace("\n", "\\n")
    subject = f"{source}: {place}" if place else source
    if kind == "missing":
        return f"{subject} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{subject} is unknown"
    if kind == "json_invalid":  # JSON that Python wrote: only these two are not
        return f"{subject} has a text with a lone surrogate, or is nested too deeply"
    if kind == "value_error" and not place:
        return f"{subject}: {problem['ctx']['error']}"
    said = f"{subject} is {shown(problem['input'])}"
    if kind == "value_error":
        return f"{said}, but {problem['ctx']['error']}"
    if kind in _ALLOWED or message.startswith(_MUST):
        return f"{said}, but must {_ALLOWED.get(kind) or message.removeprefix(_MUST)}"
    return f"{said}: {message[0].lower()}{message[1:]}"


def shown(value: object) -> str:
    """A value as it stands in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text.encode(errors="backslashreplace").decode())
