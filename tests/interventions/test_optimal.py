"""The constants of an optimal ablation, against a search by hand and a bound nothing can beat."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from mechtest.errors import MetricError, ShapeError
from mechtest.interventions import (
    Circuit,
    MeanAblation,
    OptimalAblation,
    Runner,
    digest_of,
    fit_means,
    fit_optimal,
)
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model

LENGTHS = [6, 5, 7, 4, 6, 7]


@pytest.fixture(scope="module")
def runner():
    model = tiny_model()
    return Runner(model, tiny_pairs(model, LENGTHS))


def divergence(runner, circuit, ablation):
    """Return the mean KL divergence from the untouched model, by another formula."""
    p = runner.logits("clean").double().softmax(-1).numpy()
    q = runner.run(circuit, ablation).logits.double().softmax(-1).numpy()
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


@pytest.mark.parametrize(
    "circuit",
    [
        Circuit("blocks.0.state@-2"),
        Circuit("blocks.1.hook_out_proj"),
        Circuit("blocks.0.hook_y@last", channels=[0, 2, 5]),
        Circuit("blocks.1.hook_h@last", "blocks.0.hook_h@last"),
    ],
    ids=["state", "all positions", "channels", "two hooks"],
)
def test_it_is_closer_to_the_model_than_the_mean(runner, circuit):
    found = fit_optimal(runner, circuit, steps=12)
    assert isinstance(found, OptimalAblation)
    mean = fit_means(runner, circuit)
    assert found.loss_of_mean == pytest.approx(divergence(runner, circuit, mean), rel=2e-2)
    assert found.loss == pytest.approx(divergence(runner, circuit, found), rel=2e-2, abs=1e-7)
    assert found.loss < 0.99 * found.loss_of_mean
    assert set(found.means) == set(mean.means)


def test_one_channel_is_what_trying_every_value_gives(runner):
    site, channel = "blocks.1.hook_out_proj", 3
    circuit = Circuit(f"{site}@last", channels=[channel])
    found = fit_optimal(runner, circuit)
    constant = fit_means(runner, circuit).means[site]

    def loss(value):
        tried = constant.clone()
        tried[channel] = value
        return divergence(runner, circuit, MeanAblation({site: tried}))

    best = float(found.means[site][channel])
    centre, width = float(constant[channel]), 6 * abs(best - float(constant[channel])) + 1e-3
    grid = np.linspace(centre - width, centre + width, 61)
    losses = [loss(value) for value in grid]
    assert found.loss <= min(losses) + 1e-7
    assert abs(best - grid[int(np.argmin(losses))]) <= 2 * (grid[1] - grid[0])


def test_before_the_unembedding_it_is_what_scipy_finds(runner):
    """There logits are linear in the constant, and the loss is convex: one best value."""
    found = fit_optimal(runner, Circuit("hook_norm@last"), steps=200)
    clean = runner.logits("clean").double().softmax(-1).numpy()
    unembed = runner.model.embedding.weight.detach().double().numpy()
    entropy = (clean * np.log(clean)).sum(1).mean()

    def loss(constant):
        logits = unembed @ constant
        return entropy - float(clean.mean(0) @ (logits - logsumexp(logits)))

    best = minimize(loss, np.zeros(unembed.shape[1]), method="BFGS")
    assert found.loss == pytest.approx(best.fun, rel=1e-4)
    (constant,) = found.means.values()
    assert loss(constant.double().numpy()) == pytest.approx(found.loss, rel=1e-3)
    bound = entropy - float(clean.mean(0) @ np.log(clean.mean(0)))  # of any one distribution
    assert bound < found.loss < found.loss_of_mean


def test_the_same_constants_come_out_again_and_in_other_batches(runner):
    circuit = Circuit("blocks.1.hook_out_proj@last")
    one = fit_optimal(runner, circuit)
    again = fit_optimal(runner, circuit)
    assert digest_of(one) == digest_of(again)
    assert digest_of(one) != digest_of(MeanAblation(one.means))
    batches = fit_optimal(Runner(runner.model, runner.pairs, batch_size=2), circuit)
    assert batches.loss == pytest.approx(one.loss, rel=1e-2)


def test_what_cannot_be_fitted_is_refused(runner):
    circuit = Circuit("blocks.1.hook_out_proj@last")
    with pytest.raises(ShapeError, match="takes a step"):
        fit_optimal(runner, circuit, steps=0)
    with pytest.raises(MetricError, match="no optimal value was fitted"):
        runner.run(Circuit("blocks.0.hook_out_proj@last"), fit_optimal(runner, circuit, steps=1))
    for parameter in runner.model.parameters():
        assert parameter.grad is None  # nothing is left behind in the model
    assert torch.is_grad_enabled()
