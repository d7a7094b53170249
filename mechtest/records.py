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

__all__ = [
    "ClaimRecord",
    "Controls",
    "Counterexample",
    "Effect",
    "EffectMap",
    "Evidence",
    "Guard",
    "ModelIdentity",
    "OtherAblation",
    "Verdict",
]

T = TypeVar("T")
RECORD_FORMAT = "mechtest-record/4"


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
        observed: The claim's own statistic, which is ranked among `values`.
        null_mean: Mean statistic of the controls; None when none was drawn.
        exceedance_low: Lower 97.5 % bound of the share of controls at least as extreme.
        excess: Effect of the claim minus the mean effect of its controls.
        weak: Whether this kind of control cannot make a claim supported alone.
        values: Statistic of each control, in the order drawn.
    """

    kind: str
    drawn: int
    at_least_as_extreme: int
    p: float
    stopped: str
    observed: float
    null_mean: float | None
    exceedance_low: float = 0.0
    excess: Effect | None = None
    weak: bool = False
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition without which a number would not mean what it seems to.

    Attributes:
        name: For example `illusion`.
        passed: Whether it holds; None where it could not be settled.
        detail: What was found, one sentence.
        p: p value where the guard is a test; it then counts as a part of the claim's.
    """

    name: str
    passed: bool | None
    detail: str
    p: float | None = None


@dataclass(frozen=True, slots=True)
class OtherAblation:
    """What another way of ablating gives, beside the one that decides.

    Attributes:
        intervention: For example `zero`.
        effect: How big, with an interval of the deciding ablation's confidence; None where it
            could not be measured (see `detail`).
        agrees: Whether the whole interval lies on the side of the threshold that the deciding
            ablation's estimate is on. False: the estimate lies on the other side, so the claim is
            sensitive to how ablating is done. None: the interval holds the threshold, or there is
            no effect.
        detail: What was found, one sentence.
    """

    intervention: str
    effect: Effect | None
    agrees: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A prompt on which a claim about all prompts does not hold, with as few edits as it takes.

    Attributes:
        base: Id of the prompt that was edited.
        template: Its template.
        operations: The edits, in order, as Python.
        clean: The clean prompt after the edits.
        corrupted: Its twin.
        answer: Right after the clean prompt.
        retained: Share of the effect on the unedited prompt that is left.
        floor: What it should at least have been.
        example: Line that tries it first, to be put above the test.
    """

    base: str
    template: str
    operations: tuple[str, ...]
    clean: str
    corrupted: str
    answer: tuple[str, ...]
    retained: float
    floor: float
    example: str


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
class Evidence:
    """One measurement behind a claim.

    Attributes:
        kind: `necessity`, `sufficiency`, `specificity`, `absence`, `minimality`, `transfer`,
            `selectivity`, `ranking`, `profile`, `membership`, `subspace match`, `flip rate`,
            `robustness` or `identity`.
        label: Which part of the claim this is, for example `seed 3`; empty where there is one.
        circuit: Site names, or the name of what an identity compares.
        intervention: For example `resample`.
        metric: For example `logit_difference`.
        effect: How big.
        verdict: What this part came to.
        threshold: What the effect is held against; None where only its rank is asked for.
        direction: `greater` or `less`: on which side of the threshold the claim is.
        p_effect: Of the null hypothesis that the effect is on the other side; None where it is not
            asked for, or where nothing is estimated (an identity, a search).
        method: How `p_effect` was computed.
        clusters: Templates.
        clusters_positive: Templates whose own effect is on the claimed side.
        worst_cluster: Template furthest on the other side.
        prompts: Prompts.
        accuracy: Share of prompts the untouched model answers right; None where not measured.
        moved: Share of prompts that answered as the corrupted prompt would.
        broken: Share of prompts that answered neither.
        model: Which weights.
        controls: How special, None where the claim asks for no controls.
        guards: What was checked before and beside.
        assumptions: Sentences a reader has to grant.
        prompt_ids: Names of the prompts, in the order of `effects`.
        effects: Part of the behaviour moved, prompt by prompt, in the metric's unit.
        behaviours: Behaviour there was to move, prompt by prompt.
        ablations: Other ways of ablating, measured on the same prompts; they decide nothing.
        templates: Template of each prompt, in the same order.
        prompt_digests: 16 hex digits over what each prompt's row says, likewise: a name can stay
            while its prompt changes.
        counterexample: What a search found against a claim about all prompts; None where nothing
            was searched for, or nothing found.
    """

    kind: str
    label: str
    circuit: tuple[str, ...]
    intervention: str
    metric: str
    effect: Effect
    verdict: Verdict
    threshold: float | None
    direction: str
    p_effect: float | None
    method: str
    clusters: int
    clusters_positive: int
    worst_cluster: str
    prompts: int
    accuracy: float | None
    moved: float | None
    broken: float | None
    model: ModelIdentity
    controls: Controls | None = None
    guards: tuple[Guard, ...] = ()
    assumptions: tuple[str, ...] = ()
    prompt_ids: tuple[str, ...] = ()
    effects: tuple[float, ...] = ()
    behaviours: tuple[float, ...] = ()
    ablations: tuple[OtherAblation, ...] = ()
    templates: tuple[str, ...] = ()
    prompt_digests: tuple[str, ...] = ()
    counterexample: Counterexample | None = None

    @property
    def p(self) -> float:
        """The largest p value of this measurement's parts (0 where nothing was estimated)."""
        parts = [0.0 if self.p_effect is None else self.p_effect]
        parts += [] if self.controls is None else [self.controls.p]
        parts += [guard.p for guard in self.guards if guard.p is not None]
        return max(parts)


