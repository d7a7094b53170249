"""Is one site in every recorded circuit, for example in the minimal circuit of every seed?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechtest.assertions._decide import PartFinding, decide_every
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.rounding import plain
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.records import ClaimRecord, Effect, Evidence, Guard, ModelIdentity, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.sites import Site
from mechtest.stats import Membership, membership_test, require_sets

__all__ = ["assert_member_of_every", "check_member_of_every"]

Sets = Mapping[Any, Circuit | Iterable[str]]


def _members(sets: Sets) -> dict[str, frozenset[str]]:
    """Return the sites of every set, by the set's name."""
    found = {}
    for name, members in sets.items():
        if isinstance(members, str):
            raise ClaimInvalid(
                "a recorded set is several sites",
                given=f"the text {members!r} for {name!r}",
                expected="a circuit, or a list of site names",
            )
        sites = members.sites if isinstance(members, Circuit) else map(Site.parse, members)
        found[str(name)] = frozenset(map(str, sites))
    return found


def check_member_of_every(
    site: str, sets: Sets, *, share: float = 0.5, level: float | None = None
) -> ClaimRecord:
    """Check that a site is in every one of some recorded sets, and what that shows.

    The sets are results of one recorded procedure, one for each independent run: the minimal
    circuits of training seeds. Nothing is run. One set without the site refutes "every"; being in
    all of k sets shows that it would be in more than `share` of all such sets only when share ** k
    is at most the level.

    Null hypothesis: the site would be in at most `share` of all such sets.
    Exchange unit: the set (a training seed).
    Exactness: exact binomial.

    Args:
        site: Its name; a role or position counts as part of it.
        sets: Name of a run -> its circuit, or the names of its sites.
        share: Smallest share of all such sets that is of interest.
        level: As for other assertions.

    Returns:
        A record whose effect is the share of sets, with its Clopper-Pearson interval; the Wilson
        interval is in its notes.

    Sign: 1 when the site is in every set.
    Sources: as `mechtest.stats.membership_test`.
    """

    def check(claim: RunningClaim) -> ClaimRecord:
        wanted, found = str(Site.parse(site)), _members(sets)
        settings = {"kind": "membership", "site": wanted, "share": share, "sets": list(found)}
        require_sets(len(found), share, claim.level)
        if claim.planning:
            claim.plans.append(
                {"settings": settings, "attainable": True, "problem": "", "seeds": len(found)}
            )
        member = [wanted in sites for sites in found.values()]
        tested = membership_test(member, share, claim.level)
        missing = [name for name, inside in zip(found, member, strict=True) if not inside]
        detail = f"{wanted} is in {tested.members} of {tested.sets} sets"
        detail += f", and not in {', '.join(missing[:5])}" if missing else ""
        guard = Guard("every set", passed=not missing, detail=detail)
        part = PartFinding(wanted, tested.members / tested.sets, share, tested.p, 1.0)
        decision = decide_every(claim.level, [part], guards=[guard])
        low, high = tested.shown.low, tested.shown.high
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or f"{wanted} is in every set",
            kind="membership",
            verdict=decision.verdict,
            binding=decision.binding,
            reason=f"{decision.reason}; {detail}" if not missing else decision.reason,
            settle="",
            level=claim.level,
            seed=claim.seed,
            prompts="",
            settings=settings,
            evidence=(
                _evidence(wanted, tested, member, list(found), guard, decision.verdict, share),
            ),
            notes=(f"Wilson interval of the share of sets: {low:.3g} to {high:.3g}",),
        )

    return checked("membership", check, level=level, statement=f"{site} is in every set")


def _evidence(
    site: str, tested: Membership, member: list[bool], names: list[str], guard: Guard,
    verdict: Verdict, share: float,
) -> Evidence:  # fmt: skip
    low, high = tested.interval.low, tested.interval.high
    without = [name for name, inside in zip(names, member, strict=True) if not inside]
    return Evidence(
        kind="membership",
        label="",
        circuit=(site,),
        intervention="none",
        metric="membership",
        effect=Effect(
            plain(tested.members / tested.sets),
            None if low is None else plain(low),
            None if high is None else plain(high),
            plain(tested.interval.confidence),
            "share of sets",
        ),
        verdict=verdict,
        threshold=share,
        direction="greater",
        p_effect=plain(tested.p),
        method="exact binomial over sets",
        clusters=tested.sets,
        clusters_positive=tested.members,
        worst_cluster=without[0] if without else names[0],
        prompts=tested.sets,
        accuracy=None,
        moved=None,
        broken=None,
        model=ModelIdentity("recorded sets", "", "", "", ""),
        guards=(guard,),
        assumptions=(
            "the sets come from one procedure, each from an independent run",
            "no set was left out",
        ),
        prompt_ids=tuple(names),
        effects=tuple(map(float, member)),
        behaviours=(1.0,) * len(member),
    )


def assert_member_of_every(
    site: str, sets: Sets, *, share: float = 0.5, level: float | None = None
) -> ClaimRecord:
    """Assert what `check_member_of_every` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted: Some set lacks the site.
        ClaimInvalid: Too few sets for the level, or what is no site.
    """
    __tracebackhide__ = True
    return conclude(check_member_of_every(site, sets, share=share, level=level), site)
