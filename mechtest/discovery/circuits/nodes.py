"""Which parts of a model can be in a circuit or out of it, one by one?

A node is a site at a position, whole or some of its channels, written as claims write it:
`blocks.0.state@last`, `blocks.0.state@last#17`, `blocks.0.state@last#3,5`. Nodes share no
activation, so that leaving one out says nothing of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mechtest.errors import DiscoveryError, ShapeError
from mechtest.interventions import Circuit
from mechtest.interventions.complement import channel_count, universe_of
from mechtest.interventions.plan import PlannedEdit, Planner
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import Fingerprints

__all__ = [
    "Node",
    "Scored",
    "circuit_of",
    "circuits_of",
    "node_named",
    "nodes_of",
    "require_apart",
    "rest_of_universe",
    "scores_of",
    "single_nodes",
]


@runtime_checkable
class Scored(Protocol):
    """A record that ranks places."""

    def scores(self) -> Mapping[str, float]:
        """Return a score by place; larger matters more."""
        ...


@dataclass(frozen=True, order=True)
class Node:
    """One place that is kept or left out as a whole.

    Attributes:
        site: Hook and position in the notation of claims, the layer counted from 0.
        channels: Some of its channels; empty for all of them.
    """

    site: str
    channels: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """How it is written: `site`, or `site#channel,channel`."""
        return f"{self.site}#{','.join(map(str, self.channels))}" if self.channels else self.site

    @property
    def place(self) -> Site:
        """The site, read."""
        return Site.parse(self.site)


def node_named(name: str) -> Node:
    """Return the node of a name that `Node.name` gave."""
    site, _, listed = name.partition("#")
    return Node(site, tuple(int(part) for part in listed.split(",") if part))


def nodes_of(
    model: HookedMamba, named: str | Circuit | Iterable[str | Circuit] | Scored
) -> tuple[Node, ...]:
    """Return the nodes that names, circuits, a ranking or a record mean, in order.

    Args:
        model: For layers, channels and `*`.
        named: Names (`*` for a layer or hook), circuits (every site is a node), a mapping whose
            keys are names, or a record with `scores()`.

    Raises:
        UnknownSiteError: No such site.
        ShapeError: A channel the site does not have.
        DiscoveryError: No node, a node twice, or a circuit of directions.
    """
    if isinstance(named, Scored):
        named = named.scores()
    several = [named] if isinstance(named, str | Circuit) else list(named)
    found = [node for one in several for node in _read(model, one)]
    if not found:
        raise DiscoveryError("there is no node", expected="names such as blocks.*.state@last")
    repeated = sorted(node.name for node, times in Counter(found).items() if times > 1)
    if repeated:
        raise DiscoveryError("a node is named twice", given=", ".join(repeated[:5]))
    return tuple(found)


def scores_of(
    model: HookedMamba, ranking: Mapping[str, float] | Scored | Sequence[str]
) -> dict[Node, float]:
    """Return the score of every ranked node; a list of names ranks by its order, best first.

    Raises:
        UnknownSiteError, ShapeError, DiscoveryError: As `nodes_of`; a score that is no finite
            number.
    """
    if isinstance(ranking, Scored):
        ranking = ranking.scores()
    if not isinstance(ranking, Mapping):
        ranking = {name: float(-rank) for rank, name in enumerate(ranking)}
    nodes = nodes_of(model, list(ranking))
    if len(nodes) != len(ranking):
        raise DiscoveryError(
            "a ranking names every node on its own", given="a name with *", expected="single sites"
        )
    scores = [float(score) for score in ranking.values()]
    odd = [n.name for n, score in zip(nodes, scores, strict=True) if not abs(score) < float("inf")]
    if odd:
        raise DiscoveryError("a score is no finite number", given=", ".join(odd[:5]))
    return dict(zip(nodes, scores, strict=True))


def circuits_of(nodes: Iterable[Node]) -> list[Circuit]:
    """Return what is edited at once when these nodes are: one circuit a site."""
    whole: dict[str, set[int] | None] = {}
    for node in nodes:
        before = whole.setdefault(node.site, set())
        if not node.channels or before is None:
            whole[node.site] = None
        else:
            before |= set(node.channels)
    return [Circuit(site, channels=channels) for site, channels in sorted(whole.items())]


def single_nodes(circuit: Circuit) -> list[Node]:
    """Return a circuit's whole sites, and its channels one by one."""
    return [
        node
        for site, channels in zip(circuit.sites, circuit.by_site, strict=True)
        for node in (
            [Node(str(site))] if channels is None else [Node(str(site), (c,)) for c in channels]
        )
    ]


