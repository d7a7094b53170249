"""Tables offer what a prompt allows; the two draws take from it and count what it does not."""

from collections import Counter

import pytest
from hypothesis import find, given, settings, strategies

from mechtest.errors import PromptError, TokenizerMissingError
from mechtest.stats import keyed_generator
from mechtest.tasks import PromptPairs
from mechtest.tasks.perturbation import (
    Casing,
    Menu,
    Names,
    Number,
    Numbers,
    Perturbation,
    Prefix,
    Prefixes,
    Refusal,
    Rename,
    Renderer,
    Synonym,
    Synonyms,
    perturbations,
)
from tests.tasks.wordlevel import CALM, ioi_row, tokenizer

PAIRS = PromptPairs.from_rows(
    [
        ioi_row("Emma", "Nina", id="a"),
        ioi_row("Ruth", "Ivan", "letter", id="b", template="other"),
        ioi_row("Adam", "Boris", id="c"),
    ]
)
OPERATIONS = [
    Prefix("Peter is in Rome."),
    Synonyms.of({"book": ("letter", "war")}),
    Prefix("Shelby is in Paris."),
    Casing(),
]


def menu(**options):
    values = {"prompts": PAIRS, "operations": OPERATIONS, "max_edits": 2, "tokenizer": tokenizer()}
    return Menu(**{**values, **options})


def test_tables_offer_what_is_in_the_prompt():
    first, other, _ = PAIRS.rows
    table = Synonyms.of({"book": ["letter", "war"], "met": "gave"})
    assert table.choices(first) == (
        Synonym("book", "letter"), Synonym("book", "war"), Synonym("met", "gave"),
    )  # fmt: skip
    assert table.choices(other) == (Synonym("met", "gave"),)
    assert Numbers(("18", "17")).choices(first) == ()
    names = Names((("Emma", "Ruth", "Nina"), ("Ivan",)), each=1)
    assert names.choices(first) == (Rename("Emma", "Ruth"), Rename("Nina", "Emma"))
    year = PromptPairs.from_rows([{**ioi_row(), "clean": "The war from 18 to"}]).rows[0]
    assert Numbers(("18", "17")).choices(year) == (Number("18", "17"),)


def test_names_come_from_a_role_a_group_for_each_answer():
    rows = [
        {**ioi_row(), "clean": f"{name} is in", "corrupted": f"{twin} is in", "answer": answer,
         "foil": foil, "positions": {"person": 1}, "changed": ["person"], "template": name}
        for name, twin, answer, foil in (
            ("Emma", "Ivan", " Paris", " Rome"),
            ("Nina", "Ivan", " Paris", " Rome"),
            ("Ivan", "Emma", " Rome", " Paris"),
            ("Adam", "Emma", " Rome", " Paris"),
        )
    ]  # fmt: skip
    assert Names.from_prompts(PromptPairs.from_rows(rows), "person").groups == (
        ("Emma", "Nina"), ("Ivan", "Adam"),
    )  # fmt: skip


def test_names_that_are_answers_are_no_names_to_exchange():
    with pytest.raises(PromptError, match="no words at role 'IO' can be exchanged"):
        Names.from_prompts(PAIRS, "IO")


def test_openings_come_from_the_prompts_and_hold_no_role():
    rows = [ioi_row(), ioi_row("Ruth", "Ivan")]
    for row, opening in zip(rows, ("In Paris, ", "At the war, "), strict=True):
        row["clean"], row["corrupted"] = opening + row["clean"], opening + row["corrupted"]
        size = len(opening.replace(",", " ,").split())
        row["positions"] = {role: place + size for role, place in row["positions"].items()}
    found = Prefixes.from_prompts(PromptPairs.from_rows([*rows, ioi_row("Adam", "Boris")]))
    assert found.openings == ("In Paris,", "At the war,")
    with pytest.raises(PromptError, match="no prompt opens"):
        Prefixes.from_prompts(PAIRS)


def test_what_a_prompt_does_not_allow_is_counted():
    found = menu()
    kinds = [found.kinds(pair) for pair in PAIRS]
    assert [list(one) for one in kinds] == [
        ["Prefix", "Synonym"],
        ["Prefix"],
        ["Prefix", "Synonym"],
    ]
    assert kinds[0]["Prefix"] == (OPERATIONS[0], OPERATIONS[2])
    assert found.skipped == "Casing 3 (unknown word)"
    for pair in PAIRS:
        found.kinds(pair)
    assert found.refused["Casing", "unknown word"] == 3, "once a prompt"


