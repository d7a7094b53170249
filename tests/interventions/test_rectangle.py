"""Packed rows give what hooks give, however they are cut into batches."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.errors import NothingChangedError, SiteNotServedError
from mechtest.interventions import (
    Circuit,
    NoiseAblation,
    Patch,
    ResampleAblation,
    Runner,
    ZeroAblation,
)
from mechtest.interventions.unedited_runs import bytes_of
from mechtest.models.packed_block import FEWEST_ROWS, PACKED_HOOKS
from tests.interventions.tiny_pairs import edit, packed_passes, place, tiny_pairs
from tests.tiny import tiny_model

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
PLACES = ["last", "-3", "-3:"]
HOW = ["patch", "zero", "noise", "steer", "subspace", "channels"]


def runners(model, pairs, **options):
    return Runner(model, pairs, engine="hooked"), Runner(model, pairs, engine="packed", **options)


def difference(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


# --- against hooks -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hook", sorted(PACKED_HOOKS))
def test_every_hook_place_and_edit_against_hooks(hook, dtype):
    """In both layers and both runs; the same prompts are changed."""
    model = tiny_model(dtype=dtype, dt_rank=3)
    pairs = tiny_pairs(model, [5, 7, 4])
    hooked, packed = runners(model, pairs)
    for number, how in enumerate(HOW):
        base = "corrupted" if number % 2 else "clean"
        variants = []
        for at, position in enumerate(PLACES):
            site = place(model, hook, (number + at) % 2, position)
            circuit, intervention = edit(how, model, site, hook)
            variants.append(hooked.variant([circuit], intervention))
        theirs, their_flags = hooked.sweep_logits(variants, base)
        for at, variant in enumerate(variants):  # a noise or a direction has an object each
            ours, our_flags = packed.sweep_logits([variant], base)
            where = f"{how} of {variant.edits[0][0].name}"
            assert difference(ours[0], theirs[at]) <= TOLERANCE[dtype], where
            assert torch.equal(our_flags[0], their_flags[at]), where


@pytest.mark.parametrize("how", HOW)
def test_what_changed_and_what_moved_are_those_of_hooks(how):
    """Prompts differ at their first token: some places are before anything differs."""
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [5, 7, 4], differs=2)
    hooked, packed = runners(model, pairs)
    unchanged = 0
    for hook in ("hook_h", "hook_in_proj", "hook_resid_post"):
        for position in ("-4", "-2", "last", "-4:-3"):
            circuit, intervention = edit(how, model, f"blocks.0.{hook}@{position}", hook)
            try:
                theirs = hooked.run(circuit, intervention)
            except NothingChangedError:
                unchanged += 3
                with pytest.raises(NothingChangedError):
                    packed.run(circuit, intervention)
                continue
            ours = packed.run(circuit, intervention)
            unchanged += int((~ours.changed).sum())
            assert torch.equal(ours.changed, theirs.changed)
            assert torch.equal(ours.moved, theirs.moved)
            assert difference(ours.base, theirs.base) <= 1e-10
            assert difference(ours.logits, theirs.logits) <= 1e-10
    assert (unchanged > 0) == (how in ("patch", "subspace", "channels"))


def test_two_circuits_in_one_first_state_both_count():
    """Their channels are disjoint: the second must not undo the first."""
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [9, 7, 8])
    hooked, packed = runners(model, pairs)
    for site in ("blocks.1.hook_h@-3", "blocks.0.state@last", "blocks.0.hook_h@-3:"):
        parts = [Circuit(site, channels=range(7)), Circuit(site, channels=range(7, 16))]
        whole = packed.run(Circuit(site), Patch()).logits
        assert difference(packed.run(parts, Patch()).logits, whole) <= 1e-10
        assert difference(hooked.run(parts, Patch()).logits, whole) <= 1e-10
        one = packed.run(parts[0], Patch()).logits
        assert difference(one, whole) > 1e-4, "the parts differ"


@settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 99),
    lengths=st.lists(st.integers(3, 8), min_size=1, max_size=4),
    hooks=st.lists(
        st.tuples(
            st.sampled_from(sorted(PACKED_HOOKS)),
            st.integers(0, 2),
            st.sampled_from(["last", "-2", "-3", "-3:", "-3:-1", "twin", ""]),
        ),
        min_size=1,
        max_size=4,
    ),
    how=st.sampled_from([ZeroAblation(), NoiseAblation(0.3), ResampleAblation()]),
    base=st.sampled_from(["clean", "corrupted"]),
    memory=st.sampled_from([1, 2**13, 2**15, 2**30]),
)
def test_any_circuit_in_three_layers(seed, lengths, hooks, how, base, memory):
    model = tiny_model(seed=seed, dtype="float64", n_layer=3)
    pairs = tiny_pairs(model, lengths, seed, differs=1)
    names = [place(model, hook, layer, at).rstrip("@") for hook, layer, at in hooks]
    hooked, packed = runners(model, pairs, memory=memory)
    variants = [hooked.variant([Circuit(*names)], how)]
    variants += [hooked.variant([Circuit(name)], how) for name in names]
    theirs, their_flags = hooked.sweep_logits(variants, base)
    ours, our_flags = packed.sweep_logits(variants, base)
    assert difference(ours, theirs) <= 1e-10
    assert torch.equal(our_flags, their_flags)


# --- batches -----------------------------------------------------------------------------------


def many(runner):
    """Return variants that enter at every layer and stage."""
    sites = [
        f"blocks.{layer}.{hook}@{at}"
        for layer in (0, 1)
        for hook in ("hook_resid_pre", "hook_conv", "hook_h", "hook_y", "state")
        for at in ("last", "-2", "-4", "-4:-2")
    ]
    return [runner.variant([Circuit(site)], ResampleAblation()) for site in sites]


def test_the_memory_is_no_part_of_the_result():
    model = tiny_model(d_model=16)
    pairs = tiny_pairs(model, [8, 8, 8, 6])
    want, flags, passes = None, None, set()
    for memory in (2**14, 2**16, 2**18, 2**29):
        runner = Runner(model, pairs, engine="packed", memory=memory)
        logits, changed = runner.sweep_logits(many(runner)[::3], "clean")
        passes.add(runner.forward_passes)
        want, flags = (logits, changed) if want is None else (want, flags)
        assert difference(logits, want) <= 1e-6
        assert torch.equal(changed, flags)
    assert len(passes) >= 3, "the budgets cut differently"


def test_batches_of_enough_rows_agree_to_the_last_bit():
    """Groups of any size, as long as each has FEWEST_ROWS rows: no row sees its neighbours."""
    model = tiny_model(d_model=16)
    pairs = tiny_pairs(model, [8] * FEWEST_ROWS)
    runner = Runner(model, pairs, engine="packed")
    variants = many(runner)
    together, _ = runner.sweep_logits(variants, "clean")
    for number in range(0, len(variants), 5):
        alone, _ = runner.sweep_logits(variants[number : number + 1], "clean")
        assert torch.equal(alone[0], together[number]), variants[number].edits[0][1].name


def test_several_at_once_are_each_alone():
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [8, 5, 7])
    runner = Runner(model, pairs, engine="packed")
    variants = many(runner)
    together, flags = runner.sweep_logits(variants, "corrupted")
    for number, variant in enumerate(variants):
        fresh = Runner(model, pairs, engine="packed")
        alone, flag = fresh.sweep_logits([variant], "corrupted")
        assert difference(together[number], alone[0]) <= 1e-12
        assert torch.equal(flags[number], flag[0])
    order = list(reversed(range(len(variants))))
    shuffled, _ = runner.sweep_logits([variants[i] for i in order], "corrupted")
    assert difference(shuffled, together[order]) <= 1e-12


def test_columns_are_a_part_of_the_whole_vocabulary():
    model = tiny_model(dtype="float64")
    runner = Runner(model, tiny_pairs(model, [8, 5]), engine="packed")
    variants, columns = many(runner), torch.tensor([3, 1, 20])
    whole, _ = runner.sweep_logits(variants, "clean")
    some, _ = runner.sweep_logits(variants, "clean", columns=columns)
    assert difference(some, whole[..., columns]) <= 1e-12


# --- unedited runs -----------------------------------------------------------------------------


def test_unedited_runs_are_kept():
    """One clean and one corrupted run serve a whole list, and the next one after it."""
    model = tiny_model()
    runner = Runner(model, tiny_pairs(model, [8, 5, 7]), engine="packed")
    variants = many(runner)
    with packed_passes() as passes:
        runner.sweep_logits(variants, "clean")
        runner.sweep_logits(variants, "clean")
        runner.sweep_logits(variants[:3], "clean")
    assert len(passes.edited) == 3
    assert len(passes.unedited) == 1, "both in one pass"


def test_a_kept_run_that_lacks_something_is_run_again():
    """Each needs another layer, position or hook; what was kept before stays."""
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [8, 5, 7])
    hooked = Runner(model, pairs, engine="hooked")
    zero, patch = ZeroAblation(), Patch()
    edits = [
        ("blocks.0.hook_in_proj@last", zero),
        ("blocks.1.hook_resid_pre@last", zero),  # another layer
        ("blocks.1.hook_resid_pre@-2", zero),  # another position
        ("blocks.1.hook_resid_pre@-2", patch),
        ("blocks.1.hook_y@-2", patch),  # another hook
        ("blocks.1.hook_y@-3", patch),
    ]
    for first, second in zip(edits, edits[1:] + edits[:1], strict=True):
        packed = Runner(model, pairs, engine="packed")
        with packed_passes() as passes:
            for site, intervention in (first, second, first):
                variants = [hooked.variant([Circuit(site)], intervention)]
                ours, _ = packed.sweep_logits(variants, "clean")
                theirs, _ = hooked.sweep_logits(variants, "clean")
                assert difference(ours, theirs) <= 1e-10, site
        assert len(passes.unedited) <= 4, "the third finds everything"


def test_kept_runs_stay_within_the_memory():
    """Runs over other prompts make room; one of them is always there."""
    model = tiny_model(d_model=16)
    pairs = tiny_pairs(model, [8] * 24)
    runner = Runner(model, pairs, engine="packed", memory=2**18)
    with packed_passes() as passes:
        runner.sweep_logits(many(runner)[::2], "clean")
    held = runner._packed._bases
    assert held
    assert bytes_of(list(held.values())) <= 2**18
    assert 2 * len(passes.unedited) > len(held), "some were let go"


# --- who does it -------------------------------------------------------------------------------


def test_packed_refuses_what_has_no_rows():
    model = tiny_model()
    runner = Runner(model, tiny_pairs(model, [5, 5]), engine="packed")
    with pytest.raises(SiteNotServedError, match="hook_A") as caught:
        runner.run(Circuit("blocks.0.hook_A"), ZeroAblation())
    assert caught.value.code == "MT102"
    assert "leave engine at 'auto'" in str(caught.value)
    model.add_hook("blocks.0.hook_y", lambda value, hook: value)
    with pytest.raises(SiteNotServedError, match="hooks of its own"):
        runner.run(Circuit("blocks.0.hook_h@last"), ZeroAblation())


def test_auto_does_by_hooks_what_has_no_rows():
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [5, 5])
    auto, hooked = Runner(model, pairs), Runner(model, pairs, engine="hooked")
    circuit = Circuit("blocks.0.hook_A", "blocks.1.hook_y@last")
    with packed_passes() as passes:
        ours = auto.run(circuit, ZeroAblation())
        assert torch.equal(ours.logits, hooked.run(circuit, ZeroAblation()).logits)
        assert not passes.edited
        auto.run(Circuit("blocks.1.hook_y@last"), ZeroAblation())
        assert passes.edited


def test_a_hook_on_the_model_counts():
    """Packed rows would go past it: hooks do the work then."""
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [5, 6])
    circuit = Circuit("blocks.0.hook_h@last")
    plain = Runner(model, pairs).run(circuit, ResampleAblation())
    called = []

    def doubled(value, hook):
        called.append(hook.name)
        return 2 * value

    model.add_hook("blocks.1.hook_out_proj", doubled)
    runner = Runner(model, pairs)
    with packed_passes() as passes:
        ours = runner.run(circuit, ResampleAblation())
    assert called
    assert not passes.edited
    assert difference(ours.logits, plain.logits) > 1e-3
    model.reset_hooks()
    assert difference(Runner(model, pairs).run(circuit, ResampleAblation()).logits,
                      plain.logits) <= 1e-12  # fmt: skip
