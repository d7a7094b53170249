"""Which claims does the study propose, and with which thresholds?

Proposals come from the discovery half and are tested on the other. The rule for thresholds is in
`thresholds`; what is left over of an effect after it is what the claim says.
"""

from __future__ import annotations

from typing import Any

import torch

from mechtest.discovery.record import about
from mechtest.interventions import Circuit, SweepResult
from mechtest.study.bench import Bench
from mechtest.study.measured import Share, measure_share, part_name
from mechtest.study.step import Found
from mechtest.study.table import StepTable
from mechtest.study.thresholds import NECESSITY, SUFFICIENCY, proposed_threshold

__all__ = ["propose_claims"]


@torch.no_grad()
def propose_claims(bench: Bench) -> Found:
    """Choose the circuit to claim, its thresholds, and a place where the claim should be false."""
    found = Found()
    name, circuit = _best(bench)
    if circuit is None:
        found.warnings.append("no circuit to claim: nothing was found that the behaviour needs")
        found.lines.append("no claim is proposed")
        found.facts["claims"] = []
        return found
    claims: list[dict[str, Any]] = []
    lost = measure_share(bench.runner, bench.metric, circuit)
    back = measure_share(bench.runner, bench.metric, circuit, "restore")
    for kind, share, most in (("necessary", lost, NECESSITY), ("sufficient", back, SUFFICIENCY)):
        threshold = proposed_threshold(share.value, share.low, most)
        if threshold is None:
            found.warnings.append(f"no claim that {name} is {kind}: {_why(share)}")
            continue
        claims.append(_claim(kind, "circuit", threshold, share))
    if not claims:
        found.lines.append("no claim is proposed: no effect is left after the margin for optimism")
        found.facts["claims"] = []
        return found
    found.circuits["circuit"] = circuit
    decoy = (
        _decoy(bench, circuit, claims[0]["threshold"]) if claims[0]["kind"] == "necessary" else None
    )
    if decoy is not None:
        found.circuits["decoy"], share, why = decoy
        claims.append(_claim("necessary", "decoy", claims[0]["threshold"], share, "refuted", why))
    else:
        found.warnings.append("no false twin: no other place of its kind can be told to be inert")
    found.facts["claims"] = claims
    found.facts["names"] = {key: one.name for key, one in found.circuits.items()}
    rows = [
        (f"{one['expect']}: {found.circuits[one['circuit']].name} is {one['kind']}",
         one["threshold"], one["effect"], one["low"], one["high"]) for one in claims
    ]  # fmt: skip
    found.keep(
        "claims",
        StepTable(
            about("deliverables", bench.model, bench.pairs, metric=bench.metric.name),
            title=f"{len(claims)} claims are proposed about {name} ({part_name(circuit)})",
            columns=("claim", "threshold", "effect", "effect low", "effect high"),
            rows=tuple(rows),
            bars=("effect", "threshold"),
            unit="share of behaviour, discovery half",
        ),
        count=5,
    )
    return found


def _claim(
    kind: str,
    circuit: str,
    threshold: float,
    share: Share,
    expect: str = "supported",
    why: str = "",
) -> dict[str, Any]:
    return {
        "kind": kind, "circuit": circuit, "threshold": threshold, "expect": expect, "why": why,
        "effect": share.value, "low": share.low, "high": share.high,
    }  # fmt: skip


def _why(share: Share) -> str:
    if share.value is None:
        return share.reason
    return f"an effect of {share.value:.2f} leaves nothing after the margin for optimism"


def _best(bench: Bench) -> tuple[str, Circuit | None]:
    """Return the first circuit of patching that is no cut and beats its controls, if any does."""
    controls = bench.before.get("controls")
    facts: dict[str, Any] = {} if controls is None else controls.facts
    cuts, p_values = set(facts.get("cuts", ())), facts.get("p", {})
    circuits = {key: one for key, one in bench.circuits().items() if key not in cuts}
    ranked = sorted(circuits, key=lambda key: p_values.get(key, 1.0) > bench.settings["level"])
    for key in ranked:  # sorted() keeps the order of patching among equals
        return key, circuits[key]
    return "", None


def _decoy(bench: Bench, circuit: Circuit, threshold: float) -> tuple[Circuit, Share, str] | None:
    """Return the place of the same hooks where most can be seen and least is lost.

    "Seen" is what a probe reads where probes were trained, and else how far the twins are apart.
    """
    effects = bench.before["selection"].records["map"]
    assert isinstance(effects, SweepResult)
    own = {str(site) for site in circuit.sites} | {str(site) for site in circuit.parts}
    hooks = {site.hook.replace("hook_h", "state") for site in circuit.sites}
    seen, how = _seen(bench)
    places = [
        (seen.get(site, seen.get(site.replace(".state@", ".hook_h@"), 0.0)) or 0.0, site)
        for line in effects.sites
        for site in line
        if site and site not in own and Circuit(site).sites[0].hook in hooks
    ]
    for visible, site in sorted(places, key=lambda one: (-one[0], one[1])):
        place = Circuit(site, name=site, fitted_on=bench.pairs.fingerprints)
        share = measure_share(bench.runner, bench.metric, place)
        high = share.high if share.high is not None else share.value
        if high is not None and high < threshold / 2:
            return place, share, f"{how} {visible:.2f}"
    return None


def _seen(bench: Bench) -> tuple[dict[str, float], str]:
    probes = bench.before.get("probes")
    if probes is not None and probes.facts.get("accuracy"):
        return probes.facts["accuracy"], "a probe reads the answer there with accuracy"
    activations = bench.before.get("activations")
    found = {} if activations is None else activations.facts.get("difference", {})
    return found, "the twins differ there by"
