"""How does a model know that a war ends after it began?

"The trial lasted from 1861 to 18" -> any of 62 ... 99.
"""

import mechtest as mt

pytestmark = mt.family(
    "greater-than",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/greater_than.jsonl",
    per_template=4,
    seed=1,
)

LAYER_1 = mt.Circuit("blocks.1.state@last")


@mt.claim("Seed 1: layer 1's recurrent state at the last token carries the year")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.75)


@mt.claim("Seed 1: layer 0's state does not")
def test_layer_0_inert(mamba, prompts):
    mt.assert_not_necessary(mamba, mt.Circuit("blocks.0.state@last"), prompts, threshold=0.15)


@mt.claim("False: layer 1's state carries the year in every seed", expect="refuted")
def test_not_in_every_seed(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_1, prompts, threshold=0.5)


@mt.claim("False: the embedding of the last token is where the year is", expect="not supported")
def test_wrong_place(mamba, prompts):
    mt.assert_necessary(mamba, mt.Circuit("blocks.1.hook_resid_pre@last"), prompts)
