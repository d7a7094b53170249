"""In which fields do two claims differ that make their numbers incomparable?

Other weights are the point of a comparison; another question is not. Each difference is named with
both of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mechtest.comparison.evidence import Item, Shared
from mechtest.comparison.rows import Row

__all__ = ["Difference", "differences_of_claims", "differences_of_evidence"]

_SLACK = 1e-9
# Found anew in every model: that they differ is what a comparison may show.
_FOUND = ("circuit", "channels")


@dataclass(frozen=True)
class Difference:
    """A field that two claims would have to share, and do not.

    Attributes:
        field: Its name.
        before: Its value in the first report.
        after: Its value in the second.
    """

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.before} before, {self.after} now"


def differences_of_claims(before: Row, after: Row, alphas: tuple[float, float]) -> list[Difference]:
    """Return the fields of two claims that make them different questions.

    A level that became stricter is no difference: the second claim then had it harder. Prompts are
    compared with the evidence.

    Args:
        before: Row of the first report.
        after: Row of the second.
        alphas: Error rate shared by all claims, in both.
    """
    found = []
    for name, old, new in (
        ("alpha", *alphas),
        ("level", before["level"], after["level"]),
    ):
        if new > old * (1 + _SLACK):
            found.append(Difference(name, f"{old:.4g}", f"{new:.4g} (looser)"))
    for name in ("expect", "exact"):
        if before[name] != after[name]:
            found.append(Difference(name, str(before[name]), str(after[name])))
    old_settings, new_settings = before["settings"], after["settings"]
    if len(old_settings) != len(new_settings):
        counts = [f"{len(each)} of them" for each in (old_settings, new_settings)]
        return [*found, Difference("assertions", *counts)]
    for index, (old, new) in enumerate(zip(old_settings, new_settings, strict=True)):
        which = f" of assertion {index + 1}" if len(old_settings) > 1 else ""
        found += _differing_settings(old, new, which)
    return found


def _differing_settings(
    before: Mapping[str, Any], after: Mapping[str, Any], which: str
) -> list[Difference]:
    skipped = {"prompts"}
    if "origin" in before and before["origin"] == after.get("origin") != "declared":
        skipped.update(_FOUND)
    names = [name for name in dict.fromkeys([*before, *after]) if name not in skipped]
    return [
        Difference(f"{name}{which}", _said(before, name), _said(after, name))
        for name in names
        if (name in before, before.get(name)) != (name in after, after.get(name))
    ]


def _said(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not stated"


def differences_of_evidence(
    before: Item, after: Item, shared: Shared, least: float
) -> list[Difference]:
    """Return the fields in which two measurements of one claim cannot be compared.

    Args:
        before: Of the first report.
        after: Of the second.
        shared: Prompts they have in common.
        least: Smallest share of prompts they have to have in common.
    """
    found = [
        Difference(name, str(before[name]), str(after[name]))
        for name in ("intervention", "metric", "threshold", "direction")
        if before[name] != after[name]
    ]
    tokenizers = before["model"]["tokenizer"], after["model"]["tokenizer"]
    if tokenizers[0] != tokenizers[1]:
        old, new = (name[:12] or "not stated" for name in tokenizers)
        found.append(Difference("tokenizer", old, new))
    if (before["prompt_ids"] or after["prompt_ids"]) and shared.overlap < least:
        counts = [f"{len(each['prompt_ids'])} prompts" for each in (before, after)]
        both = f"{counts[1]}, {len(shared.before)} of them shared (at least {least:.0%})"
        found.append(Difference("prompts", counts[0], both))
    return found
