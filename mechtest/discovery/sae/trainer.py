"""How does a sparse autoencoder learn, step by step, and how is it interrupted without a trace?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensor_bytes

from mechtest.discovery.sae.autoencoder import SAEPoint
from mechtest.discovery.sae.losses import Penalties, SAELoss, sae_loss
from mechtest.errors import DiscoveryFileError, FitError
from mechtest.interventions.sweep_file import write_whole
from mechtest.stats import derived_seed

__all__ = ["Schedule", "Trainer", "geometric_median"]

FIRST_THRESHOLD = 0.03
RESAMPLED = 0.2
"""Encoder norm of a feature that is begun anew, as a share of the others' mean."""


@dataclass(frozen=True)
class Schedule:
    """What happens when.

    Attributes:
        steps: All steps.
        lr: Learning rate; it comes up over the first 5 % and goes down over the last 20 %.
        warmup: Steps over which the penalty comes up.
        dead_after: A feature is dead after so many steps without being active.
        resample_dead: Whether dead features are begun anew (relu, jumprelu), or are given what the
            living ones leave (topk).
        resample_every: Steps between beginning anew, up to three quarters of the way.
        log_every: Steps between points of the log.
    """

    steps: int
    lr: float
    warmup: int
    dead_after: int
    resample_dead: bool
    resample_every: int
    log_every: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        up = min(1.0, (step + 1) / max(1.0, 0.05 * self.steps))
        down = min(1.0, (self.steps - step) / max(1.0, 0.2 * self.steps))
        return self.lr * up * down

    def resamples(self, step: int) -> bool:
        """Whether dead features are begun anew after a step."""
        return self.resample_dead and step % self.resample_every == 0 and step <= 0.75 * self.steps


