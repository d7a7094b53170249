"""Which part of a model does a claim speak of?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mechtest.errors import ShapeError
from mechtest.interventions.subspace import Subspace
from mechtest.sites import Site
from mechtest.tasks import Fingerprints


@dataclass(frozen=True, eq=False, init=False)
class Circuit:
    """Sites of a model, whole or in part.

    Args:
        *sites: Site names with positions, for example `blocks.0.state@last` or
            `blocks.1.hook_resid_pre@S2:`. No position means every position.
        subspace: Only these directions of the (single) site.
        channels: Only these channels: indices along `d_inner`, or along the last axis where the
            site has no `d_inner`. Where sites differ, a mapping from each of them to its channels,
            None for all of a site's.
        name: How reports call it; the sites where left out.
        fitted_on: Fingerprints of every prompt this circuit was found with; None says that it was
            declared, not found.

    Raises:
        UnknownSiteError: A name that is no site.
        ShapeError: No site, a subspace of several, a subspace and channels at once, or channels of
            other sites than these.
    """

    sites: tuple[Site, ...]
    subspace: Subspace | None = None
    by_site: tuple[tuple[int, ...] | None, ...] = ()
    name: str = ""
    fitted_on: Fingerprints | None = field(default=None)

    def __init__(
        self,
        *sites: str,
        subspace: Subspace | None = None,
        channels: Iterable[int] | Mapping[str, Iterable[int] | None] | None = None,
        name: str | None = None,
        fitted_on: Fingerprints | None = None,
    ) -> None:
        if not sites:
            raise ShapeError("a circuit needs at least one site", expected="blocks.0.state@last")
        parsed = tuple(dict.fromkeys(Site.parse(site) for site in sites))
        parts = [part for site in parsed for part in site.parts]
        if subspace is not None and len(parts) != 1:
            raise ShapeError(
                "a subspace belongs to one hook",
                given=", ".join(map(str, parts)),
                expected="one site, for example blocks.1.hook_h@last (a state site is two hooks)",
            )
        chosen = _channels_of(parsed, channels)
        if subspace is not None and channels is not None:
            raise ShapeError(
                "a circuit has channels or a subspace, not both",
                given=f"rank {subspace.rank} and {len(chosen[0] or ())} channels",
                expected="one of them: channels are a subspace too, one direction each",
            )
        if () in chosen:
            raise ShapeError(
                "no channels are left of this circuit",
                given=f"no channel of {parsed[chosen.index(())]}",
                next_step="leave the site out",
            )
        set_ = object.__setattr__  # frozen: this is the one place that fills it
        set_(self, "sites", parsed)
        set_(self, "subspace", subspace)
        set_(self, "by_site", chosen)
        set_(self, "name", name or ", ".join(sites))
        set_(self, "fitted_on", fitted_on)

    @property
    def parts(self) -> tuple[Site, ...]:
        """The sites of single hooks (a state site is two)."""
        return tuple(dict.fromkeys(part for site in self.sites for part in site.parts))

    @property
    def channels(self) -> tuple[int, ...] | None:
        """The channels meant at every site; None for all of them.

        Raises:
            ShapeError: Sites of different channels; see `pieces`, each of which has its own.
        """
        if len(set(self.by_site)) > 1:
            raise ShapeError(
                f"the sites of {self.name} have different channels",
                given=repr(self),
                expected="one set of channels at all sites",
                next_step="ask each of circuit.pieces for its channels",
            )
        return self.by_site[0]

    @property
    def channel_total(self) -> int | None:
        """Number of channels where all sites share them, else their sum; None for whole sites."""
        if len(set(self.by_site)) == 1:
            return None if self.by_site[0] is None else len(self.by_site[0])
        return sum(len(one) for one in self.by_site if one is not None)

    @property
    def channel_key(self) -> tuple[int, ...] | dict[str, tuple[int, ...] | None] | None:
        """The channels as plain values: by site, where sites differ."""
        if len(set(self.by_site)) == 1:
            return self.by_site[0]
        return {str(site): one for site, one in zip(self.sites, self.by_site, strict=True)}

    @cached_property
    def pieces(self) -> tuple[Circuit, ...]:
        """This circuit as circuits whose sites share their channels; itself where they all do."""
        if len(set(self.by_site)) == 1:
            return (self,)
        groups: dict[tuple[int, ...] | None, list[str]] = {}
        for site, channels in zip(self.sites, self.by_site, strict=True):
            groups.setdefault(channels, []).append(str(site))
        return tuple(
            Circuit(*sites, channels=channels, name=self.name, fitted_on=self.fitted_on)
            for channels, sites in groups.items()
        )

    def with_subspace(self, subspace: Subspace) -> Circuit:
        """Return the same site with other directions, as controls need."""
        sites = [str(site) for site in self.sites]
        return Circuit(*sites, subspace=subspace, name=self.name, fitted_on=self.fitted_on)

    def save(self, path: str | Path) -> Path:
        """Write the circuit to a file, whole or not at all, and return its path.

        Strict JSON: sites, channels, name, the fingerprints it was fitted on, and every bit of its
        subspace. By custom its name ends with `.circuit.json`.

        Raises:
            NonFiniteError: NaN or infinity in its subspace.
        """
        from mechtest.interventions.circuit_file import save_circuit

        return save_circuit(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote; it has the same digest.

        Raises:
            DiscoveryFileError: There is no file, or it holds something else.
        """
        from mechtest.interventions.circuit_file import load_circuit

        return load_circuit(path)

    def __repr__(self) -> str:
        extra = "" if self.subspace is None else f", rank {self.subspace.rank}"
        extra += "" if self.channel_total is None else f", {self.channel_total} channels"
        return f"Circuit({', '.join(map(str, self.sites))}{extra})"


def _channels_of(
    sites: tuple[Site, ...],
    channels: Iterable[int] | Mapping[str, Iterable[int] | None] | None,
) -> tuple[tuple[int, ...] | None, ...]:
    """Return the channels of every site."""
    if not isinstance(channels, Mapping):
        return (None if channels is None else tuple(sorted(set(channels))),) * len(sites)
    stated = {
        Site.parse(name): None if one is None else tuple(sorted(set(one)))
        for name, one in channels.items()
    }
    odd = [str(site) for site in sites if site not in stated]
    odd += [str(site) for site in stated if site not in sites]
    if odd:
        raise ShapeError(
            "channels by site are given for every site of the circuit, and for no other",
            given=", ".join(odd),
            expected=", ".join(map(str, sites)),
            next_step="give None for all channels of a site",
        )
    return tuple(stated[site] for site in sites)
