"""How long do states last, what can be written to and read from them, and which modes are used?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mechtest.discovery.dynamics import gramians, mode_effects, state_rank, timescales
from mechtest.errors import MechtestError
from mechtest.study.bench import Bench
from mechtest.study.step import Found, Record

__all__ = ["look_at_dynamics"]


def look_at_dynamics(bench: Bench) -> Found:
    """Measure timescales, effective ranks, Gramians and the effects of modes by timescale."""
    told, found = bench.settings, Found()
    layer, position = _place(bench)
    options: dict[str, Any] = {"progress": bench.progress}
    tools: dict[str, Callable[[], Record]] = {
        "timescales": lambda: timescales(bench.model, bench.pairs, **options),
        "rank": lambda: state_rank(
            bench.model, bench.pairs, positions=[position], **options
        ),
        "gramians": lambda: gramians(
            bench.model, bench.pairs, layer,
            channels=list(range(min(told["channels"], bench.model.cfg.E))), **options
        ),
        "modes": lambda: mode_effects(
            bench.model, bench.pairs, layer, at=position, groups=told["groups"],
            metric=bench.metric, **options
        ),
    }  # fmt: skip
    for name, tool in tools.items():
        try:
            found.keep(name, tool(), count=3)
        except MechtestError as error:
            found.warnings.append(f"no {name}: {error.what}")
    found.facts = {"layer": layer, "position": position}
    return found


def _place(bench: Bench) -> tuple[int, str]:
    """Return layer and position of the best circuit, or the last ones."""
    for circuit in bench.best().values():
        site = circuit.sites[0]
        if site.layer is not None:
            return site.layer % bench.model.cfg.n_layer, str(site).partition("@")[2] or "last"
    return bench.model.cfg.n_layer - 1, "last"
