"""Which part of a model does a claim speak of?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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
            site has no `d_inner`.
        name: How reports call it; the sites where left out.
        fitted_on: Fingerprints of every prompt this circuit was found with; None says that it was
            declared, not found.

    Raises:
        UnknownSiteError: A name that is no site.
        ShapeError: No site, a subspace of several, or a subspace and channels at once.
    """

    sites: tuple[Site, ...]
    subspace: Subspace | None = None
    channels: tuple[int, ...] | None = None
    name: str = ""
    fitted_on: Fingerprints | None = field(default=None)

    def __init__(
        self,
        *sites: str,
        subspace: Subspace | None = None,
        channels: Iterable[int] | None = None,
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
        chosen = None if channels is None else tuple(sorted(set(channels)))
        if subspace is not None and chosen is not None:
            raise ShapeError(
                "a circuit has channels or a subspace, not both",
                given=f"rank {subspace.rank} and {len(chosen)} channels",
                expected="one of them: channels are a subspace too, one direction each",
            )
        if chosen == ():
            raise ShapeError("no channels are left of this circuit", given="channels=()")
        set_ = object.__setattr__  # frozen: this is the one place that fills it
        set_(self, "sites", parsed)
        set_(self, "subspace", subspace)
        set_(self, "channels", chosen)
        set_(self, "name", name or ", ".join(sites))
        set_(self, "fitted_on", fitted_on)

    @property
    def parts(self) -> tuple[Site, ...]:
        """The sites of single hooks (a state site is two)."""
        return tuple(dict.fromkeys(part for site in self.sites for part in site.parts))

    def with_subspace(self, subspace: Subspace) -> Circuit:
        """Return the same site with other directions, as controls need."""
        sites = [str(site) for site in self.sites]
        return Circuit(*sites, subspace=subspace, name=self.name, fitted_on=self.fitted_on)

    def __repr__(self) -> str:
        extra = "" if self.subspace is None else f", rank {self.subspace.rank}"
        extra += "" if self.channels is None else f", {len(self.channels)} channels"
        return f"Circuit({', '.join(map(str, self.sites))}{extra})"
