"""Is a collection of prompts unchangeable, and does the split keep templates apart for good?"""

import copy
import dataclasses
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import PromptError
from mechtest.tasks import (
    DEFAULT_SALT,
    ConfirmationPairs,
    DiscoveryPairs,
    Fingerprints,
    PromptPairs,
    side_of,
)
from tests.tasks.wordlevel import CALM, good_rows, ioi_row, tokenizer

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)


def of_templates(templates):
    return PromptPairs.from_rows([ioi_row(template=name) for name in templates])


@pytest.fixture
def pairs():
    return PromptPairs.from_rows(good_rows())


@CALM
@given(template=st.text(), salt=st.text())
def test_the_side_is_the_lowest_bit_of_the_hash_of_salt_and_template(template, salt):
    """The rule is written out here again, because reports depend on it for good."""
    digest = hashlib.blake2b(f"{salt}|{template}".encode(), digest_size=8).digest()
    assert side_of(template, salt) == ("discovery", "test")[digest[0] & 1]


def test_the_split_of_known_templates_never_changes():
    """Golden values: a change here moves every published claim's test prompts."""
    assert DEFAULT_SALT == "mechtest-split-1"
    sides = {
        "a": "discovery",
        "b": "test",
        "ioi/lately-school-gave-abb": "discovery",
        "ü": "discovery",
    }
    assert {name: side_of(name) for name in sides} == sides


@CALM
@given(templates=names, more=names, seed=st.randoms(use_true_random=False))
def test_the_split_is_stable_under_addition_and_order(templates, more, seed):
    """New templates and another order move nothing from one half to the other."""
    before = of_templates(templates)
    larger = list(dict.fromkeys(templates + more))
    seed.shuffle(larger)
    after = of_templates(larger)
    assert set(before.discovery.templates) <= set(after.discovery.templates)
    assert set(before.test.templates) <= set(after.test.templates)
    assert set(after.discovery.templates) == {t for t in larger if side_of(t) == "discovery"}


@CALM
@given(templates=names, salt=st.text(max_size=5))
def test_the_halves_are_disjoint_and_complete(templates, salt):
    """Every row is in exactly one half, in the order of the whole."""
    pairs = of_templates(templates)
    discovery, test = pairs.split(salt)
    assert sorted(p.id for p in (*discovery, *test)) == sorted(p.id for p in pairs)
    assert not discovery.fingerprints.clusters & test.fingerprints.clusters


def test_another_salt_deals_the_templates_out_anew():
    pairs = of_templates([f"t{n}" for n in range(64)])
    assert pairs.split("one")[0].templates != pairs.split("two")[0].templates


def test_the_halves_have_types_of_their_own(pairs):
    """A function can demand the half it may see; slices and filters keep the type."""
    assert type(pairs.discovery) is DiscoveryPairs
    assert type(pairs.test) is ConfirmationPairs
    assert type(pairs.test[:1]) is ConfirmationPairs
    assert type(pairs.discovery.filter(lambda pair: True)) is DiscoveryPairs
    assert (pairs.side, pairs.discovery.side, pairs.test.side) == ("all", "discovery", "test")
    assert pairs.discovery != pairs.test


def test_no_public_class_can_be_taken_for_a_test():
    """Collectors take imported classes whose names begin with Test for tests."""
    import mechtest.tasks

    assert not [name for name in mechtest.tasks.__all__ if name.startswith("Test")]


def test_a_half_refuses_rows_of_the_other_half(pairs):
    """Wrapping test prompts as discovery prompts does not work."""
    with pytest.raises(PromptError, match="belongs to the other half of the split"):
        DiscoveryPairs(pairs.test.rows)


def test_a_half_is_not_split_again(pairs):
    with pytest.raises(PromptError, match="are the discovery half already"):
        _ = pairs.discovery.test


def test_loading_through_a_half_gives_the_whole():
    """`from_rows` is about files; only `split` makes halves."""
    assert type(DiscoveryPairs.from_rows(good_rows())) is PromptPairs


def test_len_iteration_index_slice(pairs):
    assert len(pairs) == 8
    assert list(pairs)[2] is pairs[2]
    assert pairs[-1] is pairs.rows[7]
    assert pairs[2:4].rows == pairs.rows[2:4]


