"""How is a circuit kept in a file of its own, and how does it come back the same?

Strict JSON of a stated format. Numbers of a subspace are written so that every bit comes back, with
the fingerprints of the prompts the circuit was found on: a claim that reads the file is held
against them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from mechtest.errors import DiscoveryFileError, MechtestError, NonFiniteError
from mechtest.interventions.subspace import Subspace
from mechtest.interventions.sweep_file import write_whole
from mechtest.tasks import Fingerprints

if TYPE_CHECKING:
    from mechtest.interventions.circuit import Circuit

__all__ = ["circuit_text", "load_circuit", "parsed_circuit", "save_circuit"]

FORMAT = "mechtest-circuit/1"
FIELDS = frozenset({"name", "sites", "channels", "subspace", "fitted_on"})
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def circuit_text(circuit: Circuit) -> str:
    """Return a circuit as JSON, one field a line.

    Raises:
        NonFiniteError: NaN or infinity in its subspace.
        DiscoveryFileError: A subspace of a dtype whose numbers float64 does not hold.
    """
    content = {
        "format": FORMAT,
        "name": circuit.name,
        "sites": [str(site) for site in circuit.sites],
        "channels": circuit.channel_key,
        "subspace": None if circuit.subspace is None else _subspace_row(circuit.subspace),
        "fitted_on": None if circuit.fitted_on is None else circuit.fitted_on.to_row(),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(content[key], allow_nan=False)}" for key in content]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit to a file, whole or not at all, and return its path.

    Raises:
        NonFiniteError, DiscoveryFileError: As `circuit_text`.
    """
    return write_whole(Path(path), circuit_text(circuit).encode())


def load_circuit(path: str | Path) -> Circuit:
    """Read what `save_circuit` wrote.

    Raises:
        DiscoveryFileError: There is no file, or it holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DiscoveryFileError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a file that `Circuit.save` wrote",
        ) from error
    return parsed_circuit(text, str(path))


def parsed_circuit(text: str, name: str = "the text") -> Circuit:
    """Read what `circuit_text` wrote.

    Args:
        text: JSON.
        name: What it is called in messages.

    Raises:
        DiscoveryFileError: Another format, missing or unknown fields, or values that do not fit.
    """
    from mechtest.interventions.circuit import Circuit

    try:
        content = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"no JSON: {error}") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT:
        raise _refused(name, f"format {found!r}")
    odd = sorted(FIELDS ^ set(content))
    if odd:
        raise _refused(name, f"missing or unknown fields: {', '.join(odd)}")
    try:
        return Circuit(
            *_texts(content["sites"], "sites"),
            subspace=None if content["subspace"] is None else _subspace(content["subspace"]),
            channels=_channels(content["channels"]),
            name=_text(content["name"], "name"),
            fitted_on=_fingerprints(content["fitted_on"]),
        )
    except (TypeError, ValueError, KeyError, MechtestError) as error:
        what = error.what if isinstance(error, MechtestError) else str(error)
        raise _refused(name, what) from error


def _subspace_row(subspace: Subspace) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dim": subspace.dim,
        "rank": subspace.rank,
        "outside": subspace.outside,
    }
    for key in ("basis", "dual"):
        value = getattr(subspace, key).detach().cpu()
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise DiscoveryFileError(
                f"the {key} of a subspace is written in float32 or float64", given=dtype
            )
        if not bool(value.isfinite().all()):
            raise NonFiniteError(f"the {key} of a subspace holds NaN or infinity", given=str(dtype))
        # float64 holds every float32, and Python writes enough digits to read it back.
        row[key] = {"dtype": dtype, "values": value.double().tolist()}
    return row


def _subspace(row: Any) -> Subspace:
    if not isinstance(row, dict) or set(row) != {"dim", "rank", "outside", "basis", "dual"}:
        raise ValueError("a subspace has dim, rank, outside, basis and dual")
    if not isinstance(row["outside"], bool):
        raise TypeError("`outside` of a subspace is true or false")
    shape = (_integer(row["dim"], "dim"), _integer(row["rank"], "rank"))
    basis, dual = (_matrix(row[key], key, shape) for key in ("basis", "dual"))
    return Subspace(basis, dual, row["outside"])


def _matrix(row: Any, name: str, shape: tuple[int, int]) -> torch.Tensor:
    if not isinstance(row, dict) or set(row) != {"dtype", "values"} or row["dtype"] not in DTYPES:
        raise ValueError(f"`{name}` has a dtype (float32 or float64) and values")
    lines = row["values"]
    fits = isinstance(lines, list) and len(lines) == shape[0]
    if not fits or any(not isinstance(line, list) or len(line) != shape[1] for line in lines):
        raise ValueError(f"`{name}` is no table of {shape[0]} by {shape[1]} numbers")
    numbers = [number for line in lines for number in line]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise TypeError(f"`{name}` holds something that is no number")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"`{name}` holds a number too large for float64")
    made = torch.tensor(lines, dtype=torch.float64).reshape(shape).to(DTYPES[row["dtype"]])
    if not bool(made.isfinite().all()):
        raise ValueError(f"`{name}` holds a number too large for {row['dtype']}")
    return made


def _channels(value: Any) -> tuple[int, ...] | dict[str, tuple[int, ...] | None] | None:
    if isinstance(value, dict):
        return {site: _numbers(one) for site, one in value.items()}
    return _numbers(value)


def _numbers(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError("`channels` is null, a list of numbers, or either of them by site")
    return tuple(_integer(one, "channels") for one in value)


def _fingerprints(value: Any) -> Fingerprints | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"texts", "tokens", "clusters"}:
        raise ValueError("`fitted_on` is null, or has texts, tokens and clusters")
    return Fingerprints.from_row({key: list(_texts(value[key], key)) for key in value})


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"`{name}` is a list of texts")
    return tuple(_text(one, name) for one in value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` holds something that is no text")
    return value


def _integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"`{name}` holds {value!r}, which is no number from 0 on")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a field stands there twice")
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _refused(name: str, given: str) -> DiscoveryFileError:
    return DiscoveryFileError(
        f"{name} holds no circuit that this version reads",
        given=given,
        expected=f"format {FORMAT!r}: what `Circuit.save` wrote",
    )
