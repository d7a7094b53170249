"""What is an intervention that looks at a whole layer, and what does it see?

A patch or an ablation replaces rows one by one. The operators here change how a Mamba's layer
works: a decay, a tap, what one token receives from another. Their new values depend on several
hooks and on all positions of a prompt, so the hooks of the model carry them out, on whole prompts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from mechtest.errors import ShapeError, closest_names
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.native.decay_classes import DECAY_CLASSES, decay_channels
from mechtest.interventions.spec import Intervention, Places, Run
from mechtest.models import HookedMamba
from mechtest.models.layers import MambaMixer
from mechtest.sites import Site

__all__ = ["LayerRun", "NativeOperator"]


@dataclass(frozen=True, eq=False)
class LayerRun:
    """One layer in the middle of a pass over a batch.

    Attributes:
        site: The site the circuit names, without position.
        mixer: The layer's weights.
        own: What the hooks the operator reads had in this pass, by hook name.
        twin: What they had in the twin's pass; empty for operators that do not ask for it.
        where: What the circuit names: prompts, positions and channels.
        real: False at padding.
        sender: Positions the operator names itself; None where it names none.
    """

    site: str
    mixer: MambaMixer
    own: Mapping[str, torch.Tensor]
    twin: Mapping[str, torch.Tensor]
    where: Bool[torch.Tensor, "batch pos d_inner"]
    real: Bool[torch.Tensor, "batch pos"]
    sender: Bool[torch.Tensor, "batch pos"] | None

    def masked(self, rows: torch.Tensor) -> torch.Tensor:
        """Return "batch pos channel" rows with zeros at padding, as the block has them."""
        return rows * self.real.unsqueeze(-1).to(rows.dtype)

    def mean(
        self, rows: Float[torch.Tensor, "batch pos channel"]
    ) -> Float[torch.Tensor, "batch 1 channel"]:
        """Return each prompt's mean over its tokens, padding left out."""
        total = self.masked(rows).sum(1, keepdim=True)
        return total / self.real.sum(1).to(total.dtype)[:, None, None]


class NativeOperator(Intervention):
    """What every operator on a layer offers.

    A circuit says where: `site` is the hook it has to name, its positions and channels are those
    the operator acts on, and several sites are several layers. The name says the operator and its
    settings, for records and locks.
    """

    on_rows: ClassVar[bool] = False
    acts_at: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def site(self) -> str:
        """The hook that circuits name."""

    @property
    def hooks_changed(self) -> tuple[str, ...]:
        """Hooks whose value is changed, in the order they fire."""
        return self.acts_at

    @property
    def hooks_read(self) -> tuple[str, ...]:
        """Hooks that are looked at; each fires before the last of `hooks_changed`."""
        return self.reads

    @property
    def needs_twin(self) -> bool:
        """Whether the other run is looked at, too."""
        return False

    @property
    def sender_position(self) -> str | None:
        """Positions the operator names itself, in the notation of sites; None for none."""
        return None

    def source(self, base: Run) -> Run | None:
        """Return the run that is looked at beside the one intervened in."""
        if not self.needs_twin:
            return None
        return "corrupted" if base == "clean" else "clean"

    @abstractmethod
    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return what stands at one of `hooks_changed` from now on.

        Args:
            hook: Which.
            value: "batch pos d_inner".
            here: The layer; what stays outside `here.where` is the operator's business.
        """

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Refuse: rows do not say enough.

        Raises:
            ShapeError: Always.
        """
        del value, reference, places
        raise ShapeError(
            f"{self.name} looks at whole layers, not at rows",
            given=f"rows of {site}",
            expected="Runner.run, a claim or a sweep, which carry it out through hooks",
        )

    def circuits(
        self,
        model: HookedMamba,
        *,
        layers: int | Iterable[int] | None = None,
        positions: str | int = ":",
        channels: str | Iterable[int] = "all",
    ) -> list[Circuit]:
        """Return where this operator acts in some layers, to be edited at once.

        One circuit, unless the channels are others in each layer.

        Args:
            model: The model.
            layers: One, or several; None for all. Negative counts from the end.
            positions: In the notation of sites; `:` is every one.
            channels: `all`, `fast` or `slow` (see `decay_channels`), or numbers.

        Raises:
            ShapeError: No layer, or no such class of channels.
            UnknownSiteError: The model has no such layer.
        """
        count = model.cfg.n_layer
        chosen = range(count) if layers is None else [layers] if isinstance(layers, int) else layers
        numbers = list(dict.fromkeys(at + count if at < 0 else at for at in chosen))
        where = "" if positions == ":" else f"@{positions}"
        sites = [f"blocks.{layer}.{self.site}{where}" for layer in numbers]
        if channels == "all":
            return [Circuit(*sites)]
        if not isinstance(channels, str):
            return [Circuit(*sites, channels=channels)]
        if channels not in DECAY_CLASSES:
            raise ShapeError(
                f"there is no class of channels {channels!r}",
                given=repr(channels),
                closest=closest_names(channels, DECAY_CLASSES),
                expected=f"{', '.join(DECAY_CLASSES)}, or numbers",
            )
        return [
            Circuit(site, channels=decay_channels(model, layer, channels))
            for site, layer in zip(sites, numbers, strict=True)
        ]

    def require_fits(self, circuits: Sequence[Circuit]) -> None:
        """Raise unless circuits name this operator's hook.

        Raises:
            ShapeError: Another hook, or a subspace.
        """
        for circuit in circuits:
            wrong = [str(part) for part in circuit.parts if part.hook != self.site]
            if wrong:
                raise ShapeError(
                    f"{self.name} acts on {self.site}, and this circuit names something else",
                    given=", ".join(wrong),
                    expected=", ".join(_renamed(part, self.site) for part in circuit.parts),
                )
            if circuit.subspace is not None:
                raise ShapeError(
                    f"{self.name} acts on channels, not on directions",
                    given=repr(circuit),
                    expected="a circuit with channels=, or without",
                )


def _renamed(site: Site, hook: str) -> str:
    layer = 0 if site.layer is None else site.layer
    return f"blocks.{layer}.{hook}" + ("" if site.position.everywhere else f"@{site.position}")
