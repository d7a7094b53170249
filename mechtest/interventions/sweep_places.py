"""Which places does a sweep visit, and how are they called?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechtest.errors import PositionError, ShapeError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.plan import Planner
from mechtest.interventions.sweep_labels import token_label
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs

__all__ = ["SweepTable", "channels_of", "lay_out_table"]

EVERY = "*"


@dataclass(frozen=True, eq=False)
class SweepTable:
    """Places in rows and columns.

    Attributes:
        rows: Labels.
        columns: Labels.
        row_name: What the rows are.
        column_name: What the columns are.
        sites: Site of each place, "" where there is none.
        circuits: What is edited, by (row, column).
        reasons: Why a place is left out, by (row, column).
        prompt_columns: Tokens of each prompt, where prompts differ; else empty.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_name: str
    column_name: str
    sites: tuple[tuple[str, ...], ...]
    circuits: dict[tuple[int, int], Circuit]
    reasons: dict[tuple[int, int], str]
    prompt_columns: tuple[tuple[str, ...], ...]


def lay_out_table(
    model: HookedMamba,
    sites: str | Sequence[str],
    planner: Planner,
    positions: str | int | Sequence[str | int],
    channels: int | None,
) -> SweepTable:
    """Work out the places of a sweep; the arguments are those of `sweep`.

    What is planned here for the prompts is kept in `planner`.

    Raises:
        ShapeError: No place, several positions with `channels`, or sites with positions.
        UnknownSiteError, PositionError: A place that does not exist.
    """
    found = _rows(model, sites)
    layers = [site.layer for site in found]
    by_layer = len({site.hook for site in found}) == 1 and None not in layers
    rows = tuple(f"layer {site.layer}" if by_layer else str(site) for site in found)
    wanted, columns, tokens = _columns(model, planner.pairs, positions)
    if channels is not None:
        return _by_channels(model, found, rows, by_layer, planner, wanted, channels)
    circuits, reasons, names = {}, {}, []
    for row, site in enumerate(found):
        names.append(tuple(f"{site}@{position}" for position in wanted))
        for column, name in enumerate(names[-1]):
            try:
                circuit = Circuit(name)
                planner.plan(circuit)
            except PositionError as error:
                if positions != EVERY:
                    raise
                reasons[row, column] = error.what  # a prompt is too short to have this position
            else:
                circuits[row, column] = circuit
    name = "token" if tokens or positions == EVERY else "position"
    return SweepTable(
        rows, columns, "layer" if by_layer else "site", name, tuple(names), circuits, reasons,
        tokens,
    )  # fmt: skip


def _rows(model: HookedMamba, sites: str | Sequence[str]) -> list[Site]:
    asked = [sites] if isinstance(sites, str) else list(sites)
    found = [site for name in asked for site in model.resolver.sites(name)]
    bare = list(dict.fromkeys(Site(site.hook, site.layer) for site in found))
    if not bare:
        raise ShapeError("a sweep needs at least one site", expected="blocks.*.hook_h")
    placed = [site for site in found if not site.position.everywhere]
    if placed:
        raise ShapeError(
            "the positions of a sweep are given by `positions`",
            given=str(placed[0]),
            expected=f"{Site(placed[0].hook, placed[0].layer)}, positions=['last', ...]",
        )
    return bare


def _columns(
    model: HookedMamba, pairs: EncodedPairs, positions: str | int | Sequence[str | int]
) -> tuple[list[str], tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return positions, their labels, and each prompt's own labels where these are tokens."""
    if positions != EVERY:
        one = isinstance(positions, str | int)
        chosen = [str(positions)] if one else [str(p) for p in positions]  # type: ignore[union-attr]
        if not chosen:
            raise ShapeError("a sweep needs at least one position", given="positions=[]")
        return chosen, tuple(chosen), ()
    n_pos = pairs.clean_tokens.shape[1]
    if pairs.padded:  # from the end, where all prompts have the same tokens to come
        chosen = [str(position) for position in range(-n_pos, 0)]
        return chosen, tuple(chosen), ()
    chosen = [str(position) for position in range(n_pos)]
    if not model.tokens.available:
        return chosen, tuple(chosen), ()
    labels = tuple(
        tuple(token_label(i, text) for i, text in enumerate(model.to_str_tokens(row)))
        for row in pairs.clean_tokens
    )
    if len(set(labels)) == 1:
        return chosen, labels[0], ()
    return chosen, tuple(chosen), labels


def _by_channels(
    model: HookedMamba, found: list[Site], rows: tuple[str, ...], by_layer: bool,
    planner: Planner, positions: list[str], size: int,
) -> SweepTable:  # fmt: skip
    if len(positions) != 1:
        raise ShapeError(
            "groups of channels are swept at one position",
            given=f"{len(positions)} positions",
            expected="positions='last'",
        )
    if isinstance(size, bool) or size < 1:
        raise ShapeError("a group has at least one channel", given=f"channels={size}")
    counts = [channels_of(model, site) for site in found]
    groups = [range(at, min(at + size, max(counts))) for at in range(0, max(counts), size)]
    circuits, reasons, names = {}, {}, []
    for row, (site, count) in enumerate(zip(found, counts, strict=True)):
        name = f"{site}@{positions[0]}"
        planner.plan(Circuit(name))
        names.append(tuple(name if group.start < count else "" for group in groups))
        for column, group in enumerate(groups):
            if group.start < count:
                circuits[row, column] = Circuit(
                    name, channels=range(group.start, min(group.stop, count))
                )
            else:
                reasons[row, column] = f"{site} has {count} channels"
    columns = tuple(
        f"{group.start}" if len(group) == 1 else f"{group.start}-{group.stop - 1}"
        for group in groups
    )
    return SweepTable(
        rows, columns, "layer" if by_layer else "site", "channels", tuple(names), circuits, reasons,
        (),
    )  # fmt: skip


def channels_of(model: HookedMamba, site: Site) -> int:
    """Return how many channels a site has: along `d_inner`, or its last axis."""
    axes = (site.parts[0].spec if site.is_state else site.spec).axes
    cfg = model.cfg
    sizes = {
        "d_model": cfg.d_model, "d_inner": cfg.E, "d_state": cfg.N, "dt_rank": cfg.R,
        "2*d_inner": 2 * cfg.E, "dt_rank+2*d_state": cfg.R + 2 * cfg.N,
    }  # fmt: skip
    return int(sizes["d_inner" if "d_inner" in axes else axes[-1]])
