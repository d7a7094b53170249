"""Every operator is its formula: compared with a Mamba written down as sums over positions."""

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.errors import NothingChangedError
from mechtest.interventions import (
    BlockPath,
    Circuit,
    CutCrossTalk,
    DropConvTap,
    EditDecay,
    FreezeDelta,
    FreezeGate,
    Knockout,
    Runner,
    fit_means,
)
from tests.interventions.one_prompt import Layer, attention, last_logits, layer_of
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model

LENGTHS = (4, 6)


@dataclass
class At:
    """What the circuit and the operator name in one prompt, and what its twin has there.

    Attributes:
        here: Receivers, "pos d_inner".
        sender: "pos".
        twin: The layer in the twin's run.
    """

    here: torch.Tensor
    sender: torch.Tensor
    twin: Layer

    def put(self, new, old):
        """New values where the circuit says so, of a quantity "pos d_inner"."""
        return torch.where(self.here, new, old)


def mean(rows):
    return rows.mean(0, keepdim=True)


def on(wanted, new):
    """Return a change of one quantity."""
    return lambda what, value, layer: new(value, layer) if what == wanted else value


def of_tap(at, tap, new):
    """Return a change of what one tap adds."""

    def change(rows, layer):
        del layer
        rows = rows.clone()
        rows[tap] = at.put(new, rows[tap])
        return rows

    return on("rows", change)


def of_attention(at, new):
    """Return a change of the receivers' rows of the hidden attention."""
    return on("alpha", lambda old, layer: torch.where(at.here[:, None], new(old, layer), old))


def without_senders(at):
    return of_attention(at, lambda old, layer: torch.where(at.sender[:, None], 0.0, old))


def with_steps(at, factor):
    """Return the hidden attention of senders that step `factor` times as far."""

    def new(old, layer):
        del old
        delta = torch.where(at.sender[:, None], factor * layer.delta, layer.delta)
        return attention(layer, delta, delta[:, :, None] * layer.A)

    return of_attention(at, new)


def diagonal(alpha):
    return alpha * torch.eye(len(alpha), dtype=alpha.dtype)[:, :, None]


def cross_talk(at):
    """Return taps -1 and before, and the state carried in, from the twin."""

    def change(what, value, layer):
        if what == "rows":
            kept = [at.put(at.twin.rows[tap], value[tap]) for tap in range(1, len(value))]
            return torch.stack([value[0], *kept])
        if what != "y":
            return value
        carried = torch.stack([at.twin.state(i - 1) for i in range(len(value))])
        read = (layer.C[:, None] * torch.exp(layer.decay) * carried).sum(-1)
        return at.put(read + torch.einsum("iie,ie->ie", layer.alpha, layer.x), value)

    return change


def decays(at, new):
    return on("decay", lambda old, layer: torch.where(at.here[:, :, None], new(old), old))


OPERATORS = {
    "freeze delta": (
        lambda sender: FreezeDelta(),
        lambda at: on("delta", lambda old, layer: at.put(mean(old), old)),
    ),
    "freeze delta at the twin's": (
        lambda sender: FreezeDelta("twin"),
        lambda at: on("delta", lambda old, layer: at.put(mean(at.twin.delta), old)),
    ),
    "freeze gate": (
        lambda sender: FreezeGate(),
        lambda at: on("gate", lambda old, layer: at.put(mean(old), old)),
    ),
    "freeze gate at the twin's": (
        lambda sender: FreezeGate("twin"),
        lambda at: on("gate", lambda old, layer: at.put(mean(at.twin.gate), old)),
    ),
    "drop tap 0": (
        lambda sender: DropConvTap(0),
        lambda at: of_tap(at, 0, torch.zeros_like(at.twin.x)),
    ),
    "drop tap -1": (
        lambda sender: DropConvTap(-1),
        lambda at: of_tap(at, 1, torch.zeros_like(at.twin.x)),
    ),
    "drop tap -3": (
        lambda sender: DropConvTap(-3),
        lambda at: of_tap(at, 3, torch.zeros_like(at.twin.x)),
    ),
    "resample tap -1": (
        lambda sender: DropConvTap(-1, resample=True),
        lambda at: of_tap(at, 1, at.twin.rows[1]),
    ),
    "decay by a factor": (
        lambda sender: EditDecay(factor=0.3),
        lambda at: decays(at, lambda old: 0.3 * old),
    ),
    "no decay": (
        lambda sender: EditDecay(half_life=math.inf),
        lambda at: decays(at, torch.zeros_like),
    ),
    "half-life": (
        lambda sender: EditDecay(half_life=2),
        lambda at: decays(at, lambda old: torch.full_like(old, math.log(0.5) / 2)),
    ),
    "block path": (BlockPath, without_senders),
    "cut cross-talk": (lambda sender: CutCrossTalk(), cross_talk),
    "zero_attention": (lambda sender: Knockout("zero_attention", sender), without_senders),
    "zero_delta": (
        lambda sender: Knockout("zero_delta", sender),
        lambda at: with_steps(at, 0.0),
    ),
    "increase_delta": (
        lambda sender: Knockout("increase_delta", sender, factor=3),
        lambda at: with_steps(at, 3.0),
    ),
    "ignore_context": (
        lambda sender: Knockout("ignore_context"),
        lambda at: of_attention(at, lambda old, layer: diagonal(old)),
    ),
    "only_context": (
        lambda sender: Knockout("only_context"),
        lambda at: of_attention(at, lambda old, layer: old - diagonal(old)),
    ),
    "ignore_ssm": (
        lambda sender: Knockout("ignore_ssm"),
        lambda at: on("y", lambda old, layer: at.put(0.0, old)),
    ),
    "ignore_layer": (
        lambda sender: Knockout("ignore_layer"),
        lambda at: on("out", lambda old, layer: at.put(0.0, old)),
    ),
}


