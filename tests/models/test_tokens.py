"""Text becomes the tokens a reader expects, and what is not one token says so."""

import pytest
import torch

from mechtest.errors import AnswerTokenError, ShapeError, TokenizerMissingError
from mechtest.models.tokens import Tokens, load_tokenizer
from tests.tiny import tiny_model
from tests.words import word_tokenizer

TEXT = "Emma gave an apple to"


@pytest.fixture(params=[True, False], ids=["bos by tokenizer", "bos by us"])
def tokens(request):
    return Tokens(word_tokenizer(bos=request.param))


def test_there_is_exactly_one_bos_unless_it_is_refused(tokens):
    bos = tokens.tokenizer.bos_token_id
    assert tokens.ids(TEXT).count(bos) == 1
    assert tokens.ids(TEXT)[0] == bos
    assert tokens.ids(TEXT, prepend_bos=True) == tokens.ids(TEXT)
    assert tokens.ids(TEXT, prepend_bos=False) == tokens.ids(TEXT)[1:]


def test_str_tokens_join_to_the_text(tokens):
    pieces = tokens.to_str_tokens(TEXT)
    assert pieces == ["<bos>", " Emma", " gave", " an", " apple", " to"]
    ids = tokens.to_tokens(TEXT)
    assert tokens.to_str_tokens(ids) == pieces
    assert tokens.to_str_tokens(ids[0]) == pieces
    assert tokens.to_str_tokens(ids[0].tolist()) == pieces
    assert tokens.to_str_tokens([TEXT, TEXT]) == [pieces, pieces]
    assert tokens.to_string(ids[0]) == "".join(pieces)
    assert tokens.to_string(ids) == ["".join(pieces)]


def test_texts_of_different_lengths_are_padded_on_the_side_asked_for(tokens):
    short, long = "Emma gave", TEXT
    left = tokens.to_tokens([short, long])
    right = tokens.to_tokens([short, long], padding_side="right")
    pad = tokens.pad_id
    assert left[0].tolist() == [pad] * 3 + tokens.ids(short)
    assert right[0].tolist() == tokens.ids(short) + [pad] * 3


def test_single_tokens(tokens):
    assert tokens.decode_one(tokens.to_single_token(" Emma")) == " Emma"
    for bad in ("Emma gave", "Zebra", ""):
        with pytest.raises(AnswerTokenError, match="not exactly one token"):
            tokens.to_single_token(bad)


def test_nothing_to_tokenize_raises(tokens):
    with pytest.raises(ShapeError, match="nothing to tokenize"):
        tokens.to_tokens([])


def test_a_model_without_a_tokenizer_says_what_to_do():
    model = tiny_model()
    for call in (lambda: model("text"), lambda: model.to_single_token(" a")):
        with pytest.raises(TokenizerMissingError, match="tokenizer="):
            call()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(1, 3), "integer ids"),
        (torch.zeros(1, 0, dtype=torch.long), "at least one position"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "integer ids"),
        (torch.tensor([[23]]), "outside the vocabulary"),
        (torch.tensor([[-1]]), "outside the vocabulary"),
        ({"a": 1}, "neither text nor token ids"),
        ([], "neither text nor token ids"),
        ([[1, 2], [3]], "neither text nor token ids"),
    ],
    ids=["floats", "empty", "axes", "too high", "negative", "dict", "nothing", "ragged"],
)
def test_wrong_inputs_raise(given, text):
    with pytest.raises(ShapeError, match=text):
        tiny_model()(given)


def test_lists_and_single_rows_of_ids_are_taken():
    model = tiny_model()
    expected = model(torch.tensor([[1, 2, 3]]))
    assert torch.equal(model([1, 2, 3]), expected)
    assert torch.equal(model([[1, 2, 3]]), expected)
    assert torch.equal(model(torch.tensor([1, 2, 3], dtype=torch.int32)), expected)


def test_a_directory_with_tokenizer_json_alone_is_read_as_that(tmp_path):
    """The automatic choice by model type would pick another class and wrong ids."""
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    expected = tokenizer(TEXT)["input_ids"]
    assert list(load_tokenizer(tmp_path)(TEXT)["input_ids"]) == expected
    (tmp_path / "tokenizer_config.json").unlink()
    assert list(load_tokenizer(tmp_path)(TEXT)["input_ids"]) == expected
    assert list(load_tokenizer(tmp_path / "tokenizer.json")(TEXT)["input_ids"]) == expected


def test_a_missing_tokenizer_says_where_it_looked(tmp_path):
    with pytest.raises(TokenizerMissingError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)
