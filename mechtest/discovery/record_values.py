"""How does a value of a record become JSON, and come back the same?

Arrays and the few records that records hold are marked with what they are; tuples, numbers, texts
and mappings with text keys are themselves. Lists come back as tuples: records are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from mechtest.errors import NonFiniteError
from mechtest.interventions import SweepResult
from mechtest.records import ModelIdentity
from mechtest.tasks import Fingerprints

__all__ = ["decoded", "encoded", "part_of_records"]

_PARTS: dict[str, type] = {"ModelIdentity": ModelIdentity}


def part_of_records(kind: type) -> type:
    """Let frozen dataclasses of this kind stand inside records (class decorator)."""
    _PARTS[kind.__name__] = kind
    return kind


def encoded(value: Any) -> Any:
    """Return a value as JSON can hold it.

    Raises:
        NonFiniteError: NaN or infinity in an array.
        TypeError: A value of a kind that records do not hold.
    """
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return [encoded(one) for one in value]
    if isinstance(value, Fingerprints):
        return {"$": "Fingerprints", **value.to_row()}
    if isinstance(value, SweepResult):
        return {"$": "SweepResult", "text": value.to_json()}
    if is_dataclass(value) and not isinstance(value, type):
        return _part(value)
    if isinstance(value, Mapping):
        return {str(key): encoded(one) for key, one in value.items()}
    raise TypeError(f"records do not hold values of type {type(value).__name__}")


def decoded(value: Any) -> Any:
    """Return what `encoded` was given."""
    if isinstance(value, list):
        return tuple(decoded(one) for one in value)
    if not isinstance(value, dict):
        return value
    mark = value.get("$")
    if mark is None:
        return {key: decoded(one) for key, one in value.items()}
    rest = {key: one for key, one in value.items() if key != "$"}
    special: dict[str, Callable[[], Any]] = {
        "array": lambda: _read_only(rest),
        "Fingerprints": lambda: Fingerprints.from_row(rest),
        "SweepResult": lambda: SweepResult.from_json(rest["text"]),
    }
    if mark in special:
        return special[mark]()
    return _known(mark)(**{key: decoded(one) for key, one in rest.items()})


def _array(value: np.ndarray) -> dict[str, Any]:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise NonFiniteError(
            "an array of a record holds NaN or infinity",
            given=f"{int((~np.isfinite(value)).sum())} of {value.size} numbers",
            expected="finite numbers; what is missing is left out, with a reason",
        )
    if value.dtype.kind not in "fiub":
        raise TypeError(f"records do not hold arrays of {value.dtype}")
    # float64 holds every float32 exactly, and Python writes enough digits to read it back.
    wide = value.astype(np.float64) if value.dtype.kind == "f" else value
    return {
        "$": "array",
        "dtype": str(wide.dtype),
        "shape": list(wide.shape),
        "values": wide.reshape(-1).tolist(),
    }


def _read_only(content: Mapping[str, Any]) -> np.ndarray:
    array = np.array(content["values"], dtype=content["dtype"]).reshape(content["shape"])
    array.flags.writeable = False
    return array


def _part(value: Any) -> dict[str, Any]:
    name = type(value).__name__
    known: Any = _known(name)
    if known is not type(value):  # as Any: type(value) would narrow what follows to object
        raise TypeError(f"records do not hold this {name}")
    if name == "ModelIdentity":
        return {"$": name, **asdict(value)}
    return {"$": name, **{one.name: encoded(getattr(value, one.name)) for one in fields(value)}}


def _known(name: str) -> type:
    # `About` lives above this module and is registered by its own.
    if name not in _PARTS:
        raise TypeError(f"records do not hold a {name}")
    return _PARTS[name]
