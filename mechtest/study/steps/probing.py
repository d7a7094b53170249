"""Where can the answer be read off, and is what is read there used?"""

from __future__ import annotations

from mechtest.discovery.probes import probe
from mechtest.errors import MechtestError
from mechtest.study.bench import Bench
from mechtest.study.step import Found

__all__ = ["probe_sites"]

USED, NOT_USED = "decodable, used", "decodable, not used"


def probe_sites(bench: Bench) -> Found:
    """Fit linear probes at some sites, and ablate the directions they read.

    The best of what is used becomes a candidate; what can be read and is not used is where a claim
    should be false.
    """
    told, found = bench.settings, Found()
    record = probe(
        bench.model, bench.sites(told["sites"]), bench.pairs, label=told["label"],
        kind=told["kind"], positions=bench.positions(told["positions"]), penalty=told["penalty"],
        folds=told["folds"], control_task=told["control_task"], metric=bench.metric,
        progress=bench.progress, seed=bench.seed,
    )  # fmt: skip
    found.keep("probes", record, count=6)
    found.facts["accuracy"] = {place.site: place.accuracy for place in record.places()}
    found.facts["not used"] = [place.site for place in record.of(NOT_USED)]
    if record.of(USED):
        try:
            circuit = record.circuit()
            found.circuits[circuit.name] = circuit
        except MechtestError as error:
            found.warnings.append(error.what)
    if found.facts["not used"]:
        found.warnings.append(
            f"decodable, and not used: {', '.join(found.facts['not used'])}; what a probe reads "
            "says what is there, not what the model does with it"
        )
    return found
