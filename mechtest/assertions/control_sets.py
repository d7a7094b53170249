"""Which controls is a claimed circuit compared with, as something an intervention can carry out?

A claimed subspace is compared with subspaces of the same site. A claim about a whole site, or about
channels of it, is compared with equally many channels of the same hook at the same positions, drawn
from all layers: a two-layer model has too few whole sites to rank one among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from typing import Protocol

import numpy as np
import torch

from mechtest.assertions.study import Study
from mechtest.errors import ClaimInvalid, ControlsError, closest_names
from mechtest.interventions import Circuit, Subspace, digest_of, fit_spectrum
from mechtest.interventions.complement import channel_count
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.stats import KINDS, ComponentControls, SubspaceControls

__all__ = [
    "COMPONENTS",
    "Control",
    "ControlSets",
    "channel_sets",
    "channels_claimed",
    "choose_controls",
    "circuits_of_channels",
    "control_blocks",
    "control_kind",
]

BLOCKS = (8, 8, 16, 32)
"""Controls measured together, one block after the other; the last size goes on. False claims end
within the first few, and what a block measures beyond the end of a test is left unused."""

COMPONENTS = "components"


@dataclass(frozen=True, eq=False)
class Control:
    """One control.

    Attributes:
        circuits: What is edited at once.
        statistic: What is ranked, given the control's effect.
        others: Further sets of circuits; the one of the largest effect is the control.
    """

    circuits: Sequence[Circuit]
    statistic: Callable[[float], float]
    others: tuple[Sequence[Circuit], ...] = ()

    @property
    def sets(self) -> tuple[Sequence[Circuit], ...]:
        """All that is measured for it, each on its own."""
        return (self.circuits, *self.others)


class ControlSets(Protocol):
    """A claimed circuit and the family of its controls."""

    @property
    def kind(self) -> str:
        """Name of the family."""
        ...

    @property
    def weak(self) -> bool:
        """Whether it cannot make a claim supported alone."""
        ...

    @property
    def claimed(self) -> Sequence[Circuit]:
        """The claim, carried out as its controls are."""
        ...

    @property
    def digest(self) -> str:
        """What the draws depend on: claims with equal digests have equal controls."""
        ...

    def draw(self, number: int) -> Control:
        """Return control `number`, the same whoever asks and in whatever order."""
        ...


@dataclass(frozen=True, eq=False)
class SubspaceSets:
    """Subspaces of one site."""

    circuit: Circuit
    controls: SubspaceControls
    kind: str
    _claimed: list[Circuit] = field(init=False)

    def __post_init__(self) -> None:
        drawn = self.controls.observed
        subspace = Subspace.from_edit(drawn.basis, drawn.dual)
        object.__setattr__(self, "_claimed", [self.circuit.with_subspace(subspace)])

    @property
    def weak(self) -> bool:
        """Whether it cannot make a claim supported alone."""
        return KINDS[self.kind].weak

    @property
    def claimed(self) -> Sequence[Circuit]:
        """The claimed subspace."""
        return self._claimed

    @cached_property
    def digest(self) -> str:
        """What the draws depend on."""
        controls = self.controls
        spectrum = controls.spectrum
        parts = [np.asarray(controls.claim), spectrum.scale, spectrum.variances, spectrum.axes]
        sites = [str(site) for site in self.circuit.sites]
        return digest_of([self.kind, controls.seed, controls.claim_id, sites, parts])

    def draw(self, number: int) -> Control:
        """Return another subspace of the same rank."""
        drawn = self.controls.draw(number)
        subspace = Subspace.from_edit(
            torch.as_tensor(drawn.basis, dtype=torch.float32),
            torch.as_tensor(drawn.dual, dtype=torch.float32),
            gain=drawn.gain,
        )
        circuits = [self.circuit.with_subspace(subspace)]
        return Control(circuits, lambda effect: self.controls.statistic(effect, drawn))


@dataclass(frozen=True, eq=False)
class ChannelSets:
    """Channels of the circuit's hooks at its positions, in every layer."""

    circuit: Circuit
    controls: ComponentControls
    sizes: dict[str, int]
    kind: str = COMPONENTS
    weak: bool = False

    @property
    def claimed(self) -> Sequence[Circuit]:
        """The claimed circuit itself."""
        return [self.circuit]

    @cached_property
    def digest(self) -> str:
        """What the draws depend on: which components there are, and how many are claimed."""
        controls = self.controls
        counts = Counter(controls.strata[name] for name in controls.claim)
        return digest_of(
            [self.kind, controls.seed, controls.claim_id, dict(controls.strata), dict(counts)]
        )

    def draw(self, number: int) -> Control:
        """Return as many channels of the same hooks, from any layer."""
        members = self.controls.draw(number).members
        return Control(circuits_of_channels(members, self.sizes), lambda effect: effect)


