"""Where does a model that looks up what it has just read keep the pairs?

"Ella likes plums. Daniel likes fish. Ella likes" -> " plums".
"""

import mechtest as mt

pytestmark = mt.family(
    "recall",
    model="fixtures/zoo/recall",
    prompts="fixtures/prompts/recall.jsonl",
    per_template=4,
)

LAYER_0 = mt.Circuit("blocks.0.state@last")
LAYER_1 = mt.Circuit("blocks.1.state@last")


@mt.claim("Layer 0's recurrent state at the last token holds the pair that is asked for")
def test_necessary(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, LAYER_0, prompts, threshold=0.9)


@mt.claim("... and restoring it alone brings the answer back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, LAYER_0, prompts, threshold=0.9)


@mt.claim("... in every training seed")
def test_stable(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_0, prompts, threshold=0.8, losses=1)


@mt.claim("Layer 1's state holds nothing of it, in any seed")
def test_layer_1_inert(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(
        mamba_seeds, LAYER_1, prompts, using=mt.assert_not_necessary, threshold=0.1
    )


@mt.claim("False: layer 1 writes the answer at the last token", expect="refuted")
def test_wrong_layer(mamba, prompts):
    mt.assert_necessary(mamba, mt.Circuit("blocks.1.hook_out_proj@last"), prompts)


@mt.claim("False: sixteen directions of the state hold the pairs, which are key times value",
          expect="refuted")  # fmt: skip
def test_no_small_subspace(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.0.hook_h@last", prompts.discovery, rank=16)
    mt.assert_necessary(mamba, found, prompts, threshold=0.5)
