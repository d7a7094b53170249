"""Do tensors hold exactly the tokens of the rows, and do positions follow the padding?"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from mechtest.errors import PositionError, PromptError, ShapeError
from mechtest.tasks import PromptPairs
from tests.tasks.wordlevel import CALM, VOCAB, CharacterTokenizer, good_rows, ioi_row, tokenizer

NAMED = [row for row in good_rows() if "S2" in row["positions"]]
some_rows = st.lists(st.sampled_from(range(8)), min_size=1, max_size=8, unique=True)


def encoded(rows=None, **options):
    return PromptPairs.from_rows(rows or good_rows()).encode(tokenizer(), **options)


def test_tokens_are_those_of_the_tokenizer_behind_left_padding():
    pairs = PromptPairs.from_rows(good_rows())
    result = pairs.encode(tokenizer())
    assert result.padded
    assert result.clean_tokens.dtype == torch.int64
    for index, pair in enumerate(pairs):
        for tokens, text in (
            (result.clean_tokens, pair.clean),
            (result.corrupted_tokens, pair.corrupted),
        ):
            ids = tokenizer()(text)["input_ids"]
            assert tokens[index, -len(ids) :].tolist() == ids
            assert set(tokens[index, : -len(ids)].tolist()) <= {VOCAB["<pad>"]}
            assert result.attention_mask[index].sum() == len(ids) == result.lengths[index]


@CALM
@given(picked=some_rows)
def test_positions_point_at_the_same_token_whatever_the_padding(picked):
    """A role's column holds the token that the row's own index holds."""
    pairs = PromptPairs.from_rows([good_rows()[index] for index in picked])
    result = pairs.encode(tokenizer())
    for index, pair in enumerate(pairs):
        part = result[index : index + 1]
        ids = tokenizer()(pair.clean)["input_ids"]
        for role, position in pair.positions:
            assert part.clean_tokens[0, part.positions(role)[0]] == ids[position]
    assert result.positions("last").tolist() == [result.clean_tokens.shape[1] - 1] * len(pairs)


def test_changed_is_true_exactly_where_tokens_differ():
    result = encoded(NAMED)
    rows = torch.arange(len(result))
    assert result.changed.sum() == len(result)
    assert result.changed[rows, result.positions("S2")].all()


def test_answers_and_foils_are_id_sets():
    result = encoded()
    assert result.answers.answer_ids[0].tolist()[:2] == [VOCAB[" Emma"], -1]
    years = [token for token in result.answers.answer_ids[6].tolist() if token != -1]
    assert years == [VOCAB[" 98"], VOCAB[" 99"]]
    assert (result.answers.foil_ids[6] != -1).sum() == 97


def test_clusters_are_indices_into_the_templates():
    result = encoded()
    assert result.templates == ("met-gave", "letter-only", "short", "war")
    assert result.cluster.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    part = result[4:6]
    assert [part.templates[index] for index in part.cluster] == ["short", "short"]


@CALM
@given(size=st.integers(1, 9))
def test_batches_cover_all_prompts_in_order(size):
    result = encoded()
    parts = list(result.batches(size))
    assert max(map(len, parts)) <= size
    assert torch.equal(torch.cat([p.clean_tokens for p in parts]), result.clean_tokens)
    assert [name for part in parts for name in part.ids] == list(result.ids)
    assert np.concatenate([part.order for part in parts]).tolist() == list(range(8))


def test_groups_of_equal_length_have_no_padding_and_know_their_order():
    result = encoded()
    groups = list(result.by_length())
    assert [tuple(g.clean_tokens.shape) for g in groups] == [(2, 7), (2, 9), (4, 11)]
    assert not any(group.padded for group in groups)
    assert sorted(np.concatenate([g.order for g in groups]).tolist()) == list(range(8))
    short = groups[0]
    assert short.positions("S2").tolist() == [5, 5]
    assert short.positions("last").tolist() == [6, 6]
    assert [short.ids[0], short.cluster[0]] == [result.ids[4], 2]


@pytest.mark.parametrize("index", [[0, 2], torch.tensor([0, 2]), np.array([0, 2]), slice(0, 3, 2)])
def test_parts_are_taken_by_slice_or_index(index):
    assert encoded()[index].ids == (encoded().ids[0], encoded().ids[2])


def test_parts_are_taken_by_mask_but_not_by_number():
    result = encoded()
    mask = torch.tensor([False] * 7 + [True])
    assert result[mask].ids == result.ids[7:]
    with pytest.raises(ShapeError, match=r"expected +encoded\[2:3\]"):
        result[2]


def test_an_unknown_role_names_the_closest():
    with pytest.raises(PositionError, match=r"\[MT105\].*role 's2'(.|\n)*closest +S2"):
        encoded().positions("s2")


def test_a_role_that_some_templates_lack_names_them():
    with pytest.raises(PositionError, match=r"2 of 8 prompts have no role 'S2'(.|\n)*war"):
        encoded().positions("S2")


def test_an_empty_batch_size_is_refused():
    with pytest.raises(ShapeError, match="size=0"):
        list(encoded().batches(0))


def test_an_empty_collection_is_refused():
    with pytest.raises(PromptError, match="there are no prompts to encode"):
        PromptPairs.from_rows(good_rows()).filter(lambda pair: False).encode(tokenizer())


def test_the_side_travels_with_the_tensors():
    pairs = PromptPairs.from_rows([ioi_row(template=f"t{n}", seed=n) for n in range(1)])
    half = next(half for half in pairs.split() if len(half))
    assert half.encode(tokenizer()).side == half.side
    assert pairs.encode(tokenizer()).side == "all"


def test_without_a_bos_positions_count_what_the_tokenizer_gives():
    """GPT-NeoX adds no bos: positions then begin at the first word."""
    row = ioi_row(positions={"IO": 0, "S1": 2, "S2": 5})
    result = PromptPairs.from_rows([row]).encode(tokenizer(bos=False))
    assert result.clean_tokens.shape == (1, 10)
    assert result.clean_tokens[0, result.positions("S2")[0]] == VOCAB[" Nina"]


def test_prepend_bos_gives_what_a_tokenizer_with_bos_gives():
    """The same file then serves both, and a bos is never doubled."""
    pairs = PromptPairs.from_rows(good_rows())
    plain = pairs.encode(tokenizer())
    for words in (tokenizer(bos=False), tokenizer()):
        assert torch.equal(pairs.encode(words, prepend_bos=True).clean_tokens, plain.clean_tokens)


def test_any_callable_with_decode_is_a_tokenizer():
    row = {"clean": "ab", "corrupted": "ac", "answer": "x", "foil": "y", "template": "t"}
    result = PromptPairs.from_rows([row | {"positions": {}}]).encode(CharacterTokenizer())
    assert result.clean_tokens.tolist() == [[97, 98]]


def test_moving_to_a_device_moves_every_tensor():
    """The meta device stands in for a GPU."""
    moved = encoded().to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    tensors += [moved.answers.answer_ids, moved.answers.foil_ids]
    assert len(tensors) == 6
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_shapes_are_checked_in_tests():
    """A canary: an annotation that is not enforced would let masks of any shape through."""
    result = encoded()
    with pytest.raises(TypeCheckError, match="attention_mask"):
        dataclasses.replace(result, attention_mask=result.attention_mask[:, 1:])