@cache
def model_of(seed):
    return tiny_model(seed, dtype="float64")


def positions_named(text, count):
    found = torch.zeros(count, dtype=torch.bool)
    if ":" in text:
        found[slice(*(int(end) if end else None for end in text.split(":")))] = True
    else:
        found[-1 if text == "last" else int(text)] = True
    return found


def expected(model, pairs, layer, change, at, base="clean"):
    """Return the logits of every prompt alone, without padding."""
    tokens, twins = pairs.clean_tokens, pairs.corrupted_tokens
    if base == "corrupted":
        tokens, twins = twins, tokens
    found = []
    with torch.no_grad():
        for own, other, real in zip(tokens, twins, pairs.attention_mask, strict=True):
            receivers, channels, senders = at
            count = int(real.sum())
            here = positions_named(receivers, count)[:, None] & channels
            given = At(
                here,
                positions_named(senders, count),
                layer_of(model, other[real], layer),
            )
            found.append(last_logits(model, own[real], layer, change(given)))
    return torch.stack(found)


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=3, deadline=None, database=None)
@given(data=st.data())
def test_operators_are_their_formulas(name, data):
    """Random weights, prompts, padding, layers, positions and channels; both runs."""
    build, change = OPERATORS[name]
    model = model_of(data.draw(st.integers(0, 2)))
    pairs = tiny_pairs(model, LENGTHS, data.draw(st.integers(0, 9)), differs=1)
    layer = data.draw(st.integers(0, 1))
    receivers = data.draw(st.sampled_from([":", "last", "1:3", "-2"]))
    senders = data.draw(st.sampled_from([":", "0", "1", "-2", "0:2"]))
    chosen = data.draw(st.sampled_from([None, (0, 3, 5), (7,)]))
    base = data.draw(st.sampled_from(["clean", "corrupted"]))
    mask = torch.ones(model.cfg.E, dtype=torch.bool)
    if chosen is not None:
        mask = torch.zeros_like(mask)
        mask[list(chosen)] = True
    operator = build(senders)
    (circuit,) = operator.circuits(
        model, layers=layer, positions=receivers, channels="all" if chosen is None else chosen
    )
    runner = Runner(model, pairs)
    by_hand = expected(model, pairs, layer, change, (receivers, mask, senders), base)
    try:
        run = runner.run(circuit, operator, base)
    except NothingChangedError:  # a sender behind every receiver, a tap before the first token
        assert torch.allclose(runner.logits(base), by_hand, atol=1e-9)
        return
    assert torch.allclose(run.logits, by_hand, atol=1e-9, rtol=1e-9)
    assert torch.allclose(run.base, runner.logits(base), atol=1e-9)
    assert torch.equal(run.moved & ~run.changed, torch.zeros_like(run.moved))


def test_a_fitted_mean_is_put_in_as_it_is():
    """At every position the value of `fit_means`, in each layer its own."""
    model = model_of(0)
    pairs = tiny_pairs(model, LENGTHS, differs=1)
    runner = Runner(model, pairs)
    circuit = Circuit("blocks.1.hook_delta")
    means = fit_means(runner, circuit).means
    run = runner.run(circuit, FreezeDelta(means=means))
    value = means["blocks.1.hook_delta"]
    change = on("delta", lambda old, layer: value.expand_as(old))
    every = torch.ones(model.cfg.E, dtype=torch.bool)
    by_hand = expected(model, pairs, 1, lambda at: change, (":", every, "0"))
    assert torch.allclose(run.logits, by_hand, atol=1e-9)


def test_two_sites_of_a_layer_are_one_edit():
    """Decays edited at two positions multiply; they do not add up."""
    model = model_of(1)
    pairs = tiny_pairs(model, LENGTHS, differs=0)
    operator = EditDecay(factor=0)
    apart = [Circuit("blocks.0.hook_A_bar@-2"), Circuit("blocks.0.hook_A_bar@-1")]
    together = Runner(model, pairs).run(apart, operator).logits
    one = Runner(model, pairs).run(Circuit("blocks.0.hook_A_bar@-2:"), operator).logits
    assert torch.equal(together, one)


def test_layers_are_edited_in_one_pass():
    """A window is a change of both layers, the second on what the first has changed."""
    model = model_of(2)
    pairs = tiny_pairs(model, LENGTHS, differs=0)
    operator = Knockout("ignore_layer")
    run = Runner(model, pairs).run(operator.circuits(model), operator)
    resid = model.embedding.weight[pairs.clean_tokens[:, -1]]
    normed = resid / torch.sqrt(resid.pow(2).mean(-1, keepdim=True) + model.cfg.norm_eps)
    by_hand = (normed * model.norm.weight) @ model.lm_head.weight.T
    assert torch.allclose(run.logits, by_hand.detach(), atol=1e-9)
