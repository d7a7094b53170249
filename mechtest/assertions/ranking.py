"""Is one circuit's effect the largest, are effects in this order, do they rise over layers?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Unpack

from mechtest.assertions.asking import Asked, Options, ask_pairs
from mechtest.assertions.comparisons import Compared, Contrast, ContrastTerms, require_margin
from mechtest.assertions.outcome import conclude
from mechtest.assertions.rounding import plain, with_interval
from mechtest.assertions.study import Study
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Evidence
from mechtest.running_claim import RunningClaim
from mechtest.stats import cluster_effect, inversion_interval, keyed_generator
from mechtest.tasks import PromptPairs

__all__ = ["assert_monotone", "assert_ranked", "check_monotone", "check_ranked"]

Circuits = Sequence[Circuit] | Mapping[str, Circuit]
Order = Literal["descending", "first is largest"]
Direction = Literal["non-decreasing", "non-increasing"]
RankMode = Literal["ablate", "restore"]


def _named(circuits: Circuits) -> dict[str, Circuit]:
    """Return circuits by name.

    Raises:
        ClaimInvalid: Fewer than two, or two of one name.
    """
    if isinstance(circuits, Mapping):
        found = {str(name): circuit for name, circuit in circuits.items()}
    else:
        found = {circuit.name: circuit for circuit in circuits}
    if len(found) < max(2, len(circuits)):
        raise ClaimInvalid(
            "an order is one of two circuits or more, each with a name of its own",
            given=", ".join(one.name for one in circuits)
            if not isinstance(circuits, Mapping)
            else ", ".join(found) or "none",
            expected="Circuit(..., name='...') each, or {name: circuit}",
        )
    return found


def _terms(
    kind: str,
    named: Mapping[str, Circuit],
    pairs: Sequence[tuple[int, int]],
    margin: float,
    mode: RankMode,
    asked: Asked,
    shape: str,
) -> ContrastTerms:
    """Return the terms of a claim about pairs (which should do more, which less)."""
    if mode not in ("ablate", "restore"):
        raise ClaimInvalid(
            f"circuits cannot be compared in mode {mode!r}",
            given=f"mode={mode!r}",
            expected="'ablate' or 'restore', in which all have the same behaviour to share",
        )
    names, circuits = list(named), list(named.values())
    contrasts = tuple(
        Contrast(f"{names[more]} over {names[less]}", more, less, (circuits[more], circuits[less]))
        for more, less in pairs
    )
    return ContrastTerms(
        kind=kind,
        mode=mode,
        circuit=circuits[0],
        intervention=asked.intervention,
        edits=tuple((circuit,) for circuit in circuits),
        contrasts=contrasts,
        margin=margin,
        min_accuracy=asked.min_accuracy,
        stated={
            "order": shape,
            "circuits": {
                name: [str(site) for site in circuit.sites] for name, circuit in named.items()
            },
        },
    )


def _each(
    named: Mapping[str, Circuit], study: Study, found: Compared, claim: RunningClaim
) -> tuple[Evidence, ...]:
    """Return the effect of every circuit; shown, not judged."""
    rows = []
    for (name, circuit), moved in zip(named.items(), found.moved, strict=True):
        effect = cluster_effect(moved, found.behaviour, study.labels)
        assert effect.estimate is not None, "the behaviour was tested before"
        generator = keyed_generator(claim.seed, f"{claim.key}|{name}", "sign flips")
        spread = effect.heterogeneity(0.0)
        rows.append(
            replace(
                found.evidence[0],
                label=name,
                circuit=tuple(str(site) for site in circuit.sites),
                effect=with_interval(
                    effect.estimate, inversion_interval(effect, 0.95, generator=generator)
                ),
                verdict=found.decision.verdict,
                threshold=None,
                p_effect=None,
                method="shown, not judged",
                clusters_positive=spread.positive,
                worst_cluster=spread.worst,
                guards=(),
                effects=tuple(plain(value) for value in moved),
            )
        )
    return tuple(rows)


def check_ranked(
    model: HookedMamba,
    circuits: Circuits,
    prompts: PromptPairs,
    *,
    order: Order = "descending",
    margin: float = 0.0,
    mode: RankMode = "ablate",
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that circuits' effects are in the order given, or that the first is the largest.

    The score of a pair is what the one moves minus what the other moves, minus `margin` of the
    behaviour, on the same prompts. `descending` asks it of neighbours, from the largest to the
    smallest; `first is largest` asks it of the first against every other, whose own order is free.

    Null hypothesis: for some pair the first moves at most `margin` more than the second. Refuted
        when the opposite is shown for some pair: at 5 %, adjusted by Holm for the number of pairs.
    Exchange unit: the sign of a template's score, pair by pair.
    Exactness: as `mechtest.stats.all_parts_test` (intersection-union, no correction).

    Args:
        model: The model.
        circuits: In the claimed order; by name, or with names of their own. The order has to be
            chosen without the tested prompts: for an order seen on them use `best_of`.
        prompts: As for `check_necessary`.
        order: See above.
        margin: By which share of the behaviour each has to be ahead.
        mode: `ablate` or `restore`.
        **options: See `Options`; those about controls have no use here.

    Returns:
        A record with one evidence a pair, then one a circuit, which is shown and not judged.

    Sign: positive when the circuit that should do more does so.
    Sources: Berger 1982; Holm 1979.
    """
    asked = Asked(**options)

    def terms(claim: RunningClaim) -> ContrastTerms:
        del claim
        named = _named(circuits)
        require_margin(margin, "margin")
        if order not in ("descending", "first is largest"):
            raise ClaimInvalid(
                f"there is no order {order!r}",
                given=f"order={order!r}",
                expected="'descending' or 'first is largest'",
            )
        others = range(1, len(named))
        pairs = [(k - 1 if order == "descending" else 0, k) for k in others]
        return _terms("ranking", named, pairs, margin, mode, asked, order)

    def beside(study: Study, found: Compared, claim: RunningClaim) -> tuple[Evidence, ...]:
        return _each(_named(circuits), study, found, claim)

    return ask_pairs("ranking", terms, model, _listed(circuits), prompts, asked, beside=beside)


