"""A sweep's numbers are those of one run a place, whatever interrupts it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.errors import (
    MetricError,
    NothingChangedError,
    PositionError,
    ShapeError,
    SiteNotServedError,
    SweepFileError,
    UnknownSiteError,
)
from mechtest.interventions import (
    Circuit,
    NoiseAblation,
    Patch,
    ResampleAblation,
    Runner,
    SweepPlan,
    SweepResult,
    ZeroAblation,
    sweep,
    sweeping,
)
from mechtest.interventions.sweep_journal import SweepJournal, read_sweep_journal
from mechtest.running_claim import RunningClaim, running
from mechtest.tasks import kl_divergence, logit_difference, metric_by_name
from tests.assertions.zoo import prompts, prose
from tests.interventions.tiny_pairs import packed_passes, tiny_pairs
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype="float64", dt_rank=3)


@pytest.fixture(scope="module")
def pairs(model):
    return tiny_pairs(model, [6, 6, 6], differs=1)


def by_hand(model, pairs, result, intervention, base, metric=logit_difference, channels=None):
    """Return the effects of one hooked run a place; NaN where nothing changes."""
    runner = Runner(model, pairs, engine="hooked")

    def read(logits):
        if metric is kl_divergence:
            return -metric(logits, pairs, reference=runner.logits("clean")).double().numpy()
        return metric(logits, pairs).double().numpy()

    clean, corrupted = read(runner.logits("clean")), read(runner.logits("corrupted"))
    gap = np.mean([(clean - corrupted)[pairs.cluster == c].mean() for c in set(pairs.cluster)])
    found = np.full(result.values.shape, np.nan)
    for row, sites in enumerate(result.sites):
        for column, site in enumerate(sites):
            if not site:
                continue
            circuit = Circuit(site, channels=channels and channels[row, column])
            try:
                after = read(runner.run(circuit, intervention, base).logits)
            except (NothingChangedError, PositionError):
                continue
            found[row, column] = (clean - after if base == "clean" else after - corrupted) / gap
    return found


# --- values ------------------------------------------------------------------------------------

WHAT = {
    "resample": ResampleAblation(),
    "patch": Patch(),
    "zero": ZeroAblation(),
    "noise": NoiseAblation(0.4, seed=2),
}


@pytest.mark.parametrize("base", ["clean", "corrupted"])
@pytest.mark.parametrize("how", WHAT)
def test_a_cell_is_one_run(model, pairs, how, base):
    """Sites of every stage and of the embedding, at every position."""
    sites = ["blocks.*.hook_h", "blocks.*.state", "hook_embed", "blocks.1.hook_delta"]
    result = sweep(model, sites, pairs, intervention=WHAT[how], base=base)
    assert result.rows == ("blocks.0.hook_h", "blocks.1.hook_h", "blocks.0.state",
                           "blocks.1.state", "hook_embed", "blocks.1.hook_delta")  # fmt: skip
    assert result.shape == (6, 6)
    want = by_hand(model, pairs, result, WHAT[how], base)
    assert np.array_equal(np.isnan(result.values), np.isnan(want))
    assert np.nanmax(np.abs(result.values - want)) <= 1e-9
    assert result.engine["executor"] == "packed"
    assert result.base == base
    assert result.effect_name.endswith("lost" if base == "clean" else "restored")


def test_what_is_done_by_default(model, pairs):
    clean = sweep(model, "blocks.*.hook_y", pairs)
    assert clean.intervention == "resample"
    restored = sweep(model, "blocks.*.hook_y", pairs, base="corrupted")
    assert (restored.intervention, restored.base) == ("patch", "corrupted")
    want = by_hand(model, pairs, restored, Patch("clean"), "corrupted")
    assert np.nanmax(np.abs(restored.values - want)) <= 1e-9


def test_a_place_before_anything_differs_has_a_reason(model, pairs):
    """Twins differ at their second token; the state before it is the same in both."""
    result = sweep(model, "blocks.*.hook_h", pairs)
    assert result.rows == ("layer 0", "layer 1")
    assert bool(np.isnan(result.values[:, 0]).all())
    assert not np.isnan(result.values[:, 1:]).any()
    assert result.reasons == {(row, 0): sweeping.UNCHANGED for row in (0, 1)}


@pytest.mark.parametrize("metric", ["probability_mass", "kl_divergence", "log_probability"])
def test_metrics_of_the_whole_vocabulary(model, pairs, metric):
    result = sweep(model, "blocks.1.hook_y", pairs, positions=["last", -2], metric=metric)
    want = by_hand(model, pairs, result, ResampleAblation(), "clean", metric_by_name(metric))
    assert np.abs(result.values - want).max() <= 1e-9
    assert result.metric == metric


def test_padded_prompts_count_from_the_end(model):
    pairs = tiny_pairs(model, [6, 4, 5], differs=1)
    result = sweep(model, ["blocks.0.hook_h", "blocks.1.hook_y"], pairs)
    assert result.columns == ("-6", "-5", "-4", "-3", "-2", "-1")
    want = by_hand(model, pairs, result, ResampleAblation(), "clean")
    assert np.array_equal(np.isnan(result.values), np.isnan(want))
    assert np.nanmax(np.abs(result.values - want)) <= 1e-9
    for column in (0, 1):  # not every prompt is that long
        assert "outside a prompt" in result.reasons[0, column]
    with pytest.raises(PositionError, match="outside a prompt"):
        sweep(model, "blocks.0.hook_h", pairs, positions=[-6])


def test_named_positions_and_ranges(model, pairs):
    result = sweep(model, "blocks.*.hook_in_proj", pairs, positions=["twin", "last", -3, "twin:"])
    assert result.columns == ("twin", "last", "-3", "twin:")
    assert result.column_name == "position"
    assert result.sites[1] == tuple(
        f"blocks.1.hook_in_proj@{at}" for at in ("twin", "last", "-3", "twin:")
    )
    want = by_hand(model, pairs, result, ResampleAblation(), "clean")
    assert np.array_equal(np.isnan(result.values), np.isnan(want))
    assert np.nanmax(np.abs(result.values - want)) <= 1e-9
    one = sweep(model, "blocks.*.hook_in_proj", pairs, positions="last")
    assert np.allclose(one.values[:, 0], result.values[:, 1], atol=1e-9, equal_nan=True)


def test_groups_of_channels(model, pairs):
    """16 channels inside a block, 8 of the residual stream: the shorter row says so."""
    sites = ["blocks.0.hook_h", "blocks.1.hook_resid_pre", "blocks.0.state"]
    result = sweep(model, sites, pairs, positions="last", channels=6)
    assert result.columns == ("0-5", "6-11", "12-15")
    assert result.column_name == "channels"
    groups = [range(6), range(6, 12), range(12, 16)]
    within = {(row, at): group for row in (0, 2) for at, group in enumerate(groups)}
    within |= {(1, 0): range(6), (1, 1): range(6, 8)}
    want = by_hand(model, pairs, result, ResampleAblation(), "clean", channels=within)
    assert np.array_equal(np.isnan(result.values), np.isnan(want))
    assert np.nanmax(np.abs(result.values - want)) <= 1e-9
    assert result.reasons == {(1, 2): "blocks.1.hook_resid_pre has 8 channels"}
    assert result.sites[1][2] == ""
    singles = sweep(model, sites[:1], pairs, positions="last", channels=1, dry_run=True)
    assert singles.table.columns == tuple(map(str, range(16)))


def test_hooks_do_what_has_no_rows(model, pairs):
    result = sweep(model, "blocks.*.hook_A_bar", pairs, positions=["last", "twin"])
    assert result.engine["executor"] == "hooked"
    want = by_hand(model, pairs, result, ResampleAblation(), "clean")
    assert np.nanmax(np.abs(result.values - want)) <= 1e-9
    with pytest.raises(SiteNotServedError, match="hook_A_bar"):
        sweep(model, "blocks.*.hook_A_bar", pairs, positions="last", engine="packed")


def test_the_zoo_and_its_tokens():
    model = prose()
    some = prompts("fact_city", count=1, templates=3)
    result = sweep(model, "blocks.*.state", some, positions=["subject_last", "last"])
    pairs = some.discovery.encode(model.tokenizer)
    want = by_hand(model, pairs, result, ResampleAblation(), "clean")
    assert np.array_equal(np.isnan(result.values), np.isnan(want))
    assert np.nanmax(np.abs(result.values - want)) <= 1e-3
    assert result.prompt_ids == pairs.ids
    assert result.templates == tuple(pairs.templates[index] for index in pairs.cluster)
    assert result.model.name.endswith("prose/seed0/step-02500")


def test_one_prompt_has_its_tokens_as_columns():
    model = prose()
    pair = prompts("fact_city", count=1).rows[0]
    result = sweep(model, "blocks.*.hook_resid_pre", pair)
    texts = model.to_str_tokens(pair.clean)
    assert len(result.columns) == len(texts)
    for column, text in zip(result.columns, texts, strict=True):
        assert text.strip() in column
    assert result.prompt_ids == (pair.id,)
    strongest = result.top(1)[0]
    assert abs(strongest.effect) > 0.3


# --- what is refused ---------------------------------------------------------------------------


def test_prompts_kept_for_testing_are_refused(model):
    some = prompts("fact_city", count=1)
    for kept in (some.test, some.test.encode(prose().tokenizer)):
        with pytest.raises(ShapeError, match="kept for testing") as caught:
            sweep(prose(), "blocks.*.hook_h", kept)
        assert caught.value.code == "MT403"


@pytest.mark.parametrize(
    ("sites", "options", "error", "text"),
    [
        ("blocks.*.hook_h@last", {}, ShapeError, "given by `positions`"),
        ("blocks.7.hook_h", {}, UnknownSiteError, "2 layers"),
        ("blocks.0.hook_hh", {}, UnknownSiteError, "hook_h"),
        ([], {}, ShapeError, "at least one site"),
        ("blocks.0.hook_h", {"positions": []}, ShapeError, "at least one position"),
        ("blocks.0.hook_h", {"positions": "S2"}, PositionError, "S2"),
        ("blocks.0.hook_h", {"positions": 6}, PositionError, "outside a prompt"),
        ("blocks.0.hook_h", {"channels": 4}, ShapeError, "at one position"),
        ("blocks.0.hook_h", {"positions": "last", "channels": 0}, ShapeError, "one channel"),
        ("blocks.0.hook_h", {"metric": "logit_diff"}, MetricError, "logit_difference"),
        ("blocks.0.hook_h", {"base": "corrupted", "intervention": Patch("corrupted")},
         ShapeError, "its own activations"),
    ],
    ids=["position in the name", "layer", "hook", "no site", "no position", "role", "index",
         "channels everywhere", "no channels", "metric", "itself"],
)  # fmt: skip
def test_a_sweep_that_cannot_be_says_so(model, pairs, sites, options, error, text):
    with pytest.raises(error, match=text):
        sweep(model, sites, pairs, **options)


def test_without_a_behaviour_there_are_no_shares(model):
    pairs = tiny_pairs(model, [5, 5])
    same = type(pairs)(**{**vars(pairs), "corrupted_tokens": pairs.clean_tokens})
    with pytest.raises(MetricError, match="score alike"):
        sweep(model, "blocks.0.hook_h", same)


# --- plan --------------------------------------------------------------------------------------


def test_inside_a_claim_it_is_the_claims_engine_and_counts_for_it(model, pairs):
    claim = RunningClaim(engine="hooked")
    with running(claim):
        found = sweep(model, "blocks.0.hook_h", pairs, positions="last")
        assert found.engine["executor"] == "hooked"
        assert claim.engines == "hooked"
        before = claim.forward_tokens
        assert before > 0
        asked = sweep(model, "blocks.0.hook_h", pairs, positions="last", engine="packed")
    assert asked.engine["executor"] == "packed"
    assert claim.forward_tokens > before


def test_a_dry_run_runs_nothing(model, pairs, monkeypatch):
    def forward(*args, **options):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(type(model), "forward", forward)
    monkeypatch.setattr(type(model), "run_with_state", forward)
    with packed_passes() as passes:
        plan = sweep(model, "blocks.*.hook_h", pairs, dry_run=True)
    assert not passes.edited
    assert not passes.unedited
    assert isinstance(plan, SweepPlan)
    assert str(plan).startswith("2 x 6 places, 3 prompts, 1 chunks: 0.0 GFLOP, ")


@settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    lengths=st.lists(st.integers(4, 7), min_size=1, max_size=4),
    sites=st.lists(
        st.sampled_from(["hook_h", "hook_conv", "hook_resid_pre", "state", "hook_out_proj"]),
        min_size=1, max_size=3, unique=True,
    ),
    positions=st.sampled_from(["*", "last", ["twin", -2]]),
    memory=st.sampled_from([2**15, 2**29]),
    flops=st.sampled_from([1.0, 1e5, 1e11]),
)  # fmt: skip
def test_the_plan_predicts_the_tokens(model, lengths, sites, positions, memory, flops):
    pairs = tiny_pairs(model, lengths, differs=1)
    names = [f"blocks.*.{site}" for site in sites]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "CHUNK_FLOPS", flops)
        plan = sweep(model, names, pairs, positions=positions, memory=memory, dry_run=True)
        with packed_passes() as passes:
            sweep(model, names, pairs, positions=positions, memory=memory)
    assert sum(passes.edited) == round(plan.cost.tokens * model.cfg.n_layer)
    assert len(passes.edited) == plan.cost.passes
    assert plan.chunks == 1 if flops == 1e11 else 1 <= plan.chunks <= len(plan.table.circuits)


def test_chunks_are_no_part_of_the_result(model, pairs, monkeypatch):
    """One place at a time, or all of them."""
    monkeypatch.setattr(sweeping, "CHUNK_FLOPS", 1.0)
    plan = sweep(model, "blocks.*.hook_conv", pairs, dry_run=True)
    one_by_one = sweep(model, "blocks.*.hook_conv", pairs)
    assert plan.chunks == 12
    monkeypatch.undo()
    assert sweep(model, "blocks.*.hook_conv", pairs, dry_run=True).chunks == 1
    together = sweep(model, "blocks.*.hook_conv", pairs)
    assert np.allclose(one_by_one.values, together.values, atol=1e-10, equal_nan=True)
    assert one_by_one.reasons == together.reasons


# --- journals ----------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from mechtest.interventions import sweep, sweeping
from mechtest.interventions.sweep_journal import SweepJournal
from tests.interventions.test_sweeping import interrupted_case
sweeping.CHUNK_FLOPS = float(sys.argv[2])
real, written = SweepJournal.write, []
def write(self, cells):
    real(self, cells)
    written.append(len(cells))
    if len(written) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
SweepJournal.write = write
interrupted_case(sys.argv[1])
"""


