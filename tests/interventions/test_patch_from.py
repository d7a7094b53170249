"""Given rows are put in where they belong, and nowhere else."""

import pytest
import torch

from mechtest.errors import ShapeError
from mechtest.interventions import (
    Circuit,
    GivenRows,
    Patch,
    PatchFrom,
    Runner,
    digest_of,
    plan_edits,
    read_activations,
)
from tests.assertions.zoo import prompts, prose

SITE = "blocks.1.state@subject_last"


@pytest.fixture(scope="module")
def pairs():
    return prompts().discovery.encode(prose().tokenizer)


def rows_of(runner, site, run):
    """Return a run's own activations as given rows."""
    pairs, found = runner.pairs, read_activations(runner, Circuit(site), run)
    given = {}
    for edit in plan_edits(prose().resolver, Circuit(site), pairs):
        prompt, column = edit.where.nonzero(as_tuple=True)
        order = torch.as_tensor(pairs.order)[prompt]
        given[edit.name] = GivenRows(found[edit.name], order, edit.where.shape[1] - column)
    return given


@pytest.mark.parametrize("engine", ["packed", "hooked"])
@pytest.mark.parametrize("site", [SITE, "blocks.0.hook_out_proj@subject_first:"])
def test_the_twins_rows_are_the_patch_from_the_twin(pairs, engine, site):
    runner = Runner(prose(), pairs, engine=engine)
    given = PatchFrom(rows_of(runner, site, "corrupted"))
    one, other = (
        runner.logits_after([[Circuit(site)]], patch) for patch in (given, Patch("corrupted"))
    )
    assert torch.allclose(one, other, atol=2e-4)
    assert not torch.allclose(one[0], runner.logits("clean"), atol=1e-2)


def test_rows_go_by_the_prompts_index_in_the_whole_set(pairs):
    whole = Runner(prose(), pairs)
    given = PatchFrom(rows_of(whole, SITE, "corrupted"))
    some = Runner(prose(), pairs[5:9])
    expected = whole.logits_after([[Circuit(SITE)]], given)[0, 5:9]
    found = some.logits_after([[Circuit(SITE)]], given)[0]
    assert torch.allclose(found, expected, atol=2e-4)


def test_missing_rows_are_never_made_up(pairs):
    runner = Runner(prose(), pairs)
    rows = rows_of(runner, SITE, "corrupted")
    name = "blocks.1.hook_h"
    short = GivenRows(rows[name].values[1:], rows[name].prompt[1:], rows[name].from_end[1:])
    with pytest.raises(ShapeError, match="1 of"):
        runner.logits_after([[Circuit(SITE)]], PatchFrom({**rows, name: short}))
    with pytest.raises(ShapeError, match="nothing is given to be put in"):
        runner.logits_after([[Circuit("blocks.0.state@subject_last")]], PatchFrom(rows))
    flat = GivenRows(rows[name].values.flatten(1), rows[name].prompt, rows[name].from_end)
    with pytest.raises(ShapeError, match="another shape"):
        runner.logits_after([[Circuit(SITE)]], PatchFrom({**rows, name: flat}))
    twice = GivenRows(
        *(torch.cat([part, part]) for part in (flat.values, flat.prompt, flat.from_end))
    )
    with pytest.raises(ShapeError, match="two rows"):
        PatchFrom({name: twice})


def test_other_rows_are_another_intervention(pairs):
    runner = Runner(prose(), pairs)
    one, other = (PatchFrom(rows_of(runner, SITE, run)) for run in ("clean", "corrupted"))
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) == digest_of(PatchFrom(rows_of(runner, SITE, "clean")))
