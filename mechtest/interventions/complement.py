"""What is "everything else", when a claim says that a circuit is enough on its own?

The universe of a circuit is all layers' sites of its kind at its positions: for the recurrent state
at the last token, that of every layer. The residual stream has no such universe, since every layer
carries what the one before it carried.
"""

from __future__ import annotations

from collections.abc import Sequence

from mechtest.errors import ClaimInvalid
from mechtest.interventions.circuit import Circuit
from mechtest.models import HookedMamba
from mechtest.sites import Site

__all__ = ["channel_count", "complement_of", "universe_of"]

RESIDUAL = ("hook_resid_pre", "hook_resid_post", "hook_layer_input", "hook_normalized_input")


def channel_count(model: HookedMamba, site: Site) -> int:
    """Return how many channels a site has: along `d_inner`, or its last axis."""
    cfg = model.cfg
    if site.is_state:
        return cfg.E
    sizes = {
        "d_model": cfg.d_model,
        "d_inner": cfg.E,
        "d_state": cfg.N,
        "dt_rank": cfg.R,
        "2*d_inner": 2 * cfg.E,
        "dt_rank+2*d_state": cfg.R + 2 * cfg.N,
        "d_vocab": cfg.d_vocab,
    }
    axes = site.spec.axes
    return int(sizes["d_inner" if "d_inner" in axes else axes[-1]])


def universe_of(circuit: Circuit, model: HookedMamba) -> list[Circuit]:
    """Return every layer's sites of the circuit's kinds, at its positions.

    Raises:
        ClaimInvalid: Sites of the residual stream, or outside the layers.
    """
    wrong = [site for site in circuit.sites if site.layer is None or site.hook in RESIDUAL]
    if wrong:
        raise ClaimInvalid(
            f"there is no 'everything else' beside {wrong[0]}: each layer's residual stream holds "
            "what the one before it held",
            given=circuit.name,
            expected="sites that every layer adds of its own: state, hook_h, hook_out_proj ...",
            next_step="use mode='restore'",
        )
    kinds = dict.fromkeys((site.hook, site.position) for site in circuit.sites)
    return [
        Circuit(str(Site(hook, layer, position)))
        for hook, position in kinds
        for layer in range(model.cfg.n_layer)
    ]


def complement_of(claimed: Circuit, kept: Sequence[Circuit], model: HookedMamba) -> list[Circuit]:
    """Return what is ablated when only `kept` is left of the universe of `claimed`.

    Args:
        claimed: Its kinds and positions make the universe.
        kept: The claim itself, or a control.
        model: For layers and channels.
    """
    rest: list[Circuit] = []
    kept = [piece for one in kept for piece in one.pieces]
    for whole in universe_of(claimed, model):
        site = whole.sites[0]
        layer = site.layer
        here = [one for one in kept if any(_same(site, other, model) for other in one.sites)]
        if not here:
            rest.append(whole)
            continue
        assert layer is not None
        subspaces = [one.subspace for one in here if one.subspace is not None]
        if subspaces:
            rest.append(Circuit(str(site), subspace=subspaces[0].complement()))
            continue
        count = channel_count(model, site)
        if any(one.channels is None for one in here):
            continue
        left = set(range(count)) - {c for one in here for c in one.channels or ()}
        if left:
            rest.append(Circuit(str(site), channels=left))
    if not rest:
        raise ClaimInvalid(
            f"{claimed.name} is everything of its kind, so that nothing is left to ablate",
            given=claimed.name,
            expected="fewer sites, channels or dimensions",
        )
    return rest


def _same(site: Site, other: Site, model: HookedMamba) -> bool:
    """Say whether two sites are one place, a negative layer counting from the end."""
    assert site.layer is not None
    assert other.layer is not None
    count = model.cfg.n_layer
    return (site.hook, site.position, site.layer % count) == (
        other.hook,
        other.position,
        other.layer % count,
    )
