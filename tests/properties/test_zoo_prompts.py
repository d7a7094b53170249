"""On real prompts and a trained model: the cut, the sign of the metrics, and the seed's prompt."""

import pytest
import torch

from mechtest.models import HookedMamba
from mechtest.tasks import PromptPairs, accuracy, logit_difference, normalized_logit_difference

MODEL = "fixtures/zoo/prose/seed0/step-02500"


@pytest.fixture(scope="module")
def model():
    return HookedMamba.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def pairs(model):
    prompts = PromptPairs.from_jsonl("fixtures/prompts/ioi.jsonl")
    return prompts[::16].encode(model.tokenizer)


def run(model, tokens, mask, **kwargs):
    with torch.no_grad():
        return model.run_with_hooks(tokens, attention_mask=mask, **kwargs)


def test_the_seed_prompt_is_answered(model):
    logits = model("Lately, Emma and Shelby had fun at school. Shelby gave an apple to")
    assert model.to_single_str_token(logits[0, -1].argmax().item()) == " Emma"
    logits = model("Lately, Emma and Shelby had fun at school. Emma gave an apple to")
    assert model.to_single_str_token(logits[0, -1].argmax().item()) == " Shelby"


def test_clean_prompts_are_answered_and_corrupted_ones_prefer_the_foil(model, pairs):
    clean = run(model, pairs.clean_tokens, pairs.attention_mask)
    corrupted = run(model, pairs.corrupted_tokens, pairs.attention_mask)
    assert accuracy(clean, pairs).mean() >= 0.95
    assert (logit_difference(clean, pairs) > 0).float().mean() >= 0.95
    assert (logit_difference(corrupted, pairs) < 0).float().mean() >= 0.95


def test_the_whole_state_moves_exactly_the_whole_behaviour(model, pairs):
    """1.000000 from the changed token on, 0 before, prompt by prompt, in batches of one length."""
    for group in pairs.by_length():
        mask = group.attention_mask
        (places,) = group.changed.any(0).nonzero(as_tuple=True)
        first, last = int(places.min()), int(places.max())
        with torch.no_grad():
            corrupted, cache = model.run_with_cache(
                group.corrupted_tokens, attention_mask=mask, names_filter="blocks.*.state"
            )
        clean = run(model, group.clean_tokens, mask)
        high, low = (logit_difference(logits, group) for logits in (clean, corrupted))
        n_pos = group.clean_tokens.shape[1]
        for position in {max(first - 1, 0), last, n_pos - 2}:
            site = f"blocks.*.state@{position}"
            patched = run(
                model,
                group.clean_tokens,
                mask,
                fwd_hooks=[(site, lambda v, hook, cache=cache: cache[hook.name])],
            )
            share = 1 - normalized_logit_difference(logit_difference(patched, group), high, low)
            expected = 0.0 if position < first else 1.0
            assert (share - expected).abs().max() <= 1e-5


def test_a_state_hook_at_one_position_changes_later_logits_only(model):
    """The issue's own example: blocks.1.hook_h.7."""
    prompt = "Lately, Emma and Shelby had fun at school. Shelby gave an apple to"
    with torch.no_grad():
        clean, cache = model.run_with_cache(prompt)
        patched = model.run_with_hooks(
            prompt, fwd_hooks=[("blocks.1.hook_h.7", lambda h, hook: torch.zeros_like(h))]
        )
    changed = (patched - clean).abs().amax(dim=(0, 2))
    assert len(cache) == 3 + 2 * (22 + 2 * 16)
    assert (changed[:7] == 0).all()
    assert (changed[7:] > 0).all()
