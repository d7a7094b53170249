"""Do subspaces found in models of different seeds say the same about the same prompts?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Unpack

import numpy as np

from mechtest.assertions._decide import REFUTATION, ControlFinding, Decision, decide
from mechtest.assertions.asking import Asked, Options, plan_record
from mechtest.assertions.control_sets import COMPONENTS, control_kind
from mechtest.assertions.guards import BEHAVIOUR_LEVEL, require_behaviour
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.question import Question
from mechtest.assertions.rounding import plain
from mechtest.assertions.stability import Seeds, seed_models
from mechtest.assertions.study import Study, prepare_study
from mechtest.errors import ClaimInvalid, MechtestError
from mechtest.interventions import Circuit, fit_spectrum, read_activations
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Controls, Effect, Evidence, Guard, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    KINDS,
    ControlTest,
    MatchSide,
    SubspaceControls,
    match_test,
    most_controls,
    needed_clusters,
    needed_controls,
    require_clusters,
)
from mechtest.tasks import DiscoveryPairs, PromptPairs

__all__ = ["assert_subspaces_match", "check_subspaces_match"]

KIND = "subspace match"
Subspaces = Mapping[int, Circuit] | Callable[[HookedMamba, DiscoveryPairs], Circuit]

_ORDER = ("refuted", "inconclusive", "supported")


@dataclass(frozen=True, eq=False)
class _Side:
    """One model's part in a match."""

    seed: int
    circuit: Circuit
    study: Study
    guards: tuple[Guard, ...]
    match: MatchSide


@dataclass(frozen=True, eq=False)
class _Asked:
    """What was asked of all models."""

    models: tuple[tuple[int, HookedMamba], ...]
    subspaces: Subspaces
    prompts: PromptPairs
    options: Asked

    def circuit(self, seed: int, model: HookedMamba) -> Circuit:
        """Return the subspace of one model, or say what is wrong with it."""
        if isinstance(self.subspaces, Mapping):
            if seed not in self.subspaces:
                raise ClaimInvalid(
                    f"seed {seed} has no subspace",
                    given=f"subspaces of seeds {', '.join(map(str, self.subspaces))}",
                    expected="one circuit with a subspace for every seed",
                )
            found = self.subspaces[seed]
        else:
            found = self.subspaces(model, self.prompts.discovery)
        if not isinstance(found, Circuit) or found.subspace is None:
            raise ClaimInvalid(
                f"seed {seed}: only subspaces can match",
                given=repr(found),
                expected="Circuit(site, subspace=...)",
            )
        return found


def check_subspaces_match(
    models: Seeds, subspaces: Subspaces, prompts: PromptPairs, **options: Unpack[Options]
) -> ClaimRecord:
    """Check that subspaces of different seeds arrange the test prompts alike.

    Bases of separately trained models have nothing in common, so the activations inside the
    subspaces are compared: linear CKA on the same clean prompts. For every pair of seeds one
    subspace is held and the other ranked among spectrum-matched subspaces of its own model; then
    the other way round. How alike they are is reported and not judged.

    Null hypothesis: in some pair, one of the subspaces is exchangeable with its controls in its
        model: it was chosen without regard to what the other says.
    Exchange unit: a subspace of one model, on the same prompts.
    Exactness: as `mechtest.stats.match_test`; every pair and direction has to hold, at the full
        level (intersection-union).

    Args:
        models: A `ModelSuite` (its last checkpoint), the fixture `mamba_seeds`, or (seed, model).
        subspaces: A circuit with a subspace for every seed, or a function (model, discovery
            prompts) -> Circuit that finds it.
        prompts: A whole collection: spectra come from its discovery half, activations from its
            test half.
        **options: `controls` (a kind of subspace control), `losses`, `max_controls`,
            `min_accuracy`, `metric` and `level` of `Options`.

    Returns:
        A record with one evidence for every pair and direction.

    Sources: Kornblith et al. 2019 (CKA); Besag & Clifford 1991.
    """
    asked = Asked(**options)

    def check(claim: RunningClaim) -> ClaimRecord:
        found = _Asked(seed_models(models), subspaces, prompts, asked)
        if asked.ablations is not None:
            raise ClaimInvalid("nothing is ablated here", given="ablations=")
        kinds = [control_kind(found.circuit(*one), asked.controls) for one in found.models]
        if COMPONENTS in kinds:
            raise ClaimInvalid("only subspaces can match", given=f"controls={COMPONENTS!r}")
        return _plan(found, claim) if claim.planning else _check(found, kinds[0], claim)

    return checked(KIND, check, level=asked.level, statement="subspaces of all seeds match")