class Trainer:
    """The weights on their way, in units in which activations have mean square 1.

    Args:
        rows: Some activations: their centre and spread are the units.
        d_sae: Number of features.
        penalties: What keeps features few.
        schedule: What happens when.
        seed: Of the first directions, and of those begun anew.
    """

    def __init__(
        self, rows: Float[torch.Tensor, "row d_in"], d_sae: int, penalties: Penalties,
        schedule: Schedule, seed: int,
    ) -> None:  # fmt: skip
        self.penalties, self.schedule, self.seed = penalties, schedule, seed
        self.centre = geometric_median(rows)
        spread = (rows - self.centre).square().sum(1).mean().sqrt()
        if not bool(spread > 0):
            raise FitError(
                "activations that are all the same have no features",
                given=f"{len(rows)} rows of {rows.shape[1]} coordinates",
                next_step="another position, or more prompts",
            )
        self.unit = spread
        generator = torch.Generator().manual_seed(derived_seed(seed, "sparse autoencoder", "start"))
        first = torch.randn(d_sae, rows.shape[1], generator=generator).to(rows)
        first = first / first.norm(dim=1, keepdim=True)
        self.weights = {
            "W_enc": first.T.clone().contiguous(),
            "b_enc": rows.new_zeros(d_sae),
            "W_dec": first.clone(),
            "b_dec": rows.new_zeros(rows.shape[1]),
        }
        if penalties.kind == "jumprelu":
            start = torch.full((d_sae,), FIRST_THRESHOLD).log()
            self.weights["log_threshold"] = start.to(rows)
        for value in self.weights.values():
            value.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=schedule.lr, betas=(0.9, 0.999))
        self.silent = torch.zeros(d_sae, dtype=torch.int64, device=rows.device)
        self.step = 0
        self.log: list[SAEPoint] = []

    @property
    def dead(self) -> torch.Tensor:
        """Features that have not been active for a while."""
        return self.silent >= self.schedule.dead_after

    @torch.enable_grad()
    def learn(self, rows: Float[torch.Tensor, "row d_in"]) -> None:
        """Take one step.

        Raises:
            FitError: The loss is no number any more.
        """
        batch = (rows - self.centre) / self.unit
        found = sae_loss(
            self.weights,
            batch,
            self.penalties,
            warmth=min(1.0, (self.step + 1) / max(1, self.schedule.warmup)),
            dead=self.dead if self.schedule.resample_dead else torch.zeros_like(self.dead),
        )
        if not bool(found.loss.isfinite()):
            raise FitError(
                "training ran away: the loss is no finite number",
                given=f"step {self.step}",
                next_step=f"a smaller lr than {self.schedule.lr:g}",
            )
        self.optimizer.param_groups[0]["lr"] = self.schedule.rate(self.step)
        self.optimizer.zero_grad()
        found.loss.backward()
        self._without_growth()
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            directions = self.weights["W_dec"]
            directions /= directions.norm(dim=1, keepdim=True)
            active = (found.features > 0).any(0)
            self.silent = torch.where(active, 0, self.silent + 1)
            self._note(found, batch)
            if self.penalties.kind != "topk" and self.schedule.resamples(self.step):
                self._begin_anew(found, batch)

    def finished(self) -> dict[str, torch.Tensor]:
        """Return the weights of an `SAE`, in the activations' own units."""
        own = {name: value.detach().clone() for name, value in self.weights.items()}
        own["b_dec"] = own["b_dec"] * self.unit + self.centre
        own["b_enc"] = own["b_enc"] * self.unit
        if "log_threshold" in own:
            own["threshold"] = own.pop("log_threshold").exp() * self.unit
        return own

    def _without_growth(self) -> None:
        """Take out of the gradient what would only lengthen directions (Bricken et al. 2023)."""
        directions = self.weights["W_dec"]
        assert directions.grad is not None
        along = (directions.grad * directions.detach()).sum(1, keepdim=True)
        directions.grad -= along * directions.detach()

    def _note(self, found: SAELoss, batch: torch.Tensor) -> None:
        every = self.schedule.log_every
        if self.step % every and self.step != self.schedule.steps:
            return
        spread = (batch - batch.mean(0)).square().sum()
        error = (found.error - found.error.mean(0)).square().sum()
        self.log.append(
            SAEPoint(
                step=self.step,
                loss=float(found.loss),
                explained_variance=float(1 - error / spread) if bool(spread > 0) else 0.0,
                l0=float((found.features > 0).sum(1).float().mean()),
                dead=float(self.dead.float().mean()),
            )
        )

    def _begin_anew(self, found: SAELoss, batch: torch.Tensor) -> None:
        """Point dead features at rows that are badly explained, and forget their momentum.

        Sources: Bricken et al. 2023, appendix (neuron resampling).
        """
        dead = self.dead.nonzero().flatten()
        chances = found.error.square().sum(1).square().double().cpu()
        if not len(dead) or not bool(chances.sum() > 0):
            return
        key = derived_seed(self.seed, "sparse autoencoder", "anew", self.step)
        generator = torch.Generator().manual_seed(key)
        drawn = torch.multinomial(chances, len(dead), replacement=True, generator=generator)
        wanted = batch[drawn.to(batch.device)] - self.weights["b_dec"]
        wanted = wanted / wanted.norm(dim=1, keepdim=True).clamp_min(1e-12)
        alive = (~self.dead).nonzero().flatten()
        norms = self.weights["W_enc"][:, alive].norm(dim=0)
        size = RESAMPLED * (float(norms.mean()) if len(alive) else 1.0)
        self.weights["W_dec"][dead] = wanted
        self.weights["W_enc"][:, dead] = size * wanted.T
        self.weights["b_enc"][dead] = 0
        self.silent[dead] = 0
        for name, axis in (("W_dec", 0), ("W_enc", 1), ("b_enc", 0), ("log_threshold", 0)):
            if name in self.weights:
                state = self.optimizer.state[self.weights[name]]
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment].index_fill_(axis, dead, 0)
        if "log_threshold" in self.weights:
            self.weights["log_threshold"][dead] = float(torch.tensor(FIRST_THRESHOLD).log())

    # --- checkpoints -----------------------------------------------------------------------------

    def save(self, path: Path, what: Mapping[str, Any], place: tuple[int, int]) -> None:
        """Write everything that going on needs.

        Args:
            path: The file.
            what: Which training this is.
            place: Where the stream of activations stands.
        """
        tensors = {name: value.detach() for name, value in self.weights.items()}
        for name, value in self.weights.items():
            state = self.optimizer.state[value]
            tensors |= {f"{name}|{key}": state[key] for key in ("exp_avg", "exp_avg_sq")}
        tensors |= {"silent": self.silent, "centre": self.centre, "unit": self.unit.reshape(1)}
        head = {
            "training": _digest(what), "step": self.step, "place": list(place),
            "log": [asdict(point) for point in self.log],
        }  # fmt: skip
        whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_whole(path, tensor_bytes(whole, metadata={"state": json.dumps(head)}))

    @torch.no_grad()
    def resume(self, path: Path, what: Mapping[str, Any]) -> tuple[int, int]:
        """Go on from a checkpoint, and return where the stream of activations stood.

        Raises:
            DiscoveryFileError: It cannot be read, or belongs to another training.
        """
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})["state"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DiscoveryFileError(
                f"{path} cannot be gone on from: {error!r}",
                expected="a checkpoint that train_sae wrote",
            ) from error
        if head["training"] != _digest(what):
            raise DiscoveryFileError(
                f"{path} belongs to another training",
                given="other settings, prompts, or another model",
                expected="the same arguments as when it was written",
                next_step="another checkpoint file, or remove this one",
            )
        for name, value in self.weights.items():
            value.copy_(found[name])
            moments = {key: found[f"{name}|{key}"].to(value) for key in ("exp_avg", "exp_avg_sq")}
            steps = torch.tensor(float(head["step"]))
            self.optimizer.state[value] = {"step": steps, **moments}
        self.silent = found["silent"].to(self.silent.device)
        self.centre = found["centre"].to(self.centre)
        self.unit = found["unit"][0].to(self.unit)
        self.step = int(head["step"])
        self.log = [SAEPoint(**point) for point in head["log"]]
        part, offset = head["place"]
        return int(part), int(offset)


def geometric_median(
    rows: Float[torch.Tensor, "row d_in"], rounds: int = 50
) -> Float[torch.Tensor, " d_in"]:
    """Return the point with the smallest mean distance to the rows.

    Few rows far out pull a mean after them, and not this. By Weiszfeld's iteration from the mean.
    """
    point = rows.mean(0)
    for _ in range(rounds):
        distance = (rows - point).norm(dim=1).clamp_min(1e-12 + 1e-6 * rows.abs().max())
        shares = 1 / distance
        moved = (rows * shares[:, None]).sum(0) / shares.sum()
        if bool((moved - point).norm() <= 1e-6 * (1e-12 + moved.norm())):
            return moved
        point = moved
    return point


def _digest(what: Mapping[str, Any]) -> str:
    text = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
