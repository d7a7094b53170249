"""How is a sparse autoencoder trained on a site of a model?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mechtest.discovery.record import identity_of
from mechtest.discovery.sae.activations import ActivationStream, one_hook, sequences_of
from mechtest.discovery.sae.autoencoder import KINDS, SAE, Origin, SAEKind
from mechtest.discovery.sae.losses import Penalties
from mechtest.discovery.sae.trainer import Schedule, Trainer
from mechtest.errors import FitError, closest_names
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

__all__ = ["train_sae"]

POINTS = 50
"""Points of the log."""


def train_sae(
    model: HookedMamba,
    site: str,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs | Sequence[str],
    *,
    d_sae: int,
    kind: SAEKind = "topk",
    k: int = 8,
    l1: float = 0.05,
    l0: float = 0.01,
    bandwidth: float = 0.02,
    positions: str | int = "*",
    steps: int = 2000,
    batch: int = 256,
    lr: float = 2e-3,
    warmup: int | None = None,
    resample_dead: bool = True,
    dead_after: int | None = None,
    buffer: int = 2**16,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    progress: bool = True,
    seed: int = 0,
) -> SAE:
    """Train a sparse autoencoder on a site's activations.

    Activations are centred on their geometric median and scaled to mean square 1, which the
    finished weights undo: an `SAE` takes activations as they are. Directions keep length 1.

    Args:
        model: The model.
        site: One hook without position, for example `blocks.1.hook_resid_pre`.
        prompts: A collection (its discovery half is taken, clean and corrupted), or texts.
        d_sae: Number of features.
        kind: `topk`, `relu` or `jumprelu`.
        k: Features active at once (topk).
        l1: Price of a unit of activation (relu). A loss of 1 is that of saying nothing.
        l0: Price of an active feature (jumprelu).
        bandwidth: Width of the window in which a threshold feels its features (jumprelu).
        positions: `"*"` for every token but bos, or one position in the notation of sites.
        steps: Steps of Adam.
        batch: Rows a step.
        lr: Learning rate.
        warmup: Steps over which the penalty comes up; a tenth of all by default.
        resample_dead: Begin dead features anew where rows are badly explained (relu, jumprelu), or
            let them explain what the others leave (topk).
        dead_after: A feature is dead after so many steps without being active; a tenth of all by
            default.
        buffer: Rows that are shuffled together.
        checkpoint: File that training goes on from if it is there, and is written to.
        checkpoint_every: Steps between writing it.
        progress: Show a bar on stderr, where that is a terminal.
        seed: Of the first directions and the order of rows. One seed gives one result, whether it
            was interrupted or not.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        ShapeError: A site of several hooks or with a position.
        FitError: Settings out of range, activations that do not vary, or a loss that ran away.
        DiscoveryFileError: The checkpoint belongs to another training.

    Memory: 256 MB of activations at once, however many there are, plus four times the weights.
    Sources: Bricken et al. 2023; Gao et al. 2024; Rajamanoharan et al. 2024.
    """
    _require_in_range(kind, d_sae=d_sae, k=k, steps=steps, batch=batch, every=checkpoint_every)
    where = one_hook(model, site)
    sequences = sequences_of(model, prompts, str(where), str(positions))
    stream = ActivationStream(model, where, sequences, batch=batch, buffer=buffer, seed=seed)
    schedule = Schedule(
        steps=steps,
        lr=lr,
        warmup=max(1, steps // 10) if warmup is None else warmup,
        dead_after=max(1, steps // 10) if dead_after is None else dead_after,
        resample_dead=resample_dead,
        resample_every=max(1, steps // 5),
        log_every=max(1, steps // POINTS),
    )
    penalties = Penalties(kind, k, l1, l0, bandwidth)
    settings = {
        "kind": kind, "d_sae": d_sae, "k": k, "l1": l1, "l0": l0, "bandwidth": bandwidth,
        "positions": str(positions), "steps": steps, "batch": batch, "lr": lr,
        "warmup": schedule.warmup, "resample_dead": resample_dead,
        "dead_after": schedule.dead_after, "buffer": buffer, "seed": seed,
    }  # fmt: skip
    identity = identity_of(model)
    known = sequences.fingerprints.to_row()
    what = settings | {"site": str(where), "model": identity.weights or identity.name, "on": known}
    trainer = Trainer(stream.part(0), d_sae, penalties, schedule, seed)
    path = None if checkpoint is None else Path(checkpoint)
    place = (0, 0) if path is None or not path.exists() else trainer.resume(path, what)
    with tqdm(
        total=steps, initial=trainer.step, unit="step", disable=None if progress else True
    ) as bar:
        for part, offset, rows in stream.batches(*place):
            if trainer.step >= steps:
                break
            trainer.learn(rows)
            bar.update()
            if path is not None and (trainer.step % checkpoint_every == 0 or trainer.step == steps):
                trainer.save(path, what, (part, offset))
    origin = Origin(
        site=str(where),
        positions=str(positions),
        model=identity.name,
        settings=settings,
        fitted_on=sequences.fingerprints,
        log=tuple(trainer.log),
        dead=tuple(trainer.dead.nonzero().flatten().tolist()),
    )
    return SAE(kind, trainer.finished(), origin, k=k if kind == "topk" else None)


def _require_in_range(kind: str, *, k: int, d_sae: int, **counts: int) -> None:
    if kind not in KINDS:
        raise FitError(
            "there is no such kind of sparse autoencoder",
            given=repr(kind),
            closest=closest_names(str(kind), list(KINDS)),
            expected=", ".join(KINDS),
        )
    if kind == "topk" and not 0 < k <= d_sae:
        raise FitError("k features of d_sae are active", given=f"k={k}", expected=f"1 to {d_sae}")
    for name, value in {"d_sae": d_sae, **counts}.items():
        if isinstance(value, bool) or value < 1:
            raise FitError(f"{name} has to be a positive number", given=f"{name}={value}")
