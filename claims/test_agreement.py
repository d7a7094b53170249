"""What tells the verb whether the subject was one or many?

"The road that I saw with the trees" -> " is". The attractor before the verb differs in number.
"""

import mechtest as mt

pytestmark = mt.family(
    "agreement",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/agree.jsonl",
    per_template=4,
)

LAYER_1 = mt.Circuit("blocks.1.state@last")
LAYER_0 = mt.Circuit("blocks.0.state@last")


def channels(model, prompts):
    """Find the sixteen channels of layer 1's state that matter most, on the discovery half."""
    return mt.find_channels(model, "blocks.1.state@last", prompts.discovery, count=16)


@mt.claim("Sixteen channels of layer 1's state before the verb carry the subject's number")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, channels(mamba, prompts), prompts, threshold=0.75)


@mt.claim("... and restoring them alone brings the verb's number back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, channels(mamba, prompts), prompts, threshold=0.75)


@mt.claim("One direction of it, found on other templates, carries half of the number")
def test_one_direction(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.1.hook_h@last", prompts.discovery, rank=1)
    mt.assert_necessary(mamba, found, prompts, threshold=0.4)


@mt.claim("Layer 0's state before the verb does not carry it, in any seed")
def test_layer_0_inert(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(
        mamba_seeds, LAYER_0, prompts, using=mt.assert_not_necessary, threshold=0.15
    )


@mt.claim("False: layer 0's state is used for the number, since a probe reads it off there",
          expect="refuted")  # fmt: skip
def test_decodable_and_unused(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_0, prompts, threshold=0.25)


@mt.claim(
    "False: the number needs all of layer 1's state in particular; any half of all channels does",
    expect="not supported",
)
def test_whole_layer_is_not_special(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.75)