@dataclass(frozen=True, slots=True)
class EffectMap:
    """A table of effects to look at, for example layer by position.

    Attributes:
        title: What it shows, and on which prompts.
        rows: Row labels.
        columns: Column labels.
        values: Effects, one tuple a row; None where there is nothing to measure.
        unit: Of the values.
        tokens: What stands at each column in the first prompt; empty where columns are no places.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = "share of behaviour"
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A checked claim: what one assertion found.

    Attributes:
        id: The test that made the claim; empty outside a test.
        statement: The claim as a sentence.
        kind: As of its evidence, or `stability`.
        verdict: What it came to.
        binding: What decided: `effect`, `controls`, a guard's name, or the code of an error.
        reason: One sentence that a reader can act on.
        settle: What would settle an inconclusive claim; empty otherwise.
        level: Error rate the claim was tested at.
        seed: Root seed of every random draw.
        prompts: Digest of the prompts.
        settings: What the lock registers: everything chosen before the test half was looked at.
        evidence: Measurements.
        notes: Sentences that belong beside the numbers.
    """

    id: str
    statement: str
    kind: str
    verdict: Verdict
    binding: str
    reason: str
    settle: str
    level: float
    seed: int
    prompts: str
    settings: Mapping[str, Any]
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> float:
        """The claim's p value: the largest of its parts (1 for an invalid claim, or one without).

        Every part has to hold, so no correction is needed for there being several
        (intersection-union).
        """
        if self.verdict is Verdict.INVALID or not self.evidence:
            return 1.0
        return max(item.p for item in self.evidence)

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
        content["evidence"] = tuple(_evidence(item) for item in content["evidence"])
        return _built(cls, content)


def _evidence(content: Mapping[str, Any]) -> Evidence:
    values = dict(content)
    values["effect"] = _built(Effect, values["effect"])
    values["verdict"] = Verdict(values["verdict"])
    values["model"] = _built(ModelIdentity, values["model"])
    values["guards"] = tuple(_built(Guard, guard) for guard in values["guards"])
    values["ablations"] = tuple(_ablation(item) for item in values["ablations"])
    if values["counterexample"] is not None:
        values["counterexample"] = _built(Counterexample, values["counterexample"])
    if values["controls"] is not None:
        controls = dict(values["controls"])
        if controls["excess"] is not None:
            controls["excess"] = _built(Effect, controls["excess"])
        values["controls"] = _built(Controls, controls)
    return _built(Evidence, values)


def _ablation(content: Mapping[str, Any]) -> OtherAblation:
    values = dict(content)
    if values["effect"] is not None:
        values["effect"] = _built(Effect, values["effect"])
    return _built(OtherAblation, values)


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
