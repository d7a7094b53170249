"""What tells "he" from "she" after "because"?"""

import mechtest as mt

pytestmark = mt.family(
    "gender",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/gender.jsonl",
    per_template=4,
)

LAYER_1 = mt.Circuit("blocks.1.state@last")


def channels(model, prompts):
    """Find the eight channels of layer 1's state that matter most, on the discovery half."""
    return mt.find_channels(model, "blocks.1.state@last", prompts.discovery, count=8)


@mt.claim("Eight channels of layer 1's state at the last token carry the person's gender")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, channels(mamba, prompts), prompts, threshold=0.5)


@mt.claim("... and restoring them alone brings the pronoun back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, channels(mamba, prompts), prompts, threshold=0.5)


@mt.claim("False: layer 0's state carries the gender", expect="refuted")
def test_wrong_layer(mamba, prompts):
    mt.assert_necessary(mamba, mt.Circuit("blocks.0.state@last"), prompts)


@mt.claim("False: in every seed layer 1's state carries more than nine tenths", expect="refuted")
def test_not_in_every_seed(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_1, prompts, threshold=0.9)