def check_monotone(
    model: HookedMamba,
    circuits: Circuits,
    prompts: PromptPairs,
    *,
    direction: Direction = "non-decreasing",
    tolerance: float = 0.05,
    mode: RankMode = "ablate",
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that the effect never falls (or never rises) along a row of circuits.

    Usually one site in layer after layer. The score of two neighbours is what the later moves minus
    what the earlier moves, plus `tolerance` of the behaviour: that nothing falls at all can never
    be shown, that it falls by less than the tolerance can.

    Null hypothesis: between some neighbours the effect falls (rises) by `tolerance` or more.
    Refutation, exchange unit, exactness: as `check_ranked`.

    Args:
        model: The model.
        circuits: In the order of the profile; by name, or with names of their own.
        prompts: As for `check_necessary`.
        direction: `non-decreasing` or `non-increasing`.
        tolerance: A share of the behaviour; a step the wrong way below it counts as flat.
        mode: `ablate` or `restore`.
        **options: See `Options`; those about controls have no use here.

    Returns:
        As `check_ranked`.

    Sign: positive when a step goes the claimed way; it is held against -`tolerance`.
    Sources: Schuirmann 1987 (bounding a difference); Berger 1982; Holm 1979.
    """
    asked = Asked(**options)

    def terms(claim: RunningClaim) -> ContrastTerms:
        del claim
        named = _named(circuits)
        require_margin(tolerance, "tolerance")
        if direction not in ("non-decreasing", "non-increasing"):
            raise ClaimInvalid(
                f"there is no direction {direction!r}",
                given=f"direction={direction!r}",
                expected="'non-decreasing' or 'non-increasing'",
            )
        up = direction == "non-decreasing"
        pairs = [(k, k - 1) if up else (k - 1, k) for k in range(1, len(named))]
        return _terms("profile", named, pairs, -tolerance, mode, asked, direction)

    def beside(study: Study, found: Compared, claim: RunningClaim) -> tuple[Evidence, ...]:
        return _each(_named(circuits), study, found, claim)

    return ask_pairs("profile", terms, model, _listed(circuits), prompts, asked, beside=beside)


def _listed(circuits: Circuits) -> list[Circuit]:
    return list(circuits.values() if isinstance(circuits, Mapping) else circuits)


def _title(circuits: Circuits) -> str:
    return ", ".join(circuits if isinstance(circuits, Mapping) else [c.name for c in circuits])


def assert_ranked(
    model: HookedMamba,
    circuits: Circuits,
    prompts: PromptPairs,
    *,
    order: Order = "descending",
    margin: float = 0.0,
    mode: RankMode = "ablate",
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_ranked` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_ranked(
        model, circuits, prompts, order=order, margin=margin, mode=mode, **options
    )
    return conclude(record, _title(circuits))


def assert_monotone(
    model: HookedMamba,
    circuits: Circuits,
    prompts: PromptPairs,
    *,
    direction: Direction = "non-decreasing",
    tolerance: float = 0.05,
    mode: RankMode = "ablate",
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_monotone` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_monotone(
        model, circuits, prompts, direction=direction, tolerance=tolerance, mode=mode, **options
    )
    return conclude(record, _title(circuits))
