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

MODEL = "fixtures/zoo/prose/seed0/step-02500"
PROMPTS = "fixtures/prompts/ioi.jsonl"
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


@pytest.fixture(scope="module")
def model():
    return mt.HookedMamba.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def groups(model):
    """One prompt of every template, grouped by length."""
    pairs = mt.PromptPairs.from_jsonl(PROMPTS)
    rows = [prompts[0] for prompts in pairs.by_template().values()]
    by_length = {}
    for row in rows:
        by_length.setdefault(len(model.to_tokens(row.clean)[0]), []).append(row)
    return [twins(model, rows) for _, rows in sorted(by_length.items())]


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


@pytest.fixture(scope="module")
def by_state(model, groups):
    """Run every prompt with the state of all layers patched after every position but the last."""
    return [
        (group, position, patched(model, group, f"blocks.*.state@{position}"))
        for group in groups
        for position in range(group.tokens.shape[1] - 1)
    ]


@pytest.mark.claim("the model answers with the name that was not repeated, and so does its twin")
def test_the_model_does_the_task(groups):
    """Without a difference to move, the identities below would be empty."""
    assert len(groups) > 1
    for group in groups:
        assert (group.clean > 1).all()
        assert (group.corrupted < -1).all()


@pytest.mark.claim("from the last changed token on, the state of all layers carries everything")
def test_the_state_moves_the_whole_answer(by_state):
    for group, position, values in by_state:
        whole = position >= group.last_change
        assert ((share(group, values)[whole] - 1).abs() < SHARE_TOLERANCE).all(), position


@pytest.mark.claim("before the first changed token, the state of all layers carries nothing")
def test_the_state_moves_nothing_before_the_change(by_state):
    for group, position, values in by_state:
        nothing = position < group.first_change
        assert torch.equal(values[nothing], group.clean[nothing]), position


@pytest.mark.claim("right after the changed token, hook_h of all layers does not carry everything")
def test_the_hidden_state_alone_is_no_cut(model, groups):
    """The convolution still sees the clean token through its window of d_conv-1 rows."""
    for group in groups:
        for position in sorted(set(group.last_change.tolist())):
            here = group.last_change == position
            moved = share(group, patched(model, group, f"blocks.*.hook_h@{position}"))
            assert (moved[here] < 0.9).all(), moved[here]