def interrupted_case(journal=None):
    """Sweep hooks of several kinds, whose unedited runs keep different things."""
    model = tiny_model(n_layer=3)
    pairs = tiny_pairs(model, [6, 5, 6], differs=1)
    sites = ["blocks.*.hook_h", "blocks.*.hook_conv", "blocks.2.hook_skip", "blocks.1.hook_y"]
    return sweep(model, sites, pairs, journal=journal, progress=False)


@pytest.mark.parametrize("kill_after", [1, 4])
def test_a_killed_sweep_goes_on_to_the_last_bit(tmp_path, monkeypatch, kill_after):
    flops = 4e4
    monkeypatch.setattr(sweeping, "CHUNK_FLOPS", flops)
    path = tmp_path / "journal"
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(flops), str(kill_after)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == -signal.SIGKILL, found.stderr
    before = read_sweep_journal(path).cells
    whole = interrupted_case()
    computed = []
    real = sweeping._computed
    monkeypatch.setattr(
        sweeping,
        "_computed",
        lambda effects, chunk: computed.extend(p for p, _ in chunk) or real(effects, chunk),
    )
    resumed = interrupted_case(path)
    assert 0 < len(before) < len(computed) + len(before)
    assert not set(computed) & set(before), "nothing is computed twice"
    assert len(computed) + len(before) == np.prod(whole.shape) - sum(
        "outside" in reason for reason in whole.reasons.values()
    )
    assert resumed.values.tobytes() == whole.values.tobytes()
    assert resumed.reasons == whole.reasons
    computed.clear()
    again = interrupted_case(path)
    assert not computed
    assert again.values.tobytes() == whole.values.tobytes()


