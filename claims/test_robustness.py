"""Does a circuit still do its work when the prompt opens in another way?

Cities survive what stands before the sentence. Pronouns do not survive another person's name: the
circuit that tells "he" from "she" is confused by "We like Emma.", which changes nothing about whom
the sentence is of.
"""

import mechtest as mt

pytestmark = mt.family(
    "robustness",
    model="fixtures/zoo/prose",
    prompts="fixtures/prompts/fact_city.jsonl",
    per_template=1,
)
GENDER = "fixtures/prompts/gender.jsonl"

LAYER_1 = mt.Circuit("blocks.1.state@last")
QUIET = [mt.Prefix(words) for words in ("Soon,", "Last night,", "It was cold.", "The phone rang.")]
SOMEBODY = mt.Prefix("We like Emma.")


@mt.claim("What carries the city keeps nine tenths of its effect behind other openings")
def test_city(mamba, prompts):
    mt.assert_robust(
        mamba, LAYER_1, prompts, perturbations=[*QUIET, SOMEBODY], form="distribution", rho=0.9
    )


@mt.claim("... and no opening was found that takes half of it", exact=True)
def test_city_worst_case(mamba, prompts):
    mt.assert_robust(mamba, LAYER_1, prompts, perturbations=[*QUIET, SOMEBODY], floor=0.5, n=60)


@mt.claim(
    "False: whatever opens the sentence, half of what carries the gender is left",
    prompts=GENDER, expect="refuted", exact=True,
)  # fmt: skip
def test_gender_worst_case(mamba, prompts):
    mt.assert_robust(mamba, LAYER_1, prompts, perturbations=[*QUIET, SOMEBODY], floor=0.5, n=60)
