"""What share of the behaviour does a patched run show, between corrupted (0) and clean (1)?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechtest.errors import MetricError, NonFiniteError, ShapeError

__all__ = ["normalized_logit_difference"]

SHOWN = 5


def normalized_logit_difference(
    patched: Tensor,
    clean: Tensor,
    corrupted: Tensor,
    *,
    over: str = "prompt",
    smallest_gap: float = 1e-3,
    ids: Sequence[str] = (),
) -> Float[Tensor, " prompt"] | Float[Tensor, ""]:
    """Return (patched - corrupted) / (clean - corrupted).

    A single prompt whose gap is near zero can carry any average of ratios, so for anything that is
    tested use `over="mean"`, the ratio of means (over clusters: pass cluster means); the ratio of
    each prompt is for looking at.

    Args:
        patched: Metric (usually `logit_difference`) of the patched run, float "prompt".
        clean: The same metric on the clean prompts.
        corrupted: The same on the corrupted prompts.
        over: `"prompt"` gives one ratio a prompt, `"mean"` the ratio of means over prompts.
        smallest_gap: Smallest |clean - corrupted| that is divided by, in the metric's unit.
        ids: Names of the prompts, for messages.

    Returns:
        "prompt" ratios, or a scalar; float64 for float64 values.

    Raises:
        MetricError: A denominator (or, for `"mean"`, their mean) is smaller than `smallest_gap`;
            names prompts and values.
        NonFiniteError: NaN or infinity in one of the three; names the prompts.
        ShapeError: The three are not float vectors of one length.

    Sign: 1 is the clean run, 0 the corrupted one; outside [0, 1] is possible (overshoot, or a
        patch that hurts), and so is a negative gap (the model does not do the task there).
    Sources: Zhang & Nanda 2023, section 2.2; Wang et al. 2022, section 3; ratio of means as in
        docs/statistics.md.
    """
    named = {"patched": patched, "clean": clean, "corrupted": corrupted}
    _check(named, ids)
    moved, gap = patched - corrupted, clean - corrupted
    if over == "mean":
        moved, gap = moved.mean(), gap.mean()
    elif over != "prompt":
        raise MetricError("unknown way to normalise", given=over, expected="'prompt' or 'mean'")
    _refuse_small_gaps(gap, clean, corrupted, smallest_gap, ids)
    return moved / gap


def _refuse_small_gaps(
    gap: Tensor, clean: Tensor, corrupted: Tensor, smallest_gap: float, ids: Sequence[str]
) -> None:
    small = gap.abs() < smallest_gap
    if bool(small.any()):
        rows = small.reshape(-1).nonzero().flatten().tolist()
        if gap.ndim == 0:
            given = f"mean clean {clean.mean().item():.4g}, corrupted {corrupted.mean().item():.4g}"
        else:
            given = ", ".join(
                f"{_name(row, ids)}: clean {clean[row].item():.4g}, "
                f"corrupted {corrupted[row].item():.4g}"
                for row in rows[:SHOWN]
            ) + (", ..." if len(rows) > SHOWN else "")
        raise MetricError(
            "clean and corrupted runs hardly differ"
            + (" on average" if gap.ndim == 0 else f" on {len(rows)} of {len(gap)} prompts")
            + ": there is no behaviour to take a share of",
            given=given,
            expected=f"|clean - corrupted| of at least {smallest_gap:g}",
            next_step="check that the model does the task"
            + ("" if gap.ndim == 0 else ", drop these prompts on purpose, or use over='mean'"),
        )


def _check(named: dict[str, Tensor], ids: Sequence[str]) -> None:
    shapes = {values.shape for values in named.values()}
    floats = all(values.is_floating_point() for values in named.values())
    if len(shapes) != 1 or not floats or any(v.ndim != 1 or not len(v) for v in named.values()):
        raise ShapeError(
            "normalising needs three vectors of one length",
            given=", ".join(f"{name}: {v.dtype} {tuple(v.shape)}" for name, v in named.items()),
            expected='float "prompt" three times',
        )
    for name, values in named.items():
        rows = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if rows:
            raise NonFiniteError(
                f"{name} holds NaN or infinity for {len(rows)} of {len(values)} prompts",
                given=", ".join(f"{_name(r, ids)}: {values[r].item()}" for r in rows[:SHOWN]),
                expected="finite numbers",
            )


def _name(prompt: int, ids: Sequence[str]) -> str:
    return f"prompt {prompt} ({ids[prompt]!r})" if ids else f"prompt {prompt}"