def test_a_finished_journal_runs_no_place(model, pairs, tmp_path):
    first = sweep(model, "blocks.*.hook_h", pairs, journal=tmp_path / "new" / "journal")
    with packed_passes() as passes:
        second = sweep(model, "blocks.*.hook_h", pairs, journal=tmp_path / "new" / "journal")
    assert not passes.edited
    assert second.values.tobytes() == first.values.tobytes()
    assert second.reasons == first.reasons


OTHER = {
    "intervention": {"intervention": ZeroAblation()},
    "base": {"base": "corrupted", "intervention": ResampleAblation()},
    "metric": {"metric": "log_probability"},
    "vocabulary": {"metric": logit_difference.within(20)},
    "engine": {"engine": "hooked"},
    "sites": {"positions": ["last"]},
    "channels": {"positions": ["last"], "channels": 4},
}


@pytest.mark.parametrize("field", OTHER)
def test_a_journal_of_another_sweep_is_refused(model, pairs, tmp_path, field):
    path = tmp_path / "journal"
    begun = {"positions": "last", "channels": 8} if field == "channels" else {}
    sweep(model, "blocks.*.hook_h", pairs, journal=path, **begun)
    size = path.stat().st_size
    with pytest.raises(SweepFileError, match=f"{field} was") as caught:
        sweep(model, "blocks.*.hook_h", pairs, journal=path, **OTHER[field])
    assert caught.value.code == "MT502"
    assert not {"weights", "prompts", "roles"} & set(re.findall(r"(\w+) was", str(caught.value)))
    assert path.stat().st_size == size