def circuit_of(
    nodes: Sequence[Node], *, name: str | None = None, fitted_on: Fingerprints | None = None
) -> Circuit:
    """Return the circuit that some nodes make.

    Raises:
        DiscoveryError: No node.
    """
    parts = circuits_of(nodes)
    if not parts:
        raise DiscoveryError(
            "no node is left, so there is no circuit",
            given="0 nodes",
            next_step="ask for more nodes, a smaller tolerance or a smaller tau",
        )
    sites = [str(part.sites[0]) for part in parts]
    if all(part.channels is None for part in parts):
        return Circuit(*sites, name=name, fitted_on=fitted_on)
    channels = {site: part.channels for site, part in zip(sites, parts, strict=True)}
    return Circuit(*sites, channels=channels, name=name, fitted_on=fitted_on)


def rest_of_universe(model: HookedMamba, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return the nodes that nobody named: all layers' sites of these kinds at these positions.

    Where some channels of a kind are named, the rest comes channel by channel.

    Raises:
        ClaimInvalid: Sites of the residual stream, which have no "everything else".
    """
    taken: dict[str, set[int] | None] = {}
    single = {(n.place.hook, n.place.position) for n in nodes if n.channels}
    for node in nodes:
        before = taken.setdefault(node.site, set())
        taken[node.site] = (
            None if not node.channels or before is None else before | {*node.channels}
        )
    rest: list[Node] = []
    for whole in universe_of(Circuit(*[node.site for node in nodes]), model):
        site = whole.sites[0]
        used = taken.get(str(site), set())
        if used is None:
            continue
        if (site.hook, site.position) in single:
            free = sorted(set(range(channel_count(model, site))) - used)
            rest += [Node(str(site), (channel,)) for channel in free]
        else:
            rest.append(Node(str(site)))
    return tuple(rest)


def require_apart(planner: Planner, nodes: Sequence[Node]) -> None:
    """Raise where two nodes share an activation on some prompt.

    Raises:
        DiscoveryError: Names the two.
        PositionError: A position that some prompt lacks.
    """
    by_site: dict[str, list[Node]] = {}
    for node in nodes:
        by_site.setdefault(node.site, []).append(node)
    hooks: dict[Site, list[tuple[str, PlannedEdit]]] = {}
    for site, here in by_site.items():
        _require_channels_apart(here)
        for edit in planner.plan(Circuit(site)):
            for other, planned in hooks.setdefault(edit.site, []):
                if _meet(edit, planned):
                    _require_channels_apart([*by_site[other], *here])
            hooks[edit.site].append((site, edit))


def _meet(one: PlannedEdit, other: PlannedEdit) -> bool:
    if one.where is None or other.where is None:
        return True
    return bool((one.where & other.where).any())


def _require_channels_apart(nodes: Sequence[Node]) -> None:
    """Raise where two nodes of the same places have a channel in common."""
    owner: dict[int, Node] = {}
    for node in nodes:
        if not node.channels and len(nodes) > 1:
            raise _overlap(node, next(other for other in nodes if other is not node))
        for channel in node.channels:
            if channel in owner:
                raise _overlap(owner[channel], node)
            owner[channel] = node


def _overlap(one: Node, other: Node) -> DiscoveryError:
    return DiscoveryError(
        f"{one.name} and {other.name} share activations, so neither can be left out alone",
        given=f"{one.name}, {other.name}",
        expected="nodes at different places on every prompt",
        next_step="leave one of them out; `last` may be a role's own position",
    )


def _read(model: HookedMamba, one: str | Circuit) -> list[Node]:
    if isinstance(one, Circuit):
        if one.subspace is not None:
            raise DiscoveryError(
                "directions of a site are no node",
                given=one.name,
                expected="whole sites, or channels of them",
            )
        whole = zip(one.sites, one.by_site, strict=True)
        return [_node(model, str(site), chosen or ()) for site, chosen in whole]
    name, hash_, listed = one.partition("#")
    channels: tuple[int, ...] = ()
    if hash_:
        parts = [part.strip() for part in listed.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ShapeError(
                f"cannot read the channels of {one!r}", given=listed, expected="17, or 3,5,8"
            )
        channels = tuple(sorted({int(part) for part in parts}))
    return [_node(model, str(site), channels) for site in model.resolver.sites(name)]


def _node(model: HookedMamba, name: str, channels: Sequence[int]) -> Node:
    site = model.resolver.in_model(Site.parse(name))
    if channels:
        count = channel_count(model, site)
        outside = [channel for channel in channels if not 0 <= channel < count]
        if outside:
            raise ShapeError(
                f"{site} has no channel {outside[0]}",
                given=f"channels {outside[:5]}",
                expected=f"0 to {count - 1}",
            )
        if len(set(channels)) == count:
            channels = ()
    return Node(str(site), tuple(sorted(set(channels))))
