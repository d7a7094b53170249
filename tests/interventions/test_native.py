"""Operators on layers find what was planted, go through every guard, and fit claims and sweeps."""

import math

import numpy as np
import pytest
import torch

from fixtures.compiled import FAMILIES, runner_on
from mechtest.assertions import check_necessary, check_not_necessary
from mechtest.errors import (
    MetricError,
    NothingChangedError,
    PositionError,
    ShapeError,
    SiteNotServedError,
    UnknownSiteError,
)
from mechtest.interventions import (
    KNOCKOUT_MODES,
    BlockPath,
    Circuit,
    CutCrossTalk,
    DropConvTap,
    EditDecay,
    FreezeDelta,
    FreezeGate,
    Knockout,
    Runner,
    Subspace,
    SweepResult,
    decay_channels,
    digest_of,
    knockout,
    retention_of_channels,
    sweep,
)
from mechtest.tasks import logit_difference
from tests.assertions.zoo import facts, prompts, prose
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model

SENDS = ("zero_attention", "zero_delta", "increase_delta")


def share_lost(runner, circuit, operator):
    """Share of the behaviour that an operator destroys; 0 where it changes nothing."""
    clean, corrupted = (
        logit_difference(runner.logits(run), runner.pairs).double()
        for run in ("clean", "corrupted")
    )
    try:
        run = runner.run(circuit, operator)
    except NothingChangedError:
        return 0.0
    after = logit_difference(run.logits, runner.pairs)
    return float((clean - after).mean() / (clean - corrupted).mean())


def planted(family, share, behaviour=None):
    compiled = FAMILIES[family].build(seed=0, share=share, templates=6, per_template=1, traps=False)
    behaviour = behaviour or compiled.rows("necessary")[0].behaviour
    return compiled.model, runner_on(compiled.model, compiled.prompts, behaviour)


# --- planted truth -------------------------------------------------------------------------------


def test_only_the_planted_tap_matters():
    """The colour two places back: tap -2, with the weights the two layers were given."""
    _, runner = planted("token_shift", 0.7)
    for layer, share in ((0, 0.7), (1, 0.3)):
        site = Circuit(f"blocks.{layer}.hook_conv@last")
        for tap in (0, -1, -2, -3):
            whole = share if tap == -2 else 0.0
            resampled = share_lost(runner, site, DropConvTap(tap, resample=True))
            assert resampled == pytest.approx(whole, abs=2e-3)
            # Without the colour there, the answer is lost and the foil not yet gained: half of it.
            assert share_lost(runner, site, DropConvTap(tap)) == pytest.approx(whole / 2, abs=2e-3)


@pytest.mark.parametrize("behaviour", ["first", "second"])
def test_only_the_path_from_the_slot_asked_for_matters(behaviour):
    """Both slots are stored in the same channels; the other one's path carries nothing."""
    _, runner = planted("marked_slots", 0.7, behaviour)
    for layer, share in ((0, 0.7), (1, 0.3)):
        site = Circuit(f"blocks.{layer}.hook_y@last")
        for role in ("first", "second", "decoy", "tail", "0"):
            whole = share / 2 if role == behaviour else 0.0
            assert share_lost(runner, site, BlockPath(role)) == pytest.approx(whole, abs=2e-3)


def test_an_edited_decay_moves_the_horizon_as_far_as_it_should():
    """What is left after d tokens is 2 ** (-factor d / half_life), near and far."""
    for behaviour, factors in (("near", (0, 0.5, 2)), ("far", (0.5,))):
        _, runner = planted("decay", 1.0, behaviour)
        site = Circuit("blocks.0.hook_A_bar")
        distance = (runner.pairs.positions("last") - runner.pairs.positions("value")).double()
        before = logit_difference(runner.logits("clean"), runner.pairs).double()
        for factor in factors:
            after = logit_difference(
                runner.run(site, EditDecay(factor=factor)).logits, runner.pairs
            ).double()
            predicted = 2.0 ** ((1 - factor) * distance / 4)
            assert torch.allclose(after / before, predicted, rtol=2e-3)
        # The half-life of the design, put in as a number, is what was there.
        again = runner.run(site, EditDecay(half_life=4.0)).logits
        after = logit_difference(again, runner.pairs).double()
        assert torch.allclose(after, before, rtol=2e-3)


# --- claims --------------------------------------------------------------------------------------

