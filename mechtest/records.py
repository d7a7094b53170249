"""What does a checked claim leave behind, and how does it travel and keep?

Frozen records of plain Python values: they go through JSON and back without loss, between
processes, and into reports. A number in a record is finite, or absent with a reason beside it; JSON
never sees NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from mechtest.errors import NonFiniteError

__all__ = ["ClaimRecord", "Controls", "Effect", "Evidence", "ModelIdentity", "Verdict"]

T = TypeVar("T")
RECORD_FORMAT = "mechtest-record/1"


class Verdict(StrEnum):
    """What a claim came to. Only `supported` passes; `invalid` is an error, not a failure."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Effect:
    """How big: an estimate with its interval.

    Attributes:
        estimate: In `unit`.
        low: Lower end, None where there is no interval (see `reason`).
        high: Upper end, likewise.
        confidence: Of the interval, between 0 and 1.
        unit: For example `share of behaviour`.
        reason: Why an end is absent, empty otherwise.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    unit: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Controls:
    """How special: where the claimed component ranks among matched controls.

    Attributes:
        kind: How controls were drawn, for example `block`.
        drawn: Controls measured.
        at_least_as_extreme: Those that did at least as well (ties count).
        p: Anytime-valid p value, never below 1 / (drawn + 1).
        stopped: `specific`, `futile` or `cap`.
        null_mean: Mean effect of the controls.
        values: Effect of each control, in the order drawn.
    """

    kind: str
    drawn: int
    at_least_as_extreme: int
    p: float
    stopped: str
    null_mean: float
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measurement behind a claim.

    Attributes:
        kind: `necessity`, `sufficiency`, `equivalence` ...
        circuit: Site names.
        intervention: For example `resample`.
        metric: For example `logit_difference`.
        effect: How big.
        threshold: What the effect is held against.
        p_effect: Of the null hypothesis that the effect is no larger than the threshold.
        clusters: Templates.
        prompts: Prompts.
        moved: Share of prompts that answered as the corrupted prompt would.
        broken: Share of prompts that answered neither.
        controls: How special, None where the claim asks for no controls.
        assumptions: Sentences a reader has to grant.
        prompt_ids: Names of the prompts, in the order of `effects`.
        effects: Part of the behaviour moved, prompt by prompt, in the metric's unit.
        behaviours: Behaviour there was to move, prompt by prompt.
    """

    kind: str
    circuit: tuple[str, ...]
    intervention: str
    metric: str
    effect: Effect
    threshold: float
    p_effect: float
    clusters: int
    prompts: int
    moved: float
    broken: float
    controls: Controls | None = None
    assumptions: tuple[str, ...] = ()
    prompt_ids: tuple[str, ...] = ()
    effects: tuple[float, ...] = ()
    behaviours: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights a claim was checked on.

    Attributes:
        name: Path or repository.
        weights: SHA-256 of the weights, empty for weights that came from no file.
        tokenizer: SHA-256 of the tokenizer's files, empty likewise.
        dtype: Of the weights as computed with.
        device: Where.
    """

    name: str
    weights: str
    tokenizer: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A checked claim.

    Attributes:
        statement: The claim as a sentence.
        verdict: What it came to.
        binding: What decided: `effect`, `controls`, a guard's name, or the error of an invalid one.
        reason: One sentence that a reader can act on.
        level: Error rate the claim was tested at.
        model: Which weights.
        prompts: Digest of the prompts.
        seed: Root seed of every random draw.
        evidence: Measurements.
    """

    statement: str
    verdict: Verdict
    binding: str
    reason: str
    level: float
    model: ModelIdentity
    prompts: str
    seed: int
    evidence: tuple[Evidence, ...] = ()

    @property
    def p(self) -> float:
        """The claim's p value: the largest of its parts (1 for an invalid claim)."""
        if self.verdict is Verdict.INVALID:
            return 1.0
        parts = [item.p_effect for item in self.evidence]
        parts += [item.controls.p for item in self.evidence if item.controls is not None]
        return max(parts, default=1.0)

    def to_json(self) -> str:
        """Return this record as one line of JSON.

        Raises:
            NonFiniteError: A number is NaN or infinite; names its place.
        """
        content = {"format": RECORD_FORMAT, **asdict(self)}
        _require_finite(content, "record")
        return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: Another format, or missing or unknown fields.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("format", None) != RECORD_FORMAT:
            raise ValueError(f"not a claim record of format {RECORD_FORMAT}")
        content["verdict"] = Verdict(content["verdict"])
        content["model"] = _built(ModelIdentity, content["model"])
        content["evidence"] = tuple(_evidence(item) for item in content["evidence"])
        return _built(cls, content)


def _evidence(content: Mapping[str, Any]) -> Evidence:
    values = dict(content)
    values["effect"] = _built(Effect, values["effect"])
    if values["controls"] is not None:
        values["controls"] = _built(Controls, values["controls"])
    return _built(Evidence, values)


def _built(kind: type[T], content: Mapping[str, Any]) -> T:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(content) != names:
        odd = sorted(names ^ set(content))
        raise ValueError(f"{kind.__name__} with missing or unknown fields: {', '.join(odd)}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return kind(**plain)


def _require_finite(value: object, place: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(
            f"{place} of a claim record is {value}",
            given=value,
            expected="a finite number, or None with a reason",
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_finite(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_finite(item, f"{place}[{index}]")
