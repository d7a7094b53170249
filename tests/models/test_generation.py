"""Continuing a text from the kept state gives what running it anew would give."""

import pytest
import torch

from mechtest.errors import ShapeError
from tests.tiny import tiny_model, tiny_tokens
from tests.words import word_tokenizer


@pytest.fixture(scope="module")
def model():
    model = tiny_model(dtype="float64", vocab_size=19)
    model.tokens = type(model.tokens)(word_tokenizer())
    return model


def greedy(model, tokens, count):
    for _ in range(count):
        logits = model(tokens, attention_mask=torch.ones_like(tokens))
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


def test_greedy_continuation_equals_running_anew(model):
    tokens = tiny_tokens(model, n_pos=5).clamp(min=3)
    assert torch.equal(model.generate(tokens, 6, return_type="tokens"), greedy(model, tokens, 6))


def test_hooks_keep_their_positions_while_generating(model):
    """A hook at position 2 acts on position 2 of the whole text at every step."""
    tokens = tiny_tokens(model, n_pos=5).clamp(min=3)
    hooks = [("blocks.0.hook_h.2", lambda h, hook: h * 0 + 3)]
    with model.hooks(fwd_hooks=hooks):
        ours = model.generate(tokens, 4, return_type="tokens")
        expected = greedy(model, tokens, 4)
    assert torch.equal(ours, expected)


def test_text_in_text_out_and_padding_stays_out_of_it(model):
    alone = model.generate("Emma gave", 3)
    assert alone.startswith("<bos> Emma gave")
    both = model.generate(["Emma gave", "Emma and Shelby had fun"], 3)
    assert both[0] == alone


def test_drawing_needs_a_generator_and_repeats_with_it(model):
    tokens = tiny_tokens(model, n_pos=5).clamp(min=3)
    with pytest.raises(ShapeError, match="needs a generator"):
        model.generate(tokens, 3, do_sample=True)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(tokens, 8, do_sample=True, temperature=2.0, generator=generator)

    assert torch.equal(draw(1), draw(1))
    assert any(not torch.equal(draw(1), draw(seed)) for seed in range(2, 6))


def test_top_k_of_one_is_greedy(model):
    tokens = tiny_tokens(model, n_pos=5).clamp(min=3)
    generator = torch.Generator().manual_seed(0)
    drawn = model.generate(tokens, 4, do_sample=True, top_k=1, generator=generator)
    assert torch.equal(drawn, model.generate(tokens, 4))


def test_generation_stops_at_the_end_token(model):
    tokens = tiny_tokens(model, batch=1, n_pos=5).clamp(min=3)
    first = int(greedy(model, tokens, 1)[0, -1])
    assert model.generate(tokens, 9, eos_token_id=first).shape[1] == 6
    assert model.generate(tokens, 9, eos_token_id=first, stop_at_eos=False).shape[1] == 14
