"""An edit leaves the same question, with roles where their words are, or it is refused."""

from dataclasses import dataclass

import pytest
from hypothesis.vendor.pretty import pretty

from mechtest.errors import PromptError
from mechtest.tasks import PromptPairs
from mechtest.tasks.perturbation import (
    Attractor,
    Blanks,
    Casing,
    Distractor,
    Filler,
    MarkedText,
    Number,
    Operation,
    Perturbation,
    Prefix,
    Refusal,
    Rename,
    Renderer,
    SwapRoles,
    SwapSentences,
    Synonym,
    perturbed,
)
from tests.tasks.wordlevel import CharacterTokenizer, ioi_row, tokenizer, year_row


def pair_of(row=None):
    return PromptPairs.from_rows([row or ioi_row()]).rows[0]


def rendered(*operations, row=None, words=None):
    found = Renderer(words or tokenizer()).render(Perturbation(pair_of(row), operations))
    return found if isinstance(found, Refusal) else (found.clean, dict(found.positions))


AT = {"IO": 1, "S1": 3, "S2": 6}


@pytest.mark.parametrize(
    ("operation", "clean", "moved"),
    [
        (Prefix("Ruth met Ivan."), "Ruth met Ivan. Emma and Nina met. Nina gave a book to", 4),
        (Casing("lower"), None, "unknown word"),
        (Blanks(), None, "unknown word"),
        (Synonym("book", "letter"), "Emma and Nina met. Nina gave a letter to", 0),
        (Rename("book", "letter"), "Emma and Nina met. Nina gave a letter to", 0),
        (Rename("Emma", "Ruth"), None, "mentions the answer or foil"),
        (Synonym("boo", "letter"), None, "does not apply"),
        (Synonym("book", "Nina"), None, "does not apply"),
        (Prefix("Emma met Ruth."), None, "mentions the answer or foil"),
        (Prefix("Yesterday,"), None, "unknown word"),
        (Attractor("Ruth"), None, "does not apply"),
        (Attractor("Ruth", role="S1"), None, "mentions the answer or foil"),
        (SwapSentences(), None, "does not apply"),
        (Filler("at Paris", after="nobody"), None, "does not apply"),
    ],
)
def test_an_edit_of_the_sentence(operation, clean, moved):
    found = rendered(operation)
    if clean is None:
        assert found == Refusal(operation.kind, moved)
    else:
        assert found == (clean, {role: place + moved for role, place in AT.items()})


def test_roles_behind_a_filler_move_and_those_before_stay():
    text, positions = rendered(Filler("at Paris", after="S1"))
    assert text == "Emma and Nina at Paris met. Nina gave a book to"
    assert positions == {"IO": 1, "S1": 3, "S2": 8}


def test_a_distractor_stands_before_the_last_sentence():
    text, positions = rendered(Distractor("Ruth is in Rome."))
    assert text == "Emma and Nina met. Ruth is in Rome. Nina gave a book to"
    assert positions == {"IO": 1, "S1": 3, "S2": 11}


def test_roles_go_with_their_words():
    text, positions = rendered(SwapRoles("IO", "S1"))
    assert text == "Nina and Emma met. Nina gave a book to"
    assert positions == {"S1": 1, "IO": 3, "S2": 6}


def test_sentences_change_places_with_their_roles():
    row = ioi_row(
        clean="Emma met Ruth. Nina met Emma. Nina gave a book to",
        corrupted="Emma met Ruth. Nina met Emma. Emma gave a book to",
        positions={"IO": 1, "S1": 5, "S2": 9},
    )
    text, positions = rendered(SwapSentences(), row=row)
    assert text == "Nina met Emma. Emma met Ruth. Nina gave a book to"
    assert positions == {"S1": 1, "IO": 5, "S2": 9}


def test_a_number_that_is_an_answer_is_refused():
    row = year_row() | {"clean": "The war lasted from 18 97 to 18"}
    assert rendered(Number("18", "97"), row=row).reason == "changed elsewhere"
    assert rendered(Number("18", "17"), row=row).reason == "mentions the answer or foil"


