"""Random prompts with twins, and edits of every kind, for tiny random models."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mechtest.interventions import (
    Circuit,
    NoiseAblation,
    Patch,
    ResampleAblation,
    Steer,
    Subspace,
    ZeroAblation,
)
from mechtest.interventions.packed_pass import PackedPass
from mechtest.sites.table import HOOKS_BY_NAME
from mechtest.tasks import AnswerIds, EncodedPairs, Fingerprints
from tests.tiny import tiny_tokens

EDITS = ["patch", "resample", "zero", "noise", "steer", "subspace", "channels"]


def tiny_pairs(model, lengths, seed=0, *, differs=0):
    """Return random prompts padded on the left, with a twin that differs in one token.

    Args:
        model: For the vocabulary.
        lengths: Of the prompts.
        seed: Of the tokens.
        differs: Which token of each prompt differs; `twin` is its role.
    """
    n_pos = max(lengths)
    clean = tiny_tokens(model, len(lengths), n_pos, seed)
    first = n_pos - torch.tensor(lengths)
    mask = torch.arange(n_pos) >= first[:, None]
    clean = torch.where(mask, clean, 0)
    corrupted = clean.clone()
    rows = torch.arange(len(lengths))
    corrupted[rows, first + differs] = (clean[rows, first + differs] + 1) % model.cfg.d_vocab
    ids = tuple(f"prompt {row}" for row in rows.tolist())
    return EncodedPairs(
        clean_tokens=clean,
        corrupted_tokens=corrupted,
        attention_mask=mask,
        answers=AnswerIds.of([[1]] * len(ids), [[2]] * len(ids), ids=ids),
        roles=("last", "twin"),
        role_positions=torch.stack([torch.full_like(first, n_pos - 1), first + differs], 1),
        cluster=rows.numpy(),
        templates=ids,
        order=rows.numpy(),
        fingerprints=Fingerprints(),
        side="all",
    )


def place(model, hook, layer, position):
    """Return the site of a hook, whose layer only counts inside a block."""
    block = HOOKS_BY_NAME[hook].scope == "block"
    return f"blocks.{layer}.{hook}@{position}" if block else f"{hook}@{position}"


def edit(how, model, site, hook):
    """Return (circuit, intervention) of one kind of edit, which fits the hook."""
    shape = feature_shape(model, hook)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    plain = Circuit(site)
    if how == "subspace":
        return Circuit(site, subspace=Subspace.spanned_by(drawn.flatten(0, -2))), Patch()
    if how == "channels":
        return Circuit(site, channels=[0, 2]), Patch()
    kinds = {
        "patch": Patch(),
        "resample": ResampleAblation(),
        "zero": ZeroAblation(),
        "noise": NoiseAblation(0.3, seed=1),
        "steer": Steer(0.3 * drawn[..., 0]),
    }
    return plain, kinds[how]


def feature_shape(model, hook):
    """Return the shape of one activation of a hook."""
    cfg = model.cfg
    sizes = {"d_model": cfg.d_model, "d_inner": cfg.E, "d_state": cfg.N, "dt_rank": cfg.R,
             "2*d_inner": 2 * cfg.E, "dt_rank+2*d_state": cfg.R + 2 * cfg.N,
             "d_conv-1": cfg.d_conv - 1}  # fmt: skip
    axes = HOOKS_BY_NAME[hook].axes
    return [sizes[axis] for axis in axes if axis not in ("batch", "pos")]


@dataclass
class Passes:
    """Rows times layers of every packed pass, unedited ones apart."""

    unedited: list = field(default_factory=list)
    edited: list = field(default_factory=list)


@contextmanager
def packed_passes():
    """Yield what is counted while packed passes run."""
    passes, real = Passes(), PackedPass.run

    def run(self):
        found = real(self)
        (passes.edited if self.reader is None else passes.unedited).append(self.row_layers)
        return found

    PackedPass.run = run
    try:
        yield passes
    finally:
        PackedPass.run = real
