"""Is every part of this circuit needed, or would less of it do as much?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import numpy as np

from mechtest.assertions.asking import Asked, Options, ask_pairs
from mechtest.assertions.comparisons import (
    Compared,
    Contrast,
    ContrastTerms,
    require_margin,
)
from mechtest.assertions.outcome import conclude
from mechtest.assertions.question import Mode
from mechtest.assertions.rounding import plain, with_interval
from mechtest.assertions.study import Study, Values
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.interventions.complement import channel_count
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Evidence
from mechtest.running_claim import RunningClaim
from mechtest.stats import cluster_effect, inversion_interval, keyed_generator
from mechtest.tasks import PromptPairs

__all__ = ["assert_minimal", "check_minimal"]

Groups = Mapping[str, Iterable[int]]
Order = Literal["leave one out", "random"]

BACKUPS = (
    "leaving out one part at a time does not see parts that stand in for one another: each of two "
    "mutual backups looks unneeded while the other is there"
)


@dataclass(frozen=True, eq=False)
class Parts:
    """A circuit and what it is made of.

    Attributes:
        circuit: All of it.
        names: Of the parts.
        pieces: Each part, as a circuit.
    """

    circuit: Circuit
    names: tuple[str, ...]
    pieces: tuple[Circuit, ...]

    def subset(self, members: Iterable[int]) -> tuple[Circuit, ...]:
        """Return the circuit made of some of the parts, channels of one site in one edit."""
        chosen = [self.pieces[member] for member in sorted(members)]
        if all(one.channels is None for one in chosen):
            return tuple(chosen)
        sites: dict[tuple[str, ...], list[int]] = {}
        whole = [one for one in chosen if one.channels is None]
        for one in chosen:
            place = tuple(str(site) for site in one.sites)
            if one.channels is not None:
                sites.setdefault(place, []).extend(one.channels)
        return (*whole, *(Circuit(*place, channels=found) for place, found in sites.items()))

    def sets(self, chains: Sequence[Sequence[int]]) -> list[frozenset[int]]:
        """Return what is measured: all parts, all but each one, and what random orders meet."""
        everything = frozenset(range(len(self.pieces)))
        met = [frozenset(chain[:stop]) for chain in chains for stop in range(1, len(everything))]
        return list(
            dict.fromkeys([everything, *(everything - {j} for j in sorted(everything)), *met])
        )


def parts_of(model: HookedMamba, circuit: Circuit, groups: Groups | None) -> Parts:
    """Return the parts of a circuit: its sites, or stated groups of its channels.

    Raises:
        ClaimInvalid: One part only, or groups that are no partition of the circuit's channels.
    """
    if groups is not None:
        return _parts_of_groups(model, circuit, groups)
    if len(circuit.sites) < 2:
        raise ClaimInvalid(
            "a circuit of one part is minimal by definition: there is nothing to leave out",
            given=repr(circuit),
            expected="two sites or more, or groups={name: channels} of one site",
            next_step="state the parts, or use assert_necessary",
        )
    pieces = tuple(
        Circuit(str(site), channels=channels, fitted_on=circuit.fitted_on)
        for site, channels in zip(circuit.sites, circuit.by_site, strict=True)
    )
    return Parts(circuit, tuple(str(site) for site in circuit.sites), pieces)


def _parts_of_groups(model: HookedMamba, circuit: Circuit, groups: Groups) -> Parts:
    if circuit.subspace is not None:
        raise ClaimInvalid(
            "groups are of channels, and this circuit is a subspace",
            given=repr(circuit),
            expected="a circuit of whole sites or channels",
            next_step="state each direction's subspace as a claim of its own",
        )
    if len(circuit.pieces) > 1:
        raise ClaimInvalid(
            "groups are of channels that all sites share, and these sites have their own",
            given=repr(circuit),
            expected="one set of channels, or no groups: every site is a part then",
        )
    found = {name: tuple(sorted(channels)) for name, channels in groups.items()}
    stated = sorted(channel for channels in found.values() for channel in channels)
    counts = {channel_count(model, site) for site in circuit.sites}
    whole = sorted(circuit.channels or range(min(counts)))
    if len(found) < 2 or not all(found.values()) or stated != whole or len(counts) > 1:
        odd = sorted(set(stated) ^ set(whole))
        raise ClaimInvalid(
            "groups have to share the circuit's channels out among two parts or more",
            given=f"{len(found)} groups of {len(stated)} channels, {len(whole)} in the circuit"
            + (f"; not in both: {', '.join(map(str, odd[:5]))}" if odd else ""),
            expected="every channel in exactly one group, no empty group, sites of equal width",
        )
    sites = [str(site) for site in circuit.sites]
    pieces = tuple(
        Circuit(*sites, channels=channels, name=name, fitted_on=circuit.fitted_on)
        for name, channels in found.items()
    )
    return Parts(circuit, tuple(found), pieces)


def minimality_terms(
    parts: Parts, delta: float, mode: Mode, asked: Asked, chains: Sequence[Sequence[int]] = ()
) -> ContrastTerms:
    """Return the terms of a claim of minimality.

    Args:
        parts: The circuit.
        delta: The share of behaviour that every part has to add.
        mode: How effects are measured.
        asked: Options of the call.
        chains: Random orders of the parts, to average over.
    """
    require_margin(delta, "delta")
    if mode not in ("ablate", "restore", "keep"):
        raise ClaimInvalid(
            f"there is no mode {mode!r} of minimality",
            given=f"mode={mode!r}",
            expected="'ablate', 'restore' or 'keep': how the effect of a circuit is measured",
        )
    edits = tuple(parts.subset(members) for members in parts.sets(chains))
    contrasts = tuple(
        Contrast(name, 0, j + 1, (parts.pieces[j],)) for j, name in enumerate(parts.names)
    )
    circuit = parts.circuit
    return ContrastTerms(
        kind="minimality",
        mode=mode,
        circuit=circuit,
        intervention=asked.intervention,
        edits=edits,
        contrasts=contrasts,
        margin=delta,
        min_accuracy=asked.min_accuracy,
        stated={
            "circuit": [str(site) for site in circuit.sites],
            "channels": circuit.channel_total,
            "orders": len(chains),
        },
        assumptions=(BACKUPS,),
    )


def random_orders(count: int, orders: int, seed: int, key: str) -> tuple[tuple[int, ...], ...]:
    """Return some orders of `count` parts, each from a generator of its own.

    Every second one is the reverse of the one before: of two parts that stand in for one another,
    each then comes first once in a pair.
    """
    found = []
    for pair in range(-(-orders // 2)):
        drawn = keyed_generator(seed, key, "order of parts", pair).permutation(count).tolist()
        found += [tuple(drawn), tuple(reversed(drawn))]
    return tuple(found[:orders])


def _over_orders(
    study: Study,
    parts: Parts,
    chains: Sequence[Sequence[int]],
    found: Compared,
    claim: RunningClaim,
) -> tuple[Evidence, ...]:
    """Return what each part adds on average over random orders; shown beside, never judged."""
    moved = dict(zip(parts.sets(chains), found.moved, strict=True))
    moved[frozenset()] = np.zeros_like(found.behaviour)
    rows = []
    for j, row in enumerate(found.evidence):
        added: list[Values] = []
        for chain in chains:
            before = frozenset(chain[: chain.index(j)])
            added.append(moved[before | {j}] - moved[before])
        mean = np.mean(added, axis=0)
        effect = cluster_effect(mean, found.behaviour, study.labels)
        assert effect.estimate is not None, "the behaviour was tested before"
        name = f"{parts.names[j]}, over {len(chains)} random orders"
        generator = keyed_generator(claim.seed, f"{claim.key}|{name}", "sign flips")
        interval = inversion_interval(effect, 0.95, generator=generator)
        spread = effect.heterogeneity(0.0)
        rows.append(
            replace(
                row,
                label=name,
                effect=with_interval(effect.estimate, interval),
                threshold=None,
                p_effect=None,
                method="mean over random orders of adding parts; shown, not judged",
                clusters_positive=spread.positive,
                worst_cluster=spread.worst,
                effects=tuple(plain(value) for value in mean),
            )
        )
    return tuple(rows)


def check_minimal(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    delta: float = 0.02,
    mode: Mode = "ablate",
    groups: Groups | None = None,
    order: Order = "leave one out",
    orders: int = 16,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that every part of a circuit adds more than a share of the behaviour to the others.

    A part is a site, or a group of channels. Its score is what the whole circuit moves, minus what
    the circuit moves without it, minus `delta` of the behaviour.

    Null hypothesis: some part adds at most `delta`. It is refuted when the opposite is shown for
        some part: at 5 %, adjusted by Holm for the number of parts.
    Exchange unit: the sign of a template's score, part by part.
    Exactness: as `mechtest.stats.all_parts_test` (intersection-union, no correction).

    Args:
        model: The model.
        circuit: Two sites or more, or channels with `groups`.
        prompts: As for `check_necessary`.
        delta: The smallest share of the behaviour that a part has to add.
        mode: `ablate` (does it destroy more with the part?), `restore` or `keep` (does it bring
            back more?), as for `check_necessary` and `check_sufficient`.
        groups: Name of a part -> its channels; together they are the circuit's.
        order: `random` also shows what each part adds on average over random orders in which parts
            are put in one after the other. It decides nothing, but a part that adds much there and
            nothing to the full circuit has a backup inside the circuit.
        orders: How many random orders; every second one is the reverse of the one before.
        **options: See `Options`; those about controls have no use here.

    Returns:
        A record with one evidence a part; `binding` names the part that decided.

    Sign: positive when the circuit moves more with the part than without it.
    Sources: Wang et al. 2022 (minimality of a circuit); Shi et al. 2024; Berger 1982; Holm 1979;
        Shapley 1953 (averaging over orders).
    """
    asked = Asked(**options)

    def terms(claim: RunningClaim) -> ContrastTerms:
        parts = parts_of(model, circuit, groups)
        return minimality_terms(parts, delta, mode, asked, _chains(parts, order, orders, claim))

    def beside(study: Study, found: Compared, claim: RunningClaim) -> tuple[Evidence, ...]:
        parts = parts_of(model, circuit, groups)
        chains = _chains(parts, order, orders, claim)
        return _over_orders(study, parts, chains, found, claim) if chains else ()

    return ask_pairs("minimality", terms, model, [circuit], prompts, asked, beside=beside)


def _chains(
    parts: Parts, order: Order, orders: int, claim: RunningClaim
) -> tuple[tuple[int, ...], ...]:
    if order not in ("leave one out", "random") or orders < 1:
        raise ClaimInvalid(
            "parts are left out one by one, or put in in random orders",
            given=f"order={order!r}, orders={orders!r}",
            expected="order='leave one out' or 'random', and at least one order",
        )
    if order != "random":
        return ()
    return random_orders(len(parts.pieces), orders, claim.seed, claim.key)


def assert_minimal(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    delta: float = 0.02,
    mode: Mode = "ablate",
    groups: Groups | None = None,
    order: Order = "leave one out",
    orders: int = 16,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_minimal` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_minimal(
        model,
        circuit,
        prompts,
        delta=delta,
        mode=mode,
        groups=groups,
        order=order,
        orders=orders,
        **options,
    )
    return conclude(record, circuit.name)