def test_edits_follow_one_another():
    text, positions = rendered(Prefix("Ruth met Ivan."), Filler("at Paris", after="S1"))
    assert text == "Ruth met Ivan. Emma and Nina at Paris met. Nina gave a book to"
    assert positions == {"IO": 5, "S1": 7, "S2": 12}
    assert rendered(Prefix("Ruth met Ivan."), Casing()) == Refusal("Casing", "unknown word")


def test_the_rest_of_the_pair_stays():
    base = pair_of()
    found = Renderer(tokenizer()).render(Perturbation(base, (Prefix("Ruth met Ivan."),)))
    assert (found.answer, found.foil, found.template) == (base.answer, base.foil, base.template)
    assert found.corrupted == f"Ruth met Ivan. {base.corrupted}"
    assert found.id != base.id
    assert found.changed == ("S2",)


def test_no_edit_gives_the_prompt_itself():
    base = pair_of()
    assert Renderer(tokenizer()).render(Perturbation(base, ())) == base


def test_a_tokenizer_of_characters_finds_roles_by_their_first_letter():
    row = ioi_row(
        clean="a and b met. b gave to", corrupted="a and b met. a gave to", answer="a", foil="b",
        positions={"IO": 0, "S1": 6, "S2": 13},
    )  # fmt: skip
    text, positions = rendered(Prefix("To,"), row=row, words=CharacterTokenizer())
    assert text == "To, a and b met. b gave to"
    assert positions == {"IO": 4, "S1": 10, "S2": 17}


@dataclass(frozen=True)
class Politely(Operation):
    """What a user writes."""

    def edit(self, text):
        return text.inserted(0, "The letter is in Rome. ")


@dataclass(frozen=True)
class OfOneTwin(Operation):
    """An edit that does not do the same to both."""

    to: str = "to Ivan"

    def edit(self, text):
        return (
            text.replaced(len(text.text) - 2, len(text.text), self.to)
            if ("Nina gave" in text.text)
            else None
        )


@dataclass(frozen=True)
class Forgetful(Operation):
    """An edit that loses a role."""

    def edit(self, text):
        return MarkedText(f"The {text.text}", text.marks[1:])


@dataclass(frozen=True)
class Idle(Operation):
    """An edit that changes nothing."""

    def edit(self, text):
        return text.replaced(0, 4, "Emma")


def test_an_operation_of_ones_own_takes_a_few_lines():
    text, positions = rendered(Politely())
    assert text == "The letter is in Rome. Emma and Nina met. Nina gave a book to"
    assert positions == {role: place + 6 for role, place in AT.items()}


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (OfOneTwin(), "unequal length"),
        (OfOneTwin("in"), "changed elsewhere"),
        (Forgetful(), "loses role 'IO'"),
        (Idle(), "changes no token"),
    ],
)
def test_an_edit_that_changes_the_question_is_refused(operation, reason):
    assert rendered(operation) == Refusal(operation.kind, reason)


def test_without_a_stated_change_twins_have_to_differ_as_before():
    row = ioi_row(changed=...)
    found = rendered(OfOneTwin("in"), row=row)
    assert found.reason == "changes what the twins differ in"


def test_a_perturbation_is_written_as_it_is_read():
    pairs = PromptPairs.from_rows([ioi_row(id="a"), ioi_row("Ruth", "Ivan", id="b")])
    found = perturbed(pairs, "b", Prefix("Ruth met Ivan."), Politely())
    assert repr(found) == (
        "mt.perturbed(PROMPTS, 'b', mt.Prefix(words='Ruth met Ivan.'), Politely())"
    )
    import mechtest as mt

    names = {"mt": mt, "PROMPTS": pairs, "Politely": Politely}
    assert eval(repr(found), names) == found
    assert pretty(found) == repr(found), "where Hypothesis prints a failing test case"
    with pytest.raises(PromptError, match="no prompt is called 'c'"):
        perturbed(pairs, "c")


def test_an_operation_without_an_edit_says_so():
    with pytest.raises(NotImplementedError, match="Operation has no edit"):
        rendered(Operation())
