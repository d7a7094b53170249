"""How often do p values, intervals and whole families err, where the truth is known?

What docs/calibration.md says beside its tables of single claims: how p values are distributed under
a true null hypothesis, how often intervals hold the truth, how often a family of false claims has
any called true, and what the number of templates does. Minutes; the same numbers come out again.

    PYTHONPATH=. python benchmarks/error_rates.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from results import table
from tqdm import tqdm

from mechtest.stats import (
    ControlTest,
    cluster_effect,
    effect_interval,
    effect_p_value,
    fixed_sequence,
    holm,
)
from tests.calibration.catalogue import CELLS
from tests.calibration.cells import rates

PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
START, END = "<!-- tables: benchmarks/error_rates.py -->", "<!-- end of error rates -->"
RUNS = 1000
LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75)

Draw = Callable[[np.random.Generator, int], np.ndarray]
NOISE: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t, 3 degrees": lambda rng, n: rng.standard_t(3, size=n),
    "skew -1.2": lambda rng, n: (2.78 - rng.gamma(2.78, 1, n)) / 2.78**0.5,
    "skew +1.2": lambda rng, n: (rng.gamma(2.78, 1, n) - 2.78) / 2.78**0.5,
}


def effects(noise: Draw, clusters: int, runs: int) -> Iterator[object]:
    """Yield effects whose truth is .7, from denominators that vary."""
    rng = np.random.default_rng([clusters, 7])
    for _ in range(runs):
        b = rng.gamma(4, 0.5, clusters)
        yield cluster_effect(0.7 * b + 0.5 * noise(rng, clusters), b, list(range(clusters)))


def uniformity() -> str:
    """Return how often p is at most u, for several u."""
    rows = []
    for clusters in (8, 12, 24):
        for name, noise in NOISE.items():
            p = np.array(
                [
                    effect_p_value(one, 0.7, seed=0, claim="u")
                    for one in effects(noise, clusters, RUNS)
                ]
            )
            rows.append([f"effect, {clusters} templates, {name}", *(_rate(p <= u) for u in LEVELS)])
    rng = np.random.default_rng(0)
    drawn = np.array([_control_p(rng) for _ in range(RUNS)])
    rows.append(["rank among controls", *(_rate(drawn <= u) for u in LEVELS)])
    return table(["p value of a null that is just true", *(f"<= {u:g}" for u in LEVELS)], rows)


def _control_p(rng: np.random.Generator) -> float:
    """Return p of a claim that is one of its own controls, at level .01."""
    test = ControlTest(float(rng.normal()), 0.01)
    while test.stop == "running":
        test.feed(float(rng.normal()))
    return test.summary().p


def coverage() -> str:
    """Return how often intervals hold the truth."""
    rows = []
    for clusters in (8, 12, 24):
        for name, noise in NOISE.items():
            row: list[object] = [clusters, name]
            found = list(effects(noise, clusters, RUNS // 2))
            for confidence in (0.9, 0.95):
                held = []
                for one in found:
                    interval = effect_interval(one, confidence, seed=0, claim="c")
                    low = -np.inf if interval.low is None else interval.low
                    high = np.inf if interval.high is None else interval.high
                    held.append(low <= 0.7 <= high)
                row.append(_rate(np.array(held)))
            rows.append(row)
    return table(["templates", "scores", "nominal .90", "nominal .95"], rows)


def families() -> str:
    """Return how often any of twenty false claims is called true."""
    rows = []
    for shared in (0.0, 0.3):
        rng = np.random.default_rng(1)
        any_of = dict.fromkeys(("each at .05", "registered, 20 at .0025", "Holm", "gates"), 0)
        for _ in range(RUNS // 2):
            common = rng.normal(size=12)
            p = []
            for claim in range(20):
                scores = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=12)
                effect = cluster_effect(scores, np.ones(12), list(range(12)))
                p.append(effect_p_value(effect, 0.0, seed=claim, claim="f"))
            any_of["each at .05"] += min(p) <= 0.05
            any_of["registered, 20 at .0025"] += min(p) <= 0.0025
            any_of["Holm"] += min(holm(p)) <= 0.05
            gated = [fixed_sequence(p[start : start + 5]) for start in range(0, 20, 5)]
            any_of["gates"] += any(min(one) <= 0.0125 for one in gated)
        rows.append([f"{shared:g}", *(f"{count / (RUNS // 2):.3f}" for count in any_of.values())])
    names = ["correlation", "each at .05", "20 levels of .0025", "Holm", "4 families of 5 gates"]
    return table(names, rows)


def templates() -> str:
    """Return how often null claims are supported with fewer and with more templates."""
    names = [
        "compiled/marked_slots | necessary | boundary",
        "compiled/marked_slots | not necessary | boundary",
        "compiled/token_shift | sufficient | boundary",
        "zoo/fact_city | necessary | boundary",
        "zoo/fact_city | necessary, saturated | boundary",
        "zoo/fact_city | not necessary | boundary",
    ]
    rows = []
    for name in tqdm(names, unit="cell"):
        cell = CELLS[name]()
        row: list[object] = [name.rpartition(" | ")[0].replace(" | ", ", "), cell.null]
        for clusters in (8, 16, 24):
            found = rates(cell, 2 * RUNS, 0.05, clusters, support=True)
            low, high = found.interval
            row.append(f"{found.supported:.4f} [{low:.4f}, {high:.4f}]")
        rows.append(row)
    return table(["claim", "not true because", "8 templates", "16", "24"], rows)


def _rate(hits: np.ndarray) -> str:
    return f"{hits.mean():.3f}"


def main() -> None:
    """Compute all tables, and write them into the page."""
    parts = [
        f"### P values\n\n{uniformity()}",
        f"### Intervals\n\n{coverage()}",
        f"### Twenty false claims, any called true\n\n{families()}",
        f"### By the number of templates, at .05\n\n{templates()}",
    ]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    body = "\n\n".join(parts)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