def test_templates_and_groups_keep_the_order_of_the_file(pairs):
    assert pairs.templates == ("met-gave", "letter-only", "short", "war")
    groups = pairs.by_template()
    assert list(groups) == list(pairs.templates)
    assert [len(group) for group in groups.values()] == [2, 2, 2, 2]


def test_filter_by_template_behaviour_and_function():
    rows = [ioi_row(behaviour="ioi"), ioi_row("Ruth", behaviour="other", template="t")]
    pairs = PromptPairs.from_rows(rows)
    assert pairs.filter(template="t").rows == pairs.rows[1:]
    assert pairs.filter(behaviour=["ioi", "other"]) == pairs
    assert len(pairs.filter(lambda pair: "Ruth" in pair.clean, behaviour="ioi")) == 0


def test_filtering_for_an_unknown_name_is_an_error(pairs):
    """A typing mistake may not become an empty claim."""
    with pytest.raises(PromptError, match=r"no row has the template 'shrot'(.|\n)*closest +short"):
        pairs.filter(template="shrot")
    with pytest.raises(PromptError, match="no row has the behaviour 'ioi'"):
        pairs.filter(behaviour="ioi")


def test_rows_and_collections_cannot_be_changed(pairs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs.rows = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs[0].clean = "x"
    assert hash(pairs) == hash(copy.deepcopy(pairs))


def test_collections_travel_between_processes(pairs):
    """Workers get them by pickle."""
    assert pickle.loads(pickle.dumps(pairs.test)) == pairs.test


@CALM
@given(order=st.permutations(range(8)))
def test_the_digest_is_of_the_content_not_the_order(order):
    rows = good_rows()
    whole = PromptPairs.from_rows(rows)
    assert PromptPairs.from_rows([rows[index] for index in order]).digest == whole.digest


@pytest.mark.parametrize("change", [{"answer": " Ruth"}, {"seed": 4}, {"positions": {"IO": 1}}])
def test_the_digest_moves_with_any_field(change):
    assert of_templates(["t"]).digest != PromptPairs.from_rows([ioi_row(**change)]).digest


def test_deduplicated_keeps_the_first_of_equal_rows():
    pairs = PromptPairs.from_rows([ioi_row(), ioi_row("Ruth"), ioi_row()])
    assert pairs.deduplicated().rows == pairs.rows[:2]


def test_fingerprints_see_shared_prompts_and_templates(pairs):
    """The halves share nothing; a part shares with its whole; blanks do not hide a prompt."""
    assert not pairs.discovery.fingerprints & pairs.test.fingerprints
    part = pairs[:2].fingerprints
    assert part & pairs.fingerprints == part
    assert len(part.texts) == 4
    assert len(part.clusters) == 1
    spaced = Fingerprints.of(texts=[" " + pairs[0].clean.replace(" ", "  ") + " "])
    assert spaced & part == spaced
    assert Fingerprints.of(texts=["a"]) & Fingerprints.of(clusters=["a"]) == Fingerprints()


def test_fingerprints_are_64_bits_and_survive_json(pairs):
    prints = pairs.encode(tokenizer()).fingerprints
    assert all(len(mark) == 16 for marks in prints.to_row().values() for mark in marks)
    assert Fingerprints.from_row(prints.to_row()) == prints
    assert len(prints.tokens) == len(prints.texts)
    assert prints | Fingerprints() == prints


def test_a_template_is_derived_by_masking_roles_and_changed_tokens():
    """Prompts that differ in their slots only get one name; other wording gets another."""
    rows = [
        ioi_row(template=...),
        ioi_row("Ruth", "Ivan", template=...),
        ioi_row("Ruth", "Ivan", "letter", template=..., positions={"IO": 1, "S1": 3}, changed=...),
    ]
    pairs = PromptPairs.from_rows(rows, tokenizer=tokenizer())
    assert pairs.templates == (
        "masked: {IO} and{S1} met.{S2} gave a book to",
        "masked: {IO} and{S1} met.{changed} gave a letter to",
    )
    assert PromptPairs.from_rows(pairs) == pairs


def test_the_repr_names_source_and_counts(pairs):
    assert repr(pairs).startswith("<PromptPairs rows: 8 prompts, 4 templates, ")
    assert repr(pairs.test).startswith("<ConfirmationPairs rows: ")
