"""Jobs stand in the order of their entry, and are no longer than an edit makes them."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.interventions import Circuit, ResampleAblation, Runner
from mechtest.interventions.jobs import Variant, first_columns, lay_out, row_edits
from mechtest.interventions.plan import PlannedEdit, Spots
from mechtest.models.packed_block import ENTERED_BEFORE
from tests.interventions.tiny_pairs import place, tiny_pairs
from tests.tiny import tiny_model

LENGTHS = [6, 4, 5]
N_POS = 6


@pytest.fixture(scope="module")
def runner():
    model = tiny_model(n_layer=3)
    return Runner(model, tiny_pairs(model, LENGTHS, differs=1))


def variants_of(runner, *circuits):
    """Return one variant a circuit, each given by the names of its sites."""
    made = [[name] if isinstance(name, str) else name for name in circuits]
    return [runner.variant([Circuit(*names)], ResampleAblation()) for names in made]


def laid_out(runner, *circuits):
    return lay_out(variants_of(runner, *circuits), len(LENGTHS), N_POS)


def test_jobs_stand_by_layer_then_stage(runner):
    """Late entries last; among equals, in the order they were given."""
    jobs = laid_out(
        runner,
        "blocks.1.hook_h@last",
        "blocks.0.hook_y@last",
        "blocks.1.hook_resid_pre@last",
        "hook_embed@last",
        "blocks.1.hook_conv@last",
        ["blocks.2.hook_resid_pre@last", "blocks.0.hook_conv_state@-2"],
    )
    assert jobs.variant.tolist() == [3] * 3 + [5] * 3 + [1] * 3 + [2] * 3 + [4] * 3 + [0] * 3
    assert jobs.layer.tolist() == [0] * 9 + [1] * 9
    assert jobs.stage.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert jobs.prompt.tolist() == [0, 1, 2] * 6
    assert [jobs.in_flight(0, stage) for stage in (0, 1, 2)] == [3, 6, 9]
    assert [jobs.in_flight(1, stage) for stage in (0, 1, 2)] == [12, 15, 18]
    assert jobs.entering(0) == range(9)
    assert jobs.entering(1) == range(9, 18)
    assert jobs.entering(2) == range(18, 18)


def test_rows_run_from_the_first_edited_column_to_the_end(runner):
    jobs = laid_out(runner, "blocks.0.hook_y@-3", "blocks.0.hook_y@twin")
    assert jobs.column.tolist() == [3, 3, 3, 1, 3, 2]  # padding shifts the role
    assert jobs.starts.tolist() == [0, 3, 6, 9, 14, 17, 21]
    assert jobs.n_rows == 21
    assert jobs.job_of_row.tolist()[:4] == [0, 0, 0, 1]
    assert jobs.column_of_row.tolist()[:9] == [3, 4, 5] * 3
    assert jobs.column_of_row.tolist()[9:] == [1, 2, 3, 4, 5, 3, 4, 5, 2, 3, 4, 5]
    assert jobs.prompt_of_row.tolist()[9:] == [0] * 5 + [1] * 3 + [2] * 4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["blocks.1.hook_h@-3"], True),
        (["blocks.1.state@-3"], True),
        (["blocks.1.hook_h@-3:"], True),
        (["blocks.1.hook_h@-3", "blocks.1.hook_y@-2"], True),
        (["blocks.1.hook_h@-3", "blocks.2.hook_resid_pre@-4"], False),
        (["blocks.1.hook_h@-3", "blocks.1.hook_conv_state@-4"], False),
        (["blocks.1.hook_h@-3", "blocks.1.hook_B@-3"], False),
        (["blocks.1.hook_h@-3", "blocks.1.hook_resid_pre@-2"], False),
        (["blocks.1.hook_h@-3", "blocks.0.hook_y@-3"], False),
        (["blocks.1.hook_y@-3"], False),
        (["blocks.1.hook_conv_state@-3"], False),
    ],
    ids=["state", "both halves", "range", "read-out later", "earlier position", "earlier window",
         "own step edited", "input later", "earlier layer", "read-out", "window"],
)  # fmt: skip
def test_a_state_is_given_exactly_where_it_is_known(runner, names, expected):
    """Where nothing before it changes, the state after the first position needs no computing."""
    variants = variants_of(runner, names)
    jobs = lay_out(variants, len(LENGTHS), N_POS)
    assert jobs.given.tolist() == [expected] * 3
    edits = [edit for edit in row_edits(variants, jobs) if edit.site.hook == "hook_h"]
    known = [edit for edit in edits if edit.given]
    assert bool(known) == expected
    for edit in known:
        assert torch.equal(edit.rows, jobs.starts[edit.jobs]), "first rows of their jobs"


def test_of_a_range_only_the_first_state_is_given(runner):
    variants = variants_of(runner, "blocks.0.hook_h@-3:")
    jobs = lay_out(variants, len(LENGTHS), N_POS)
    first, later = row_edits(variants, jobs)
    assert first.given
    assert not later.given
    assert first.rows.tolist() == [0, 3, 6]
    assert later.rows.tolist() == [1, 2, 4, 5, 7, 8]
    assert sorted([*first.index.tolist(), *later.index.tolist()]) == list(range(9))


def test_each_prompt_has_a_first_column_of_its_own(runner):
    jobs = laid_out(runner, ["blocks.0.hook_h@twin", "blocks.0.hook_h@-3"])
    assert jobs.column.tolist() == [1, 3, 2]
    assert jobs.given.tolist() == [True, True, True]


def test_without_edits_the_last_position_is_left(runner):
    """A variant without any, and a prompt that a plan leaves out."""
    nothing = Variant((), ResampleAblation())
    jobs = lay_out([nothing], len(LENGTHS), N_POS)
    assert jobs.column.tolist() == [5, 5, 5]
    assert jobs.layer.tolist() == [0, 0, 0]
    assert not bool(jobs.given.any())
    assert row_edits([nothing], jobs) == []
    ((circuit, planned),) = variants_of(runner, "blocks.1.hook_h@-3")[0].edits
    where = planned.where.clone()
    where[1] = False
    some = Variant(((circuit, PlannedEdit(planned.site, Spots(where))),), ResampleAblation())
    jobs = lay_out([some], len(LENGTHS), N_POS)
    assert jobs.column.tolist() == [3, 5, 3]
    assert jobs.given.tolist() == [True, False, True]
    assert runner._packed.logits([nothing], "clean").shape == (1, 3, 23)
    gap = runner._packed.logits([nothing], "clean")[0] - runner.logits("clean")
    assert float(gap.abs().max()) < 1e-4


@settings(max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    circuits=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(ENTERED_BEFORE)),
                st.integers(0, 2),
                st.sampled_from(["last", "-3", "-3:", "twin", "twin:"]),
            ),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_rows_cover_every_edit_once(runner, circuits):
    names = [[place(runner.model, *part) for part in parts] for parts in circuits]
    variants = variants_of(runner, *names)
    jobs = lay_out(variants, len(LENGTHS), N_POS)
    entry = (jobs.layer * 3 + jobs.stage).tolist()
    assert entry == sorted(entry)
    assert bool((jobs.column >= first_columns(runner.pairs)[jobs.prompt]).all())
    found = set()
    for edit in row_edits(variants, jobs):
        assert bool((edit.rows >= jobs.starts[edit.jobs]).all())
        assert bool((edit.rows < jobs.starts[edit.jobs + 1]).all())
        tokens = edit.tokens
        assert torch.equal(jobs.prompt_of_row[edit.rows], tokens.prompt[edit.index])
        assert torch.equal(jobs.column_of_row[edit.rows], tokens.column[edit.index])
        site = str(edit.site)
        rows = zip(jobs.variant[edit.jobs].tolist(), edit.rows.tolist(), strict=True)
        new = {(site, *row) for row in rows}
        assert not new & found
        found |= new
    places = sum(int(e.where.sum()) for variant in variants for _, e in variant.edits)
    assert len(found) == places
