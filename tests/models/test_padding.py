"""Padding never changes an answer: it is masked exactly, or it is an error."""

import pytest
import torch

from mechtest.errors import PaddingError, ShapeError
from tests.tiny import tiny_model
from tests.words import word_tokenizer

TEXTS = ["Emma gave an apple to", "Emma and Shelby had fun . Shelby gave an apple to", "Emma"]


@pytest.fixture(scope="module", params=[False, True], ids=["no bias", "bias"])
def model(request):
    """With a bias in in_proj padding would leak through it, as it does in transformers."""
    model = tiny_model(dtype="float64", vocab_size=40, bias=request.param)
    model.tokens = type(model.tokens)(word_tokenizer())
    return model


def alone(model, text):
    with torch.no_grad():
        return model(text)[0]


def test_left_padded_texts_give_the_logits_of_each_alone(model):
    with torch.no_grad():
        batch = model(TEXTS)
    for row, text in zip(batch, TEXTS, strict=True):
        expected = alone(model, text)
        assert torch.allclose(row[-len(expected) :], expected, rtol=0, atol=1e-12)


def test_left_padded_tokens_are_masked_without_being_asked(model):
    tokens = model.to_tokens(TEXTS)
    with torch.no_grad():
        assert torch.equal(model(tokens), model(TEXTS))
        mask = tokens != model.tokens.pad_id
        assert torch.equal(model(tokens, attention_mask=mask), model(TEXTS))
        assert torch.equal(model(tokens, attention_mask=mask.long()), model(TEXTS))


def test_what_stands_at_the_padding_does_not_matter(model):
    tokens = model.to_tokens(TEXTS)
    mask = tokens != model.tokens.pad_id
    other = torch.where(mask, tokens, 5)
    with torch.no_grad():
        a, b = model(tokens, attention_mask=mask), model(other, attention_mask=mask)
    assert torch.equal(a[mask], b[mask])


def test_without_a_mask_padding_would_have_mattered(model):
    """The masking is needed: the same tokens read as text give other logits."""
    tokens = model.to_tokens(TEXTS)
    with torch.no_grad():
        as_text = model(tokens, attention_mask=torch.ones_like(tokens))
        masked = model(tokens)
    assert (as_text[2, -1] - masked[2, -1]).abs().max() > 1e-3


def test_an_edit_at_padded_positions_reaches_nothing(model):
    tokens = model.to_tokens(TEXTS)
    mask = tokens != model.tokens.pad_id

    def scribble(value, hook):
        return torch.where(mask.unsqueeze(-1), value, 9.0)

    with torch.no_grad():
        clean = model(tokens)
        for name in ("hook_in_proj", "hook_conv", "hook_ssm_input"):
            edited = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.0.{name}", scribble)])
            assert torch.equal(edited[mask], clean[mask])


def test_right_padding_with_a_mask_is_exact_and_without_one_an_error(model):
    tokens = model.to_tokens(TEXTS, padding_side="right")
    mask = tokens != model.tokens.pad_id
    with pytest.raises(PaddingError, match="padding after its text"):
        model(tokens)
    with torch.no_grad():
        batch = model(tokens, attention_mask=mask)
        assert torch.equal(model(TEXTS, padding_side="right")[mask], batch[mask])
    for row, text in zip(batch, TEXTS, strict=True):
        expected = alone(model, text)
        assert torch.allclose(row[: len(expected)], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([[1, 0, 1]], PaddingError),
        ([[0, 1, 0, 1]], PaddingError),
        ([[0, 0, 0]], PaddingError),
        ([[1, 2, 1]], ShapeError),
        ([[1, 1]], ShapeError),
    ],
    ids=["hole", "two runs", "nothing", "values", "shape"],
)
def test_masks_that_cannot_be_meant_raise(model, mask, error):
    tokens = torch.full((1, 4 if len(mask[0]) == 4 else 3), 6)
    with pytest.raises(error):
        model(tokens, attention_mask=torch.tensor(mask))


def test_a_mask_with_padding_on_both_sides_is_one_run_of_text(model):
    tokens = torch.tensor([[1, 6, 7, 1]])
    mask = torch.tensor([[0, 1, 1, 0]])
    with torch.no_grad():
        assert torch.allclose(
            model(tokens, attention_mask=mask)[0, 1:3], model(tokens[:, 1:3])[0], atol=1e-12
        )


def test_a_pad_token_that_is_also_bos_needs_a_mask(model):
    ambiguous = tiny_model(vocab_size=40)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.bos_token
    ambiguous.tokens = type(ambiguous.tokens)(tokenizer)
    bos = tokenizer.bos_token_id
    ambiguous(torch.tensor([[bos, 6, 7]]))  # one in front is the start of a text
    with pytest.raises(PaddingError, match="also the bos or eos token"):
        ambiguous(torch.tensor([[bos, bos, 7]]))
    with pytest.raises(PaddingError, match="also the bos or eos token"):
        ambiguous(torch.tensor([[bos, 6, 7], [bos, 6, bos]]))
    logits = ambiguous(TEXTS)  # texts bring their mask
    assert torch.allclose(logits[2, -2:], ambiguous(TEXTS[2])[0], atol=1e-5)


def test_the_loss_counts_text_only(model):
    losses = [model(text, return_type="loss", loss_per_token=True) for text in TEXTS[:2]]
    expected = torch.cat([loss.flatten() for loss in losses]).mean()
    assert torch.allclose(model(TEXTS[:2], return_type="loss"), expected, atol=1e-12)