def assert_subspaces_match(
    models: Seeds, subspaces: Subspaces, prompts: PromptPairs, **options: Unpack[Options]
) -> ClaimRecord:
    """Assert what `check_subspaces_match` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    return conclude(check_subspaces_match(models, subspaces, prompts, **options), "these subspaces")


def _check(asked: _Asked, kind: str, claim: RunningClaim) -> ClaimRecord:
    ControlTest(0.0, claim.level, losses=asked.options.losses, cap=asked.options.max_controls)
    sides = [_side(asked, seed, model, kind, claim) for seed, model in asked.models]
    shapes = {(side.study.pairs.ids, len(side.match.activations)) for side in sides}
    if len(shapes) > 1:
        raise ClaimInvalid(
            "the models do not read the same prompts, place by place",
            given=", ".join(f"seed {s.seed}: {len(s.match.activations)} rows" for s in sides),
            expected="one tokenizer, and sites at the same positions",
        )
    ways = [way for pair in combinations(sides, 2) for way in (pair, pair[::-1])]
    found = []
    for held, drawn in ways:
        found.append(_way(held, drawn, kind, len(ways), asked, claim))
        claim.progress(len(found), len(ways), "pairs of seeds, in both directions")
    worst = min((item for _, item in found), key=lambda item: _ORDER.index(item.verdict))
    evidence = tuple(one for one, _ in found)
    alike = min(one.effect.estimate for one in evidence)
    reason = worst.reason
    if worst.verdict is Verdict.SUPPORTED:
        reason = f"the least linear CKA of a pair is {alike:.2f}; {reason}"
    settle = ""
    if worst.verdict is Verdict.INCONCLUSIVE:
        settle = "losses=10 tolerates more controls that are as good, at the price of more of them"
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or "subspaces of all seeds match",
        kind=KIND,
        verdict=worst.verdict,
        binding=worst.binding,
        reason=reason,
        settle=settle,
        level=claim.level,
        seed=claim.seed,
        prompts=sides[0].study.tested.digest,
        settings=_settings(asked, kind, [side.circuit for side in sides]),
        evidence=evidence,
        notes=("a match says that both hold the same distinctions, not that either is used",),
    )


def _side(asked: _Asked, seed: int, model: HookedMamba, kind: str, claim: RunningClaim) -> _Side:
    """Measure one model's activations; what cannot be is told with the seed's name."""
    try:
        circuit = asked.circuit(seed, model)
        study = prepare_study(model, [circuit], asked.prompts, asked.options.metric)
        require_clusters(study.templates, BEHAVIOUR_LEVEL)
        key = f"{claim.key}|seed {seed}"
        question = Question(study, "ablate", asked.options.intervention, circuit)
        guards = require_behaviour(
            question, seed=claim.seed, claim=key, min_accuracy=asked.options.min_accuracy
        )
        whole = Circuit(*[str(site) for site in circuit.sites])
        spectrum = fit_spectrum(study.discovery, whole)
        (values,) = read_activations(study.runner, whole).values()
        rows = np.asarray(values.flatten(1).double().cpu().numpy())
        assert circuit.subspace is not None, "asked for before"
        basis = circuit.subspace.basis.numpy()
        controls = SubspaceControls(basis, spectrum, kind, claim.seed, f"match|{key}")
        return _Side(seed, circuit, study, guards, MatchSide(rows, controls))
    except MechtestError as error:
        error.what = f"seed {seed}: {error.what}"
        raise


def _way(
    held: _Side, drawn: _Side, kind: str, ways: int, asked: _Asked, claim: RunningClaim
) -> tuple[Evidence, Decision]:
    """Hold one subspace, and rank the other among its controls."""
    options = asked.options
    summary = match_test(
        held.match, drawn.match, claim.level, losses=options.losses, cap=options.max_controls
    )
    finding = ControlFinding(kind, summary, KINDS[kind].weak, REFUTATION / ways)
    guards = (*held.guards, *drawn.guards)
    decision = decide(claim.level, effect=None, controls=finding, guards=guards)
    label = f"seed {held.seed}, controls in seed {drawn.seed}"
    study = drawn.study
    evidence = Evidence(
        kind=KIND,
        label=label,
        circuit=tuple(str(site) for site in drawn.circuit.sites),
        intervention="none",
        metric="linear CKA",
        effect=Effect(
            plain(summary.observed), None, None, 0.95, "linear CKA",
            "a rank among controls, conditional on these prompts and models",
        ),
        verdict=decision.verdict,
        threshold=None,
        direction="greater",
        p_effect=None,
        method="rank among controls only",
        clusters=study.templates,
        clusters_positive=study.templates,
        worst_cluster="",
        prompts=len(study.pairs),
        accuracy=plain(study.share(study.runner.logits("clean"), "accuracy")),
        moved=None,
        broken=None,
        model=study.identity,
        controls=_controls(finding),
        guards=guards,
        assumptions=(
            "the prompts are the ones the claim speaks of: nothing is said beyond them",
            f"special means: among subspaces of kind {kind!r} of the same site of that model",
        ),
    )  # fmt: skip
    named = Decision(decision.verdict, decision.binding, f"{label}: {decision.reason}")
    return evidence, named


def _controls(finding: ControlFinding) -> Controls:
    found = finding.summary
    return Controls(
        kind=finding.kind,
        drawn=found.drawn,
        at_least_as_extreme=found.at_least_as_extreme,
        p=found.p,
        stopped=found.stop,
        observed=plain(found.observed),
        null_mean=None if found.null_mean is None else plain(found.null_mean),
        exceedance_low=plain(finding.exceedance_low),
        weak=finding.weak,
        values=tuple(plain(value) for value in found.values),
    )


def _settings(asked: _Asked, kind: str, circuits: list[Circuit]) -> dict[str, Any]:
    options = asked.options
    return {
        "kind": KIND,
        "circuit": [str(site) for circuit in circuits for site in circuit.sites],
        "rank": [0 if c.subspace is None else c.subspace.rank for c in circuits],
        "seeds": [seed for seed, _ in asked.models],
        "controls": kind,
        "losses": options.losses,
        "max_controls": options.max_controls,
        "min_accuracy": options.min_accuracy,
    }


def _plan(asked: _Asked, claim: RunningClaim) -> ClaimRecord:
    """Say what checking would take: linear algebra, and four passes a model."""
    options, level = asked.options, claim.level
    circuits = [asked.circuit(seed, model) for seed, model in asked.models]
    study = prepare_study(asked.models[0][1], [circuits[0]], asked.prompts, options.metric)
    kind = control_kind(circuits[0], options.controls)
    problem = ""
    try:
        require_clusters(study.templates, BEHAVIOUR_LEVEL)
        ControlTest(0.0, level, losses=options.losses, cap=options.max_controls)
    except MechtestError as error:
        problem = f"{error.what} ({error.given}; expected {error.expected})"
    settings = _settings(asked, kind, circuits)
    most = most_controls(level, losses=options.losses)
    claim.plans.append(
        {
            "settings": settings,
            "clusters": study.templates,
            "needed_clusters": needed_clusters(BEHAVIOUR_LEVEL),
            "controls": most if options.max_controls is None else min(most, options.max_controls),
            "needed_controls": needed_controls(level, losses=options.losses),
            "seeds": len(asked.models),
            "prompts": len(study.pairs),
            "forward_passes": 4
            * len(asked.models)
            * -(-len(study.pairs) // study.runner.batch_size),
            "cost": None,
            "attainable": not problem,
            "problem": problem,
        }
    )
    return plan_record(KIND, claim, study.tested.digest, settings)