def circuits_of_channels(members: Sequence[str], sizes: Mapping[str, int]) -> list[Circuit]:
    """Return what is edited at once when these channels are, `site#channel` each."""
    chosen: dict[str, list[int]] = {}
    for member in members:
        site, _, channel = member.rpartition("#")
        chosen.setdefault(site, []).append(int(channel))
    return [
        Circuit(site, channels=None if len(channels) == sizes[site] else channels)
        for site, channels in chosen.items()
    ]


def control_kind(circuit: Circuit, asked: str | None) -> str:
    """Return the kind of control a claim uses, by default the one its circuit calls for.

    Raises:
        ClaimInvalid: An unknown kind, or one that does not fit the circuit.
    """
    known = (*KINDS, COMPONENTS)
    kind = asked or ("block" if circuit.subspace is not None else COMPONENTS)
    if kind not in known:
        raise ClaimInvalid(
            f"there is no kind of control {kind!r}",
            given=f"controls={kind!r}",
            closest=closest_names(kind, known),
            expected=", ".join(known),
        )
    if (kind == COMPONENTS) == (circuit.subspace is not None):
        raise ClaimInvalid(
            f"controls of kind {kind!r} do not fit this circuit",
            given=repr(circuit),
            expected=", ".join(KINDS) if circuit.subspace is not None else COMPONENTS,
            next_step="leave controls= out for the kind that fits",
        )
    return kind


def control_blocks(most: int) -> Iterator[range]:
    """Yield the numbers of the controls, a block at a time."""
    start = 0
    for size in chain(BLOCKS, repeat(BLOCKS[-1])):
        if start >= most:
            return
        yield range(start, min(start + size, most))
        start += size


def choose_controls(
    study: Study, circuit: Circuit, kind: str, seed: int, level: float
) -> ControlSets:
    """Return the control family of a claim.

    Controls are keyed by what they are controls for (kind, site, size) and the run's seed, not by
    the claim: claims on one site share them, which leaves every claim's own error rate as it is and
    is harmless for corrections that hold under any dependence.

    Raises:
        ControlsError: No control can differ from the claim, or hardly any does.
        UnattainableLevelError: The family is too small for the level.
        ClaimInvalid: Subspace controls without discovery prompts.
    """
    if kind == COMPONENTS:
        return channel_sets(study.model, circuit, seed, level)
    assert circuit.subspace is not None
    whole = Circuit(*[str(site) for site in circuit.sites])
    spectrum = fit_spectrum(study.discovery, whole)
    stream = f"controls of {', '.join(map(str, circuit.sites))}, rank {circuit.subspace.rank}"
    controls = SubspaceControls(circuit.subspace.basis.numpy(), spectrum, kind, seed, stream)
    return SubspaceSets(circuit, controls, kind)


def channel_sets(model: HookedMamba, circuit: Circuit, seed: int, level: float) -> ChannelSets:
    """Return the family of channel sets of a circuit; see the module's text."""
    claimed, strata, sizes = channels_claimed(model, circuit)
    try:
        kinds = sorted({f"{site.hook}@{site.position}" for site in circuit.sites})
        stream = f"controls of {len(claimed)} channels of {', '.join(kinds)}"
        controls = ComponentControls(tuple(claimed), strata, seed, stream)
    except ControlsError as error:
        raise ControlsError(
            f"{circuit.name} is all there is of its kind at its positions, in all layers",
            given=error.given,
            expected="a circuit that leaves channels or layers of the same hooks unclaimed",
            next_step="claim fewer layers or channels, or a subspace of one site",
        ) from error
    controls.require_level(level)
    return ChannelSets(circuit, controls, sizes)


def channels_claimed(
    model: HookedMamba, circuit: Circuit
) -> tuple[list[str], dict[str, str], dict[str, int]]:
    """Return a circuit's channels, the stratum of every channel like them, and sizes of sites."""
    strata: dict[str, str] = {}
    sizes: dict[str, int] = {}
    claimed: list[str] = []
    for site, chosen in zip(circuit.sites, circuit.by_site, strict=True):
        layers = [None] if site.layer is None else range(model.cfg.n_layer)
        for layer in layers:
            place = Site(site.hook, layer, site.position)
            sizes[str(place)] = channel_count(model, place)
            for channel in range(sizes[str(place)]):
                strata[f"{place}#{channel}"] = f"{site.hook}@{site.position}"
        layer = None if site.layer is None else site.layer % model.cfg.n_layer
        own = Site(site.hook, layer, site.position)
        channels = chosen or range(sizes[str(own)])
        claimed += [f"{own}#{channel}" for channel in channels]
    return claimed, strata, sizes
