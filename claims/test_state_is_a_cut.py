"""The recurrent state of all layers is a complete cut through a Mamba; `hook_h` alone is not.

These are identities of the architecture, checked on a trained model: they hold for every prompt, so
there is nothing to estimate and no statistics here. The corrupted run's values are put into a clean
run right after position p, in all layers at once. What later tokens then compute is compared with
both runs. (After the last token nothing is left to compute, so p stops one token earlier.)
"""

import functools
from typing import NamedTuple

import pytest
import torch

import mechtest as mt

pytestmark = mt.family(
    "state-cut",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/ioi.jsonl",
    per_template=1,
)

SHARE_TOLERANCE = 1e-5
"""float32: two runs through different patches round differently in the last bits."""


class Twins(NamedTuple):
    """Prompts of one length: logit differences of both runs, and where the tokens differ."""

    tokens: torch.Tensor
    answers: torch.Tensor
    foils: torch.Tensor
    first_change: torch.Tensor
    last_change: torch.Tensor
    clean: torch.Tensor
    corrupted: torch.Tensor
    cache: mt.ActivationCache


@pytest.fixture
def groups(mamba, prompts):
    """One prompt of every template, grouped by length."""
    by_length = {}
    for row in prompts:
        by_length.setdefault(len(mamba.to_tokens(row.clean)[0]), []).append(row)
    found = [twins(mamba, rows) for _, rows in sorted(by_length.items())]
    if any((g.clean < 1).any() or (g.corrupted > -1).any() for g in found):
        raise mt.ClaimInvalid("without a difference to move, these identities would be empty")
    return found


@torch.no_grad()
def twins(model, rows):
    tokens, twin = (model.to_tokens([getattr(r, side) for r in rows]) for side in
                    ("clean", "corrupted"))  # fmt: skip
    answers, foils = (
        torch.tensor([model.to_single_token(getattr(row, side)[0]) for row in rows])
        for side in ("answer", "foil")
    )
    differs = (tokens != twin).long()
    logits, cache = model.run_with_cache(twin, names_filter=["blocks.*.state"])
    return Twins(
        tokens,
        answers,
        foils,
        first_change=differs.argmax(1),
        last_change=differs.shape[1] - 1 - differs.flip(1).argmax(1),
        clean=difference(model(tokens), answers, foils),
        corrupted=difference(logits, answers, foils),
        cache=cache,
    )


def difference(logits, answers, foils):
    """Return logit[answer] - logit[foil] at the last token."""
    row = torch.arange(len(logits))
    return logits[row, -1, answers] - logits[row, -1, foils]


@torch.no_grad()
def patched(model, group, site):
    """Return the logit differences of clean runs with `site` taken from the corrupted ones."""
    take = functools.partial(_from_cache, cache=group.cache)
    logits = model.run_with_hooks(group.tokens, fwd_hooks=[(site, take)])
    return difference(logits, group.answers, group.foils)


def _from_cache(_value, hook, cache):
    return cache[hook.name]


def share(group, values):
    """Return how much of the way from clean to corrupted was gone: 0 none, 1 all of it."""
    return (values - group.clean) / (group.corrupted - group.clean)


@pytest.fixture
def by_state(mamba, groups):
    """Run every prompt with the state of all layers patched after every position but the last."""
    return [
        (group, position, patched(mamba, group, f"blocks.*.state@{position}"))
        for group in groups
        for position in range(group.tokens.shape[1] - 1)
    ]


@mt.claim("From the last changed token on, the state of all layers carries everything", exact=True)
def test_the_state_moves_the_whole_answer(mamba, by_state):
    moved = [share(g, values)[p >= g.last_change] for g, p, values in by_state]
    mt.assert_identity(
        torch.cat(moved), 1.0, tolerance=SHARE_TOLERANCE, model=mamba, what="share moved by a cut"
    )


@mt.claim("Before the first changed token, the state of all layers carries nothing", exact=True)
def test_the_state_moves_nothing_before_the_change(mamba, by_state):
    off = [(values - g.clean)[p < g.first_change] for g, p, values in by_state]
    mt.assert_identity(
        torch.cat(off), 0.0, tolerance=1e-12, model=mamba, what="change of the answer's logits"
    )


@mt.claim(
    "False: right after the changed token, hook_h of all layers is a cut too",
    exact=True,
    expect="refuted",
)
def test_the_hidden_state_alone_is_no_cut(mamba, groups):
    """The convolution still sees the clean token through its window of d_conv-1 rows."""
    moved = []
    for group in groups:
        for position in sorted(set(group.last_change.tolist())):
            values = patched(mamba, group, f"blocks.*.hook_h@{position}")
            moved.append(share(group, values)[group.last_change == position])
    mt.assert_identity(
        torch.cat(moved), 1.0, tolerance=0.1, model=mamba, what="share moved by hook_h alone"
    )
