"""When in training does each circuit come to be, and does it stay?

    pytest docs/examples/test_over_training.py -n 2 --mechtest-checkpoint all
    mechtest timeline claims-report --output timeline.png

At the first checkpoints a model does not do its task yet: such a claim is invalid there, not false.
"""

import mechtest as mt

PROMPTS = "fixtures/prompts"
LAYER_0 = mt.Circuit("blocks.0.state@last")
LAYER_1 = mt.Circuit("blocks.1.state@last")

pytestmark = mt.family("over-training", model="fixtures/zoo/prose", per_template=4, ordered=False)


@mt.claim("Layer 1's state carries the city", prompts=f"{PROMPTS}/fact_city.jsonl")
def test_city_layer_1(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.5)


@mt.claim("A few channels of layer 1 carry the number", prompts=f"{PROMPTS}/agree.jsonl")
def test_number_layer_1(mamba, prompts):
    found = mt.find_channels(mamba, "blocks.1.state@last", prompts.discovery, count=16)
    mt.assert_necessary(mamba, found, prompts, threshold=0.5)


@mt.claim("Layer 0's state carries which name was repeated", prompts=f"{PROMPTS}/ioi.jsonl")
def test_name_layer_0(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_0, prompts, threshold=0.5)


@mt.claim("Layer 1's state carries which name was repeated", prompts=f"{PROMPTS}/ioi.jsonl")
def test_name_layer_1(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_1, prompts, threshold=0.5)


@mt.claim("A few channels of layer 1 carry the gender", prompts=f"{PROMPTS}/gender.jsonl")
def test_gender_layer_1(mamba, prompts):
    found = mt.find_channels(mamba, "blocks.1.state@last", prompts.discovery, count=8)
    mt.assert_necessary(mamba, found, prompts, threshold=0.5)


@mt.claim(
    "Layer 0's state carries less than a quarter of the year",
    prompts=f"{PROMPTS}/greater_than.jsonl",
)
def test_year_not_layer_0(mamba, prompts):
    mt.assert_not_necessary(mamba, LAYER_0, prompts, threshold=0.25)
