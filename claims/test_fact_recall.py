"""Where does the model keep the city, or the material, of a landmark until it is asked?

"The Royal Temple is in" -> " Oslo". The last tokens say nothing about the landmark, so what answers
must have been carried there.
"""

import mechtest as mt

CITY = "fixtures/prompts/fact_city.jsonl"
MATERIAL = "fixtures/prompts/fact_material.jsonl"
pytestmark = mt.family("fact-recall", model="fixtures/zoo/prose", prompts=CITY, per_template=4)

LAYER_1 = mt.Circuit("blocks.1.state@last")
LAYER_0 = mt.Circuit("blocks.0.state@last")


@mt.claim("Layer 1's recurrent state at the last token carries the city")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.75)


@mt.claim("... and restoring it alone brings the city back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, LAYER_1, prompts, threshold=0.75)


@mt.claim("... and so does keeping it alone of all states")
def test_kept(mamba, prompts):
    mt.assert_sufficient(mamba, LAYER_1, prompts, threshold=0.8, mode="keep")


@mt.claim("... in every training seed")
def test_stable(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_1, prompts, threshold=0.6, losses=1)


@mt.claim("Layer 0's state there does not carry it, in any seed")
def test_layer_0_inert(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(
        mamba_seeds, LAYER_0, prompts, using=mt.assert_not_necessary, threshold=0.15
    )


@mt.claim("The same place carries the material", prompts=MATERIAL)
def test_material_necessary(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.75)


@mt.claim("Sixteen directions of that state, found on other templates, carry half of the city")
def test_found_directions(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.1.hook_h@last", prompts.discovery, rank=16)
    mt.assert_necessary(mamba, found, prompts, threshold=0.4)


@mt.claim("False: layer 0's state carries the city", expect="refuted")
def test_wrong_layer(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_0, prompts, threshold=0.75)


@mt.claim(
    "False: the residual stream at the last token has the city before layer 1", expect="refuted"
)
def test_too_early(mamba, prompts):
    mt.assert_sufficient(mamba, mt.Circuit("blocks.1.hook_resid_pre@last"), prompts)


@mt.claim("False: four directions of layer 1's output are special for the city", expect="refuted")
def test_any_four_directions(mamba, prompts):
    found = mt.find_difference_subspace(
        mamba, "blocks.1.hook_out_proj@last", prompts.discovery, rank=4
    )
    mt.assert_beats_random_subspaces(mamba, found, prompts)
