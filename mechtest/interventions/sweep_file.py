"""How does the result of a sweep reach the disk whole, and come back?

Strict JSON: a number that is missing is null, and why it is missing stands beside it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from mechtest.errors import MechtestError, NonFiniteError, SweepFileError
from mechtest.records import ModelIdentity

if TYPE_CHECKING:
    from mechtest.interventions.sweep_result import SweepResult

__all__ = ["parsed", "read_text", "serialized", "write_whole"]

T = TypeVar("T")
FORMAT = "mechtest-sweep/1"


def serialized(result: SweepResult) -> str:
    """Return a result as one line of JSON.

    Raises:
        NonFiniteError: NaN or infinity in what says how it was computed.
    """
    content = {one.name: getattr(result, one.name) for one in fields(result)}
    content["values"] = _nested(result.values)
    content["reasons"] = [[*at, reason] for at, reason in sorted(result.reasons.items())]
    content["model"] = asdict(result.model)
    content["engine"] = dict(result.engine)
    try:
        return json.dumps(
            {"format": FORMAT, **content},
            allow_nan=False,
            ensure_ascii=True,  # half a character of a token is no reason to lose a sweep
            separators=(",", ":"),
        )
    except ValueError as error:
        raise NonFiniteError(
            f"`engine` of a sweep cannot be written as JSON: {error}",
            expected="finite numbers, texts, lists and mappings",
        ) from error


def parsed(text: str, name: str, build: Callable[..., T]) -> T:
    """Return the result that `serialized` wrote.

    Args:
        text: JSON.
        name: What it is called in messages.
        build: The class of the result.

    Raises:
        SweepFileError: Another format, or missing, unknown or unusable fields.
    """
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"no JSON: {error}") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT:
        raise _refused(name, f"format {found!r}")
    odd = sorted({one.name for one in fields(build)} ^ set(content))  # type: ignore[arg-type]
    if odd:
        raise _refused(name, f"missing or unknown fields: {', '.join(odd)}")
    try:
        shape = len(content["rows"]), len(content["columns"]), len(content["prompt_ids"])
        content["values"] = np.array(content["values"], dtype=np.float64).reshape(shape)
        content["reasons"] = {(row, column): why for row, column, why in content["reasons"]}
        content["model"] = ModelIdentity(**content["model"])
        for key in ("rows", "columns", "prompt_ids", "templates"):
            content[key] = tuple(content[key])
        for key in ("sites", "prompt_columns"):
            content[key] = tuple(tuple(line) for line in content[key])
        return build(**content)
    except (TypeError, ValueError) as error:
        what = error.what if isinstance(error, MechtestError) else str(error)
        raise _refused(name, what) from error


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        SweepFileError: It is not there, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SweepFileError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a file that `SweepResult.save` wrote",
        ) from error


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside its place and move it there: nobody ever meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _nested(values: np.ndarray) -> Any:
    if not np.isnan(values).any():
        return values.tolist()
    return _without_nan(values.tolist())


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if math.isnan(value) else value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _refused(name: str, given: str) -> SweepFileError:
    return SweepFileError(
        f"{name} is not a sweep that this version reads",
        given=given,
        expected=f"format {FORMAT!r}",
        next_step="read it with the version of mechtest that wrote it, or run the sweep again",
    )
