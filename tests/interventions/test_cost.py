"""What a pass is said to cost is what a count by hand, and the pass itself, come to."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.interventions import Circuit, NoiseAblation, Runner
from mechtest.interventions.cost import Cost
from tests.interventions.tiny_pairs import Passes, packed_passes, place, tiny_pairs
from tests.tiny import tiny_model

NOISE = NoiseAblation(0.1)
D, E, N, R, W = 8, 16, 4, 2, 4


def runner_of(n_layer, lengths=(5, 5, 3), **options):
    model = tiny_model(n_layer=n_layer, dt_rank=R)
    return Runner(model, tiny_pairs(model, list(lengths)), engine="packed", **options)


def variant(runner, *sites):
    return runner.variant([Circuit(*sites)], NOISE)


@pytest.mark.parametrize(
    ("hook", "projected", "convolved"),
    [("hook_resid_pre", 1, 1), ("hook_conv", 0, 1), ("hook_h", 0, 0)],
)
def test_one_layer_by_hand(hook, projected, convolved):
    """The stage of entry decides which products are paid for; a gate and an end each job."""
    runner = runner_of(1)
    jobs, rows, read = 3, 3 * 2, 7  # three prompts, from their second last token on
    expected = (
        2 * rows * D * E * projected  # the convolution's input
        + 2 * jobs * D * E  # the gate, at the last position
        + 2 * rows * E * (W + R + 2 * N + R) * convolved  # convolution, x_proj, dt_proj
        + 6 * rows * E * N  # the scan
        + 2 * jobs * E * D  # out_proj
        + 2 * jobs * D * read  # logits
    )
    cost = runner.cost([variant(runner, f"blocks.0.{hook}@-2")], read=read)
    assert cost.flops == expected
    assert cost.tokens == rows
    assert cost.passes == 1
    assert cost.bytes > 0


def test_a_layer_before_the_last_is_paid_in_full():
    runner = runner_of(2)
    both = runner.cost([variant(runner, "blocks.0.hook_resid_pre@-2")], read=0)
    last = runner.cost([variant(runner, "blocks.1.hook_resid_pre@-2")], read=0)
    whole = 6 * (4 * D * E + 2 * E * (W + 2 * R + 2 * N) + 6 * E * N + 2 * E * D)
    assert both.flops - last.flops == whole
    assert (both.tokens, last.tokens) == (6.0, 3.0), "half of the layers count half"


def test_costs_add_up():
    total = Cost(1.0, 2.0, 3, 4) + Cost(10.0, 20.0, 30, 40)
    assert total == Cost(11.0, 22.0, 30, 44)
    assert str(Cost(2e9, 1500.0, 3 * 2**20, 2)) == (
        "2.0 GFLOP, 1,500 tokens through the model in 2 passes, up to 3 MiB"
    )


@settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    lengths=st.lists(st.integers(3, 7), min_size=1, max_size=4),
    sites=st.lists(
        st.tuples(
            st.sampled_from(["hook_resid_pre", "hook_conv", "hook_h", "hook_y", "hook_embed"]),
            st.integers(0, 2),
            st.sampled_from(["last", "-2", "-3:", "twin"]),
        ),
        min_size=1,
        max_size=4,
    ),
    memory=st.sampled_from([2**14, 2**17, 2**29]),
)
def test_tokens_and_passes_are_those_of_the_executor(lengths, sites, memory):
    runner = runner_of(3, lengths, memory=memory)
    variants = [variant(runner, place(runner.model, *site)) for site in sites]
    with packed_passes() as passes:
        cost = runner.cost(variants)
        assert passes == Passes(), "nothing ran"
        runner.sweep_logits(variants, "clean")
    each = runner.work(variants)
    assert each == [runner.cost([one]).flops for one in variants], "one alone, without a plan"
    assert sum(each) == pytest.approx(cost.flops, rel=1e-12)
    assert sum(passes.edited) == round(cost.tokens * 3)
    assert len(passes.edited) == cost.passes
    assert passes.unedited


def test_hooks_cost_a_whole_pass_each():
    runner = Runner(runner_of(2).model, runner_of(2).pairs, engine="hooked", batch_size=2)
    weights = sum(part.numel() for part in runner.model.parameters())
    cost = runner.cost([variant(runner, "blocks.1.hook_y@last")] * 3)
    assert cost.tokens == 3 * 15
    assert cost.flops == 3 * 2 * weights * 15
    assert cost.passes == 3 * 2
    assert runner.work([variant(runner, "blocks.1.hook_y@last")] * 3) == [cost.flops / 3] * 3
