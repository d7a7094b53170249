"""Which findings may be lost for now, why, and until when?

An allowance turns no verdict around: what it allows is listed, with its reason, and only does not
count towards the exit status.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechtest.errors import AllowListError, closest_names

__all__ = ["Allowance", "read_allowances", "require_known"]

_KEYS = ("claim", "reason", "expires")
_EXAMPLE = '[[allow]] with claim = "claims/test_x.py::test_y", reason = "...", expires = 2030-01-31'


@dataclass(frozen=True, slots=True)
class Allowance:
    """A claim that may be lost for now.

    Attributes:
        claim: Key of the claim.
        reason: Why.
        expires: Last day on which this counts.
    """

    claim: str
    reason: str
    expires: dt.date


def read_allowances(path: str | Path, today: dt.date) -> tuple[Allowance, ...]:
    """Read an allow-list: a TOML file of `[[allow]]` tables.

    Args:
        path: The file.
        today: What dates are held against.

    Raises:
        AllowListError: No such file, no TOML, or a row without claim, reason or date, with a date
            that has passed, or for a claim that has a row already.
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AllowListError(
            f"{file} cannot be read as an allow-list: {error}", expected=_EXAMPLE
        ) from error
    rows = content.get("allow")
    if set(content) != {"allow"} or not isinstance(rows, list):
        raise AllowListError(
            f"{file} is no allow-list", given=", ".join(content) or "nothing", expected=_EXAMPLE
        )
    found: dict[str, Allowance] = {}
    for number, row in enumerate(rows, 1):
        allowance = _allowance(row, f"{file}, row {number}", today)
        if allowance.claim in found:
            raise AllowListError(f"{file}, row {number}: a second row for {allowance.claim}")
        found[allowance.claim] = allowance
    return tuple(found.values())


def _allowance(row: object, where: str, today: dt.date) -> Allowance:
    if not isinstance(row, Mapping) or set(row) - set(_KEYS):
        raise AllowListError(f"{where} is no allowance", given=str(row), expected=_EXAMPLE)
    for key in ("claim", "reason"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise AllowListError(
                f"{where} has no {key}",
                given=repr(row.get(key)),
                expected=_EXAMPLE,
                next_step="say why this finding may be lost" if key == "reason" else None,
            )
    expires = _date(row.get("expires"), where)
    if expires < today:
        raise AllowListError(
            f"{where}: the allowance for {row['claim']} expired on {expires}",
            given=f"expires = {expires}, today is {today}",
            next_step="mend the finding, accept the new run as the baseline, or set a later date",
        )
    return Allowance(row["claim"].strip(), row["reason"].strip(), expires)


def _date(value: Any, where: str) -> dt.date:
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise AllowListError(
            f"{where} has no date of expiry", given=f"expires = {value!r}", expected=_EXAMPLE
        ) from None


def require_known(allowances: Collection[Allowance], keys: Collection[str]) -> None:
    """Raise for an allowance whose claim is in neither report: a typing error allows nothing.

    Raises:
        AllowListError: Names the closest claims.
    """
    for allowance in allowances:
        if allowance.claim not in keys:
            raise AllowListError(
                "an allowance is for a claim that neither report has",
                given=allowance.claim,
                closest=closest_names(allowance.claim, keys),
                next_step="correct the name, or delete the row",
            )
