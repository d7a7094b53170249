"""How does the model know which of two names comes next?

"Lately, Emma and Shelby had fun at school. Shelby gave an apple to" -> " Emma". The corrupted
prompt repeats the other name.
"""

import mechtest as mt

pytestmark = mt.family(
    "indirect-object",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/ioi.jsonl",
    per_template=4,
)

LAYER_0 = mt.Circuit("blocks.0.state@last")


@mt.claim("Layer 0's recurrent state at the last token carries which name was repeated")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, LAYER_0, prompts, threshold=0.65)


@mt.claim("... and restoring it alone brings the name back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, LAYER_0, prompts, threshold=0.65)


@mt.claim("Layer 1's state carries less than two fifths of it")
def test_layer_1_minor(mamba, prompts):
    mt.assert_not_necessary(mamba, mt.Circuit("blocks.1.state@last"), prompts, threshold=0.4)


@mt.claim("Eight directions of layer 0's state, found on other templates, beat matched ones")
def test_found_directions(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.0.hook_h@last", prompts.discovery, rank=8)
    mt.assert_beats_random_subspaces(mamba, found, prompts)


@mt.claim("False: one direction of that state carries the name", expect="refuted")
def test_one_direction(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.0.hook_h@last", prompts.discovery, rank=1)
    mt.assert_necessary(mamba, found, prompts, threshold=0.5)


@mt.claim("False: layer 0's state carries the name in every seed", expect="refuted")
def test_not_in_every_seed(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_0, prompts, threshold=0.5)