def test_other_weights_prompts_and_roles_are_refused(model, pairs, tmp_path):
    path = tmp_path / "journal"
    sweep(model, "blocks.*.hook_h", pairs, positions="twin", journal=path)
    other = tiny_model(seed=1, dtype="float64", dt_rank=3)
    with pytest.raises(SweepFileError, match="weights was"):
        sweep(other, "blocks.*.hook_h", pairs, positions="twin", journal=path)
    tokens = tiny_pairs(model, [6, 6, 6], 5, differs=1)
    with pytest.raises(SweepFileError, match="prompts was"):
        sweep(model, "blocks.*.hook_h", tokens, positions="twin", journal=path)
    places = pairs.role_positions + torch.tensor([0, 1])
    moved = type(pairs)(**{**vars(pairs), "role_positions": places})
    with pytest.raises(SweepFileError, match="roles was"):
        sweep(model, "blocks.*.hook_h", moved, positions="twin", journal=path)


def test_two_writers_are_refused(model, pairs, tmp_path):
    path = tmp_path / "journal"
    with (
        SweepJournal(path, "other", {}),
        pytest.raises(SweepFileError, match="being written by this process"),
    ):
        sweep(model, "blocks.*.hook_h", pairs, journal=path)


def test_a_result_comes_back_from_its_file(model, pairs, tmp_path):
    result = sweep(model, "blocks.*.hook_h", pairs)
    loaded = SweepResult.load(result.save(tmp_path / "result.json"))
    assert loaded.values.tobytes() == result.values.tobytes()
    assert loaded.engine == result.engine
    assert loaded.to_effect_map() == result.to_effect_map()
