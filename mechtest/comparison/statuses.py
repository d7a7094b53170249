"""What does a comparison come to, as one exit status?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CHANGES", "INCOMPARABLE", "INCOMPLETE", "REGRESSED", "status_of"]

CHANGES = (
    "regressed",
    "moved",
    "incomparable",
    "incomplete",
    "removed",
    "inconclusive",
    "drifted",
    "gained",
    "new",
    "held",
    "no finding",
)
"""What can become of a claim, in the order in which it is told."""

REGRESSED = 1
INCOMPARABLE = 2
INCOMPLETE = 3

_STATUS = {
    "regressed": REGRESSED,
    "moved": REGRESSED,
    "incomparable": INCOMPARABLE,
    "incomplete": INCOMPLETE,
    "removed": INCOMPLETE,
}


def status_of(claims: Iterable[Mapping[str, Any]]) -> int:
    """Return 0, or the smallest of 1 (regressed or moved), 2 (incomparable), 3 (incomplete, gone).

    What an allowance covers does not count.
    """
    found = [_STATUS[c["change"]] for c in claims if c["change"] in _STATUS and not c["allowed"]]
    return min(found, default=0)
