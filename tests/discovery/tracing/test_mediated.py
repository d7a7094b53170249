"""Direct and indirect effects add up to the total, and are what single runs give."""

import numpy as np
import pytest

from fixtures.compiled import FAMILIES
from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.tracing import MediatedEffects, mediated_effects
from mechtest.errors import ClaimInvalid, DiscoveryError, NothingChangedError
from mechtest.interventions import Circuit, Patch, ResampleAblation, Runner
from mechtest.tasks import logit_difference
from tests.assertions.zoo import CARRIES, prompts, prose


@pytest.fixture(scope="module")
def found():
    return mediated_effects(prose(), prompts().discovery, CARRIES)


def test_direct_and_indirect_effects_sum_to_the_total(found):
    total = found.per_prompt("total")
    for kind in ("denoising", "noising"):
        both = found.per_prompt(f"indirect, {kind}") + found.per_prompt(f"direct, {kind}")
        np.testing.assert_allclose(both, total, atol=1e-9)
        assert found.share(f"indirect, {kind}") + found.share(f"direct, {kind}") == pytest.approx(1)
    assert found.share("indirect, noising") > 0.9
    assert abs(found.interaction) < 0.05
    assert found.interval("total").low < found.mean("total") < found.interval("total").high


def test_effects_are_those_of_single_runs(found):
    runner = Runner(prose(), prompts().discovery.encode(prose().tokenizer))
    noised = runner.run(Circuit(CARRIES), ResampleAblation())
    restored = runner.run(Circuit(CARRIES), Patch("clean"), base="corrupted")
    np.testing.assert_allclose(found.ablated, logit_difference(noised.logits, runner.pairs))
    np.testing.assert_allclose(found.restored, logit_difference(restored.logits, runner.pairs))


@pytest.mark.parametrize(("family", "sign"), [("conjunction", 1), ("redundancy", -1)])
def test_the_interaction_tells_and_from_or(family, sign):
    """One of two stores: needed and not enough, or enough and not needed."""
    compiled = FAMILIES[family].build(seed=0, templates=4)
    role = "necessary" if sign > 0 else "redundant"
    row = next(row for row in compiled.rows(role) if abs(row.ablated - row.restored) > 0.9)
    effects = mediated_effects(compiled.model, compiled.prompts_of(row), row.circuit)
    assert effects.interaction == pytest.approx(sign, abs=0.01)
    assert effects.share("indirect, noising") == pytest.approx(row.ablated, abs=0.01)
    assert effects.share("indirect, denoising") == pytest.approx(row.restored, abs=0.01)


def test_what_is_saved_comes_back(found, tmp_path):
    back = DiscoveryRecord.load(found.save(tmp_path / "effects.json"))
    assert isinstance(back, MediatedEffects)
    assert back == found
    assert back.lines()[1].startswith("total effect")
    back.plot(tmp_path / "effects.png")


def test_what_cannot_be_mediated_is_refused(found):
    with pytest.raises(ClaimInvalid, match="discovery half"):
        mediated_effects(prose(), prompts().test, CARRIES)
    with pytest.raises(NothingChangedError):
        mediated_effects(prose(), prompts().discovery, "blocks.0.hook_y@0")
    with pytest.raises(DiscoveryError, match="no effect"):
        found.mean("partial")