def test_a_draw_is_that_of_its_key():
    def draws(claim, count=30):
        found = menu()
        return [
            found.draw(PAIRS.rows[0], keyed_generator(0, claim, "perturbation", draw))
            for draw in range(count)
        ]

    assert draws("t.py::t") == draws("t.py::t")
    assert draws("t.py::t") != draws("t.py::u")
    assert draws("t.py::t", 3) == draws("t.py::t")[:3], "asking for more moves no other"


def test_draws_are_independent_and_repeat():
    """Kinds and edits of a kind are equally likely, and drawn with replacement."""
    found, generator = menu(max_edits=1), keyed_generator(0, "t", "perturbation")
    drawn = Counter(found.draw(PAIRS.rows[0], generator).operations for _ in range(2000))
    assert len(drawn) == 4
    assert all(410 < count < 590 for count in drawn.values()), drawn


def test_a_prompt_without_edits_has_no_draw():
    found = menu(operations=[Synonym("book", "war")])
    generator = keyed_generator(0, "t", "perturbation")
    assert found.draw(PAIRS.rows[1], generator) is None
    assert found.draw(PAIRS.rows[0], generator) is not None


@CALM
@given(perturbations(PAIRS, OPERATIONS, tokenizer=tokenizer()))
def test_every_draw_renders_with_one_edit_of_a_kind(drawn):
    kinds = [one.kind for one in drawn.operations]
    assert len(set(kinds)) == len(kinds) in (1, 2)
    assert not isinstance(Renderer(tokenizer()).render(drawn), Refusal)


@pytest.mark.parametrize(
    ("broken", "smallest"),
    [
        (lambda one: True, ({"b"}, (OPERATIONS[0],))),  # it allows one kind of edit only
        (lambda one: "Shelby" in repr(one.operations), ({"a", "b"}, (OPERATIONS[2],))),
        (lambda one: one.base.id == "b", ({"b"}, (OPERATIONS[0],))),
        (lambda one: len(one.operations) == 2, ({"a"}, (OPERATIONS[0], Synonym("book", "letter")))),
    ],
)
def test_what_breaks_is_shrunk_to_the_fewest_and_simplest_edits(broken, smallest):
    found = find(
        perturbations(PAIRS, OPERATIONS, tokenizer=tokenizer()), broken,
        settings=settings(database=None),  # what an earlier run has found is no find of this one
    )  # fmt: skip
    assert found.base.id in smallest[0]
    assert set(found.operations) == set(smallest[1])


def test_no_choice_is_among_more_things_than_hypothesis_leaves_alone(monkeypatch):
    """From 100 on it tries numbers of the source of loaded modules: another run, other prompts."""
    sizes = []
    plain = strategies.sampled_from
    monkeypatch.setattr(
        strategies, "sampled_from", lambda items: sizes.append(len(items)) or plain(items)
    )
    many = PromptPairs.from_rows([ioi_row(id=f"{n:03d}", seed=n) for n in range(250)])
    openings = [Prefix(f"{n}") for n in range(120)]
    last = find(perturbations(many, openings), lambda one: one.base.id == "249")
    assert last.operations == (openings[0],)
    assert sizes
    assert max(sizes) == 100


def test_without_a_tokenizer_edits_are_offered_unchecked():
    free = perturbations(PAIRS, [Casing()])
    assert find(free, lambda one: True) == Perturbation(PAIRS.rows[0], (Casing(),))
    with pytest.raises(TokenizerMissingError):
        menu(tokenizer=None).renderer  # noqa: B018


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"operations": []}, "made by operations"),
        ({"operations": ["Lately,"]}, "made by operations"),
        ({"max_edits": 0}, "max_edits=0"),
    ],
)
def test_a_menu_needs_operations(options, text):
    with pytest.raises(PromptError, match=text):
        menu(**options)


def test_a_strategy_without_any_edit_says_what_was_left_out():
    with pytest.raises(PromptError, match=r"no prompt allows any") as raised:
        perturbations(PAIRS, [Casing()], tokenizer=tokenizer())
    assert "Casing 3 (unknown word)" in str(raised.value)