CLAIMS = [
    (FreezeGate(), True),
    (DropConvTap(-1, resample=True), True),
    (BlockPath("subject_first:"), True),
    (CutCrossTalk(), True),
    (Knockout("ignore_context"), True),
    (Knockout("ignore_layer"), True),
    (FreezeDelta("twin"), False),
    (EditDecay(factor=0.5), False),
]


@pytest.mark.parametrize(
    ("operator", "needed"), CLAIMS, ids=lambda value: getattr(value, "name", "")
)
def test_a_claim_is_checked_with_an_operator_and_matched_controls(operator, needed):
    """Layer 1 tells the city by its taps, its gate and what it carries, not by when it steps."""
    circuit = Circuit(f"blocks.1.{operator.site}")
    check = check_necessary if needed else check_not_necessary
    options = {"threshold": 0.1} if needed else {"threshold": 0.2}
    record = check(
        prose(),
        circuit,
        prompts(count=1, templates=12),
        intervention=operator,
        **options,
        **facts(),
    )
    assert record.verdict == "supported", record.reason
    assert record.settings["intervention"] == operator.name
    (evidence,) = record.evidence
    assert evidence.intervention == operator.name
    assert not needed or evidence.controls.drawn >= 12


def test_an_operator_is_one_ablation_among_others():
    """The first decides, the operator is measured beside it: at the same site, other things go."""
    record = check_necessary(
        prose(),
        Circuit("blocks.1.hook_y@last"),
        prompts(count=1, templates=12),
        threshold=0.1,
        ablations=("resample", BlockPath("0")),
        **facts(),
    )
    (other,) = record.evidence[0].ablations
    assert other.intervention == "block path from 0"
    assert other.agrees is False


def test_an_operator_away_from_its_hook_makes_a_claim_invalid():
    record = check_necessary(
        prose(), Circuit("blocks.1.hook_h@last"), prompts(count=1), intervention=CutCrossTalk()
    )
    assert record.verdict == "invalid"
    assert "hook_ssm_output@last" in record.reason


# --- guards --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model(0)
    return Runner(model, tiny_pairs(model, (4, 6, 5), differs=1))


