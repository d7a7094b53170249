"""What the false twins say beside their being false: the number can be read off layer 0's state."""

import numpy as np
import torch

from mechtest.models import HookedMamba
from mechtest.stats import sign_flip_test
from mechtest.tasks import PromptPairs

SITE = "blocks.0.hook_h@last"


def activations(model, pairs):
    """Return the site's activations on clean prompts, and whether the answer is " are"."""
    encoded = pairs.encode(model.tokenizer)
    with torch.no_grad():
        _, cache = model.run_with_cache(
            encoded.clean_tokens, attention_mask=encoded.attention_mask, names_filter=SITE
        )
    rows = cache[SITE].flatten(1).double().numpy()
    return rows, np.array([pair.answer == (" are",) for pair in pairs])


def test_the_number_can_be_read_off_layer_0_though_it_is_not_used_there():
    """A ridge probe fitted on some templates reads it off prompts of other templates."""
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    prompts = PromptPairs.from_jsonl("fixtures/prompts/agree.jsonl")
    fitted, plural = activations(model, prompts.discovery)
    mean, spread = fitted.mean(0), fitted.std(0) + 1e-9
    known = (fitted - mean) / spread
    weights = known.T @ np.linalg.solve(known @ known.T + 10 * np.eye(len(known)), 2.0 * plural - 1)
    new, truth = activations(model, prompts.test)
    right = ((new - mean) / spread @ weights > 0) == truth
    templates = np.array([pair.template for pair in prompts.test])
    shares = [right[templates == name].mean() for name in prompts.test.templates]
    print(f"probe accuracy on other templates: {np.mean(shares):.3f}")
    chance = sign_flip_test(np.array(shares) - 0.5, generator=np.random.default_rng(0))
    assert np.mean(shares) > 0.7
    assert chance.p < 0.001, "better than chance, with the template as the unit"
