"""What is put in the place of an activation?

Each intervention is a frozen description. Where its new value comes from another run, `source` says
which one; the executor brings the values. All of them are restricted to the circuit's positions,
channels and subspace by the executor, which changes nothing else.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Int64

from mechtest.errors import MetricError, ShapeError

if TYPE_CHECKING:
    from mechtest.interventions.circuit import Circuit

Run = Literal["clean", "corrupted"]


@dataclass(frozen=True, eq=False)
class Places:
    """Where some rows stand.

    Attributes:
        prompt: Index of each row's prompt in the whole set.
        from_end: Its position, counted from the end of the prompt: 1 is the last token. Padding and
            the position a run starts at stand before, and change nothing. 0 where the hook has
            no positions.
    """

    prompt: Int64[torch.Tensor, " row"]
    from_end: Int64[torch.Tensor, " row"]


class Intervention(ABC):
    """What every intervention offers."""

    name: str
    on_rows: ClassVar[bool] = True
    """Whether what stands in a row's place depends on that row and the source run's alone."""

    def require_fits(self, circuits: Sequence[Circuit]) -> None:
        """Raise where this intervention cannot be made at some circuits; most can be anywhere.

        Raises:
            ShapeError: It cannot.
        """
        del circuits

    def source(self, base: Run) -> Run | None:
        """Return the run whose activations are needed, None if there is none.

        Args:
            base: The run that is intervened in.
        """
        del base
        return None

    @abstractmethod
    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return what stands in the place of `value`.

        Args:
            value: Activations, "row ...": one row for each prompt and position that is edited.
            reference: The source run's, shaped alike.
            site: Hook name without position, for interventions that know values by site.
            places: Which prompt and position each row is, so that randomness is keyed by them.
        """


@dataclass(frozen=True)
class Patch(Intervention):
    """Put in the activation of another run (interchange).

    Attributes:
        origin: `clean` or `corrupted`; None takes the twin of the run intervened in.

    Sources: Meng et al. 2022, section 2; Zhang & Nanda 2023, section 2.
    """

    origin: Run | None = None
    name: str = "patch"

    def source(self, base: Run) -> Run:
        """Return the run the values come from."""
        twin: Run = "corrupted" if base == "clean" else "clean"
        if self.origin == base:
            raise ShapeError(
                f"patching the {base} run with its own activations changes nothing",
                given=f"origin={self.origin!r} on the {base} run",
                expected=f"origin={twin!r}",
            )
        return twin

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the reference."""
        del value, site, places
        assert reference is not None
        return reference


@dataclass(frozen=True)
class ResampleAblation(Patch):
    """Remove what a site says by putting in what it says on the prompt's twin.

    The twin differs in the words that matter and in nothing else, so the activation stays on the
    model's own distribution, which a zero or a mean does not.

    Sources: Chan et al. 2022 (causal scrubbing); Zhang & Nanda 2023, section 3.
    """

    name: str = "resample"


@dataclass(frozen=True)
class ZeroAblation(Intervention):
    """Put in zeros. Off the model's distribution; a zero step size even freezes the memory."""

    name: str = "zero"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return zeros."""
        del reference, site, places
        return torch.zeros_like(value)


@dataclass(frozen=True, eq=False)
class MeanAblation(Intervention):
    """Put in the mean over other prompts; see `fit_means`.

    Attributes:
        means: Mean activation by hook name without position, one tensor without prompt axis.
    """

    means: Mapping[str, torch.Tensor]
    name: str = "mean"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the site's mean for every prompt."""
        del reference, places
        if site not in self.means:
            raise MetricError(
                f"no {self.name} value was fitted for {site}",
                given=f"values of {', '.join(self.means)}",
                next_step=f"fit_{'means' if self.name == 'mean' else 'optimal'}(runner, circuit) "
                "on the discovery prompts, with a circuit that has this site too",
            )
        return self.means[site].to(value).expand_as(value)


@dataclass(frozen=True, eq=False)
class OptimalAblation(MeanAblation):
    """Put in the constant with which the ablated model stays closest to the model; `fit_optimal`.

    Zeros, means and other prompts' activations may say something wrong beside saying nothing
    ("spoofing"), and then overstate what a site matters. Whatever a constant can repair, this one
    does: the effect that is left is what has to vary with the prompt.

    Attributes:
        means: The constant by hook name without position, one tensor without prompt axis.
        loss: Mean KL divergence from the untouched model that is left on the prompts fitted on, in
            nats.
        loss_of_mean: That of the mean, which the search started from.

    Sources: Li & Janson 2024, section 2 (optimal ablation).
    """

    name: str = "optimal"
    loss: float = 0.0
    loss_of_mean: float = 0.0


@dataclass(frozen=True)
class NoiseAblation(Intervention):
    """Add Gaussian noise.

    Attributes:
        std: Standard deviation of the noise, in the activation's own units.
        seed: Key; every prompt, site and position has its own stream, whatever the batch.

    Sources: Meng et al. 2022, section 2 (noise on the subject's embedding).
    """

    std: float
    seed: int = 0
    name: str = "noise"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the value plus noise."""
        del reference
        keys = zip(places.prompt.tolist(), places.from_end.tolist(), strict=True)
        noise = torch.stack(
            [self._keyed(value.shape[1:], f"{self.seed}|{site}|{row}|-{end}") for row, end in keys]
        )
        return value + self.std * noise.to(value)

    def _keyed(self, shape: torch.Size, key: str) -> torch.Tensor:
        # A number from the key alone: the same noise in any batch, order and process.
        digest = hashlib.blake2b(key.encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Steer(Intervention):
    """Add a direction.

    Attributes:
        direction: Shaped like one activation of the site (its feature axes).
        coefficient: Multiplies it.
    """

    direction: torch.Tensor
    coefficient: float = 1.0
    name: str = "steer"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the value plus the direction."""
        del reference, places
        features = value.shape[-self.direction.ndim :]
        if tuple(features) != tuple(self.direction.shape):
            raise ShapeError(
                f"the steering direction does not fit {site}",
                given=tuple(self.direction.shape),
                expected=f"{tuple(features)}",
            )
        return value + self.coefficient * self.direction.to(value)