@pytest.mark.parametrize(
    ("operator", "site"),
    [
        (EditDecay(factor=1), "blocks.0.hook_A_bar"),
        (BlockPath("last"), "blocks.0.hook_y@-2"),
        (DropConvTap(-3), "blocks.0.hook_conv@2"),
        (CutCrossTalk(), "blocks.0.hook_ssm_output@0"),
        (DropConvTap(0, resample=True), "blocks.0.hook_conv@0"),
        (Knockout("ignore_context"), "blocks.0.hook_y@0"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_changes_nothing_is_an_error(tiny, operator, site):
    """No rounding passes for a change: a decay that is the model's own changes no bit."""
    with pytest.raises(NothingChangedError, match=operator.name):
        tiny.run(Circuit(site), operator)


@pytest.mark.parametrize("engine", ["auto", "hooked"])
def test_operators_run_through_hooks(tiny, engine):
    runner = Runner(tiny.model, tiny.pairs, engine=engine)
    run = runner.run(Circuit("blocks.0.hook_delta"), FreezeDelta())
    assert torch.equal(run.changed, torch.tensor([True, True, True]))
    ordinary = runner.run(Circuit("blocks.0.hook_delta"), FreezeDelta("twin"))
    assert ordinary.forward_tokens == 2 * run.forward_tokens


def test_packed_rows_refuse_operators(tiny):
    runner = Runner(tiny.model, tiny.pairs, engine="packed")
    with pytest.raises(SiteNotServedError, match="freeze delta at the prompt's mean"):
        runner.run(Circuit("blocks.0.hook_delta"), FreezeDelta())


def test_batches_do_not_change_the_result(tiny):
    small = Runner(tiny.model, tiny.pairs, batch_size=2)
    for operator in (CutCrossTalk(), BlockPath("twin"), FreezeDelta("twin")):
        circuit = Circuit(f"blocks.0.{operator.site}", channels=[1, 2, 5])
        whole, parts = tiny.run(circuit, operator), small.run(circuit, operator)
        assert torch.allclose(whole.logits, parts.logits, atol=1e-4)
        assert torch.equal(whole.changed, parts.changed)


SUBSPACE = Subspace.spanned_by(torch.eye(16, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("circuit", "operator", "error", "text"),
    [
        (Circuit("blocks.0.hook_y"), FreezeDelta(), ShapeError, "hook_delta"),
        (Circuit("blocks.0.state@last"), CutCrossTalk(), ShapeError, "hook_ssm_output@last"),
        (Circuit("blocks.0.hook_y", subspace=SUBSPACE), BlockPath(0), ShapeError, "directions"),
        (Circuit("blocks.0.hook_conv"), DropConvTap(-4), ShapeError, "4 taps"),
        (Circuit("blocks.0.hook_y"), BlockPath("S2"), PositionError, "S2"),
        (Circuit("blocks.0.hook_y"), BlockPath(5), PositionError, "outside a prompt"),
        (Circuit("blocks.0.hook_y", channels=[16]), BlockPath(0), ShapeError, "no channel 16"),
        (Circuit("blocks.2.hook_y"), BlockPath(0), UnknownSiteError, "2 layers"),
        (Circuit("blocks.0.hook_delta"), FreezeDelta(means={}), MetricError, "no mean was fitted"),
    ],
    ids=["hook", "state", "subspace", "tap", "role", "position", "channel", "layer", "mean"],
)
def test_what_does_not_fit_says_so(tiny, circuit, operator, error, text):
    with pytest.raises(error, match=text):
        tiny.run(circuit, operator)


REFUSED = {
    "no edit of a decay": (EditDecay, {}, "one of them"),
    "two edits of a decay": (EditDecay, {"factor": 0.5, "half_life": 2}, "one of them"),
    "negative factor": (EditDecay, {"factor": -1}, "0 or more"),
    "factor NaN": (EditDecay, {"factor": math.nan}, "0 or more"),
    "half-life 0": (EditDecay, {"half_life": 0}, "above 0"),
    "tap ahead": (DropConvTap, {"tap": 1}, "one token back"),
    "delta of a run": (FreezeDelta, {"whose": "clean"}, "twin"),
    "gate of a run": (FreezeGate, {"whose": "clean"}, "twin"),
    "path from nowhere": (BlockPath, {}, "which positions send"),
    "mode in capitals": (Knockout, {"mode": "ZERO_DELTA", "sender": 0}, "zero_delta"),
    "no sender": (Knockout, {"mode": "zero_delta"}, "which positions send"),
    "a sender too many": (Knockout, {"mode": "ignore_ssm", "sender": 0}, "no sender"),
    "steps as they are": (
        Knockout, {"mode": "increase_delta", "sender": 0, "factor": 1}, "nothing changes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_mean_nothing_are_refused(name):
    operator, settings, text = REFUSED[name]
    with pytest.raises(ShapeError, match=text):
        operator(**settings)


ONES = torch.ones(2)


def test_operators_are_told_apart_by_name_and_digest():
    """Locks keep names, pools and journals digests: other settings are another intervention."""
    operators = [
        FreezeDelta(), FreezeDelta("twin"), FreezeDelta(means={"blocks.0.hook_delta": ONES}),
        FreezeGate(), FreezeGate("twin"), DropConvTap(-1), DropConvTap(-2),
        DropConvTap(-1, resample=True), EditDecay(factor=2), EditDecay(half_life=2),
        BlockPath(0), BlockPath("S2"), CutCrossTalk(), Knockout("increase_delta", 0),
        Knockout("increase_delta", 0, factor=3),
        *[Knockout(mode, 1 if mode in SENDS else None) for mode in KNOCKOUT_MODES],
    ]  # fmt: skip
    assert len({operator.name for operator in operators}) == len(operators)
    assert len({digest_of(operator) for operator in operators}) == len(operators)
    assert digest_of(BlockPath(0)) == digest_of(BlockPath("0"))


def test_rows_alone_are_refused(tiny):
    with pytest.raises(ShapeError, match="whole layers"):
        BlockPath(0).replacement(torch.zeros(1, 16), None, "blocks.0.hook_y", None)


# --- classes of channels, sweeps and profiles ----------------------------------------------------


def test_channels_are_classed_by_what_they_keep():
    model = prose()
    kept = retention_of_channels(model, -1)
    assert torch.allclose(kept, torch.exp(-torch.exp(model.blocks[1].A_log.double())).mean(1))
    fast, slow = (decay_channels(model, 1, kind) for kind in ("fast", "slow"))
    assert len(fast) == len(slow) == 43  # of 128
    assert kept[list(fast)].max() < kept[list(slow)].min()
    assert decay_channels(model, 1, "all") is None
    with pytest.raises(ShapeError, match="'fast' or 'slow'"):
        decay_channels(model, 1, "medium")
    with pytest.raises(UnknownSiteError, match="no layer 2"):
        decay_channels(model, 2, "fast")
    fresh = tiny_model(0)
    with torch.no_grad():
        fresh.blocks[0].A_log.fill_(0.5)
    with pytest.raises(ShapeError, match="decay alike"):
        decay_channels(fresh, 0, "slow")


def test_circuits_of_an_operator_say_layers_positions_and_channels():
    model = prose()
    (window,) = CutCrossTalk().circuits(model, positions="last")
    assert [str(site) for site in window.sites] == [
        "blocks.0.hook_ssm_output@last", "blocks.1.hook_ssm_output@last",
    ]  # fmt: skip
    slow = Knockout("ignore_ssm").circuits(model, layers=[0, -1], channels="slow")
    assert [str(one.sites[0]) for one in slow] == ["blocks.0.hook_y", "blocks.1.hook_y"]
    assert slow[1].channels == decay_channels(model, 1, "slow")
    with pytest.raises(ShapeError, match="no class of channels"):
        FreezeGate().circuits(model, channels="slwo")
    with pytest.raises(ShapeError, match="at least one site"):
        FreezeGate().circuits(model, layers=[])


def test_a_sweep_takes_an_operator(tiny):
    pairs = prompts(count=1, templates=3)
    found = sweep(
        prose(), "blocks.*.hook_ssm_output", pairs, positions=["subject_last", "last"],
        intervention=CutCrossTalk(), progress=False,
    )  # fmt: skip
    assert found.intervention == "cut cross-talk"
    assert found.engine["executor"] == "hooked"
    assert found.mean()[1, 1] > 0.9


def test_a_profile_has_a_row_a_knockout_and_a_column_a_window(tmp_path):
    """The city comes in beside the subject's last token, in layer 1, through slow channels."""
    pairs = prompts(count=1, templates=4)
    profile = knockout(
        prose(), pairs, mode=["zero_attention", "ignore_context"],
        sender=["subject_last", "subject_last:"], window=1, channels=["all", "fast", "slow"],
        progress=False,
    )  # fmt: skip
    assert profile.rows[2:4] == (
        "zero_attention, subject_last, slow",
        "zero_attention, subject_last:, all",
    )
    assert profile.row_name == "mode, sender, channels"
    assert profile.shape == (9, 2)  # modes without a sender have one row for all of them
    assert profile.columns == ("0", "1")
    effects = dict(zip(profile.rows, profile.mean()[:, 1], strict=True))
    assert abs(effects["zero_attention, subject_last, all"]) < 0.05
    assert effects["zero_attention, subject_last:, all"] > 0.15
    assert effects["ignore_context, -, slow"] > 0.1
    assert abs(effects["ignore_context, -, fast"]) < 0.05
    assert profile.top(1)[0].site == "blocks.1.hook_y@last"
    loaded = SweepResult.load(profile.save(tmp_path / "profile.json"))
    assert np.array_equal(loaded.values, profile.values)
    assert loaded.engine["operators"][0] == "knockout zero_attention from subject_last"


def test_a_cell_of_a_profile_is_one_run():
    """Both layers at once, and on its own."""
    pairs = prompts(count=1, templates=2).discovery
    operator = Knockout("ignore_ssm")
    profile = knockout(prose(), pairs, mode="ignore_ssm", window=2, progress=False)
    runner = Runner(prose(), pairs.encode(prose().tokenizer))
    alone = share_lost(runner, operator.circuits(prose(), positions="last"), operator)
    assert (profile.rows, profile.columns) == (("ignore_ssm",), ("0-1",))
    assert profile.mean()[0, 0] == pytest.approx(alone, abs=1e-5)
    assert profile.intervention == "knockout ignore_ssm"


def test_a_place_of_a_profile_that_changes_nothing_has_a_reason():
    profile = knockout(
        prose(), prompts(count=1, templates=2), sender="last", target="subject_last", window=2,
        progress=False,
    )  # fmt: skip
    assert profile.reasons == {(0, 0): "the intervention changes no activation here"}


def test_profiles_refuse_what_they_cannot_do():
    pairs = prompts(count=1, templates=2)
    with pytest.raises(ShapeError, match="window of 9 layers"):
        knockout(prose(), pairs, sender="subject_last", progress=False)
    with pytest.raises(ShapeError, match="kept for testing"):
        knockout(prose(), pairs.test, sender="subject_last", window=1, progress=False)
    with pytest.raises(ShapeError, match="which positions send"):
        knockout(prose(), pairs, window=1, progress=False)
