"""Of which few directions are a site's activations made, and which of them carry the answer?"""

from __future__ import annotations

from mechtest.discovery.sae import match_features, sae_features, sae_quality, train_sae
from mechtest.errors import MechtestError
from mechtest.study.bench import Bench
from mechtest.study.step import Found

__all__ = ["find_features"]

FEW_ROWS = 20
"""Activations a feature; with fewer, an autoencoder learns the prompts by heart."""


def find_features(bench: Bench) -> Found:
    """Train a sparse autoencoder at one site, judge it, and rank its features.

    The features that matter most become a candidate. With `seeds` above 1, more are trained and
    their features compared: what is found under one seed alone is no property of the model.
    """
    told, found = bench.settings, Found()
    layer = bench.model.cfg.n_layer - 1
    site = told["site"].replace("*", str(layer), 1)
    width = told["d_sae"] or 4 * bench.model.cfg.d_model
    saes = [
        train_sae(
            bench.model, site, bench.prompts.discovery, d_sae=width, kind=told["kind"],
            k=told["k"], positions=told["positions"], steps=told["steps"],
            checkpoint=bench.journal(f"sae-{seed}"), progress=bench.progress, seed=seed,
        )
        for seed in range(bench.seed, bench.seed + max(told["seeds"], 1))
    ]  # fmt: skip
    sae = saes[0]
    found.files["sae"] = sae.save
    found.keep("quality", sae_quality(bench.model, sae, bench.pairs, metric=bench.metric))
    features = sae_features(
        bench.model, sae, bench.pairs, metric=bench.metric, progress=bench.progress
    )
    found.keep("features", features, count=4)
    if len(saes) > 1:
        found.keep("seeds", match_features(saes, seed=bench.seed), count=2)
    try:
        circuit = features.circuit(sae, told["count"])
        found.circuits[circuit.name] = circuit
    except MechtestError as error:
        found.warnings.append(f"no candidate of features: {error.what}")
    rows = 2 * int(bench.pairs.attention_mask.sum())
    if rows < FEW_ROWS * width:
        found.warnings.append(
            f"about {rows} activations for {width} features: what is learned may be these prompts, "
            "not the model's directions"
        )
    return found
