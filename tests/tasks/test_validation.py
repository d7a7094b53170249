"""Is everything that can be wrong with prompts found, and told so that it can be mended?"""

import pytest

from mechtest.errors import (
    AlignmentError,
    AnswerTokenError,
    MechtestError,
    PaddingError,
    PromptError,
    TokenizerMissingError,
)
from mechtest.tasks import PromptPairs
from mechtest.tasks.tokens import PairTokenizer
from tests.tasks.wordlevel import VOCAB, CharacterTokenizer, good_rows, ioi_row, tokenizer, year_row


def with_row(**changes):
    """Return good prompts and one row, `odd`, that is changed."""
    return PromptPairs.from_rows([*good_rows(), ioi_row("Peter", id="odd", **changes)])


def kinds(pairs, **options):
    return [(f.row, f.kind, f.severity) for f in pairs.validate(tokenizer(), **options)]


def test_good_prompts_have_no_findings():
    """Rows that differ in their slots only are what templates are for."""
    assert PromptPairs.from_rows(good_rows()).validate(tokenizer()) == ()
    assert with_row().validate(tokenizer()) == ()


def test_unequal_lengths_are_drawn_token_by_token():
    """The two rows stand under each other, gaps filled, differences marked."""
    pairs = with_row(corrupted="Peter and met. Peter gave a book to", changed=...)
    with pytest.raises(AlignmentError, match=r"\[MT302\].*odd: clean has 11 tokens and corr.* 10"):
        pairs.encode(tokenizer())
    (finding,) = pairs.validate(tokenizer())
    drawn = finding.given.splitlines()
    assert drawn == [
        "pos        0      1       2     3      4     5  6       7      8   9      10",
        "role              IO            S1              S2",
        "clean      <bos>  ·Peter  ·and  ·Nina  ·met  .  ·Nina   ·gave  ·a  ·book  ·to",
        "corrupted  <bos>  ·Peter  ·and  -      ·met  .  ·Peter  ·gave  ·a  ·book  ·to",
        "                                ^               ^",
    ]


def test_a_long_prompt_is_cut_to_what_differs():
    """The drawing of 60 tokens is as short as that of 11."""
    filler = "The letter is in the book. " * 8
    row = ioi_row("Peter", positions={"S2": 54}, changed=["S2"], id="long", template="long")
    row |= {"clean": filler + row["clean"], "corrupted": filler + row["corrupted"]}
    pairs = PromptPairs.from_rows([*good_rows(), row])
    (finding,) = pairs.validate(tokenizer())
    assert finding.kind == "changed_elsewhere"
    assert len(finding.given.splitlines()) <= 10
    assert "..." in finding.given


def test_an_answer_of_two_tokens_is_told_with_its_pieces():
    with pytest.raises(AnswerTokenError, match=r"\[MT303\].*answer ' Emma Ruth' is not exactly"):
        with_row(answer=" Emma Ruth").encode(tokenizer())
    (finding,) = with_row(foil=[" Emma", " Rome Paris"]).validate(tokenizer())
    assert finding.kind == "foil_not_one_token"
    rome, paris = VOCAB[" Rome"], VOCAB[" Paris"]
    assert finding.given == f"' Rome Paris' = 2 token(s): {rome}=' Rome', {paris}=' Paris'"
    assert "leading space included" in finding.expected


def test_an_answer_the_tokenizer_does_not_know_is_an_error():
    (finding,) = with_row(answer=" Zebra").validate(tokenizer())
    assert finding.what == "answer ' Zebra' is a word the tokenizer does not know"


def test_a_forgotten_leading_space_is_pointed_out():
    """The zoo's tokenizer adds it; one that does not (GPT-NeoX) would read another token."""
    pairs = with_row(answer="Peter")
    (finding,) = pairs.validate(tokenizer())
    assert (finding.kind, finding.severity) == ("answer_lacks_space", "warning")
    assert finding.closest == ("' Peter'",)
    assert pairs.encode(tokenizer()).answers.answer_ids[-1, 0] == VOCAB[" Peter"]


class TwoLetters(CharacterTokenizer):
    """Cuts text at blanks; a word with its blank is one token, anything else goes by letters."""

    def __call__(self, text, *, add_special_tokens=True):
        ids = []
        for word in text.replace(" ", "| ").split("|"):
            ids += [1000 + len(word)] if word.startswith(" ") else list(map(ord, word))
        return {"input_ids": ids}


def test_the_error_offers_the_spaced_form_when_that_is_one_token():
    row = ioi_row(answer="Emma", foil=" Al", changed=..., positions={}, corrupted="Nina" + 36 * "x")
    pairs = PromptPairs.from_rows([row, ioi_row("B", template="two")])
    finding = next(f for f in pairs.validate(TwoLetters()) if f.kind == "answer_not_one_token")
    assert finding.closest == ("' Emma'",)
    assert finding.next_step == "write ' Emma' (token 1005)"


def test_the_answer_is_the_token_that_continues_the_prompt():
    """After `18` the year is read as `98`; alone the tokenizer reads ` 98`, another token."""
    row = year_row() | {"clean": "The war lasted from 18 97 to 18", "answer": "98", "foil": "97"}
    spaced = year_row() | {
        "answer": " 98",
        "foil": " 97",
        "id": "spaced",
        "clean": year_row(50)["clean"],
    }
    ids = PromptPairs.from_rows([row, spaced]).encode(tokenizer()).answers.answer_ids
    assert ids.flatten().tolist() == [VOCAB["98"], VOCAB[" 98"]]


def test_an_answer_that_is_also_a_foil_is_an_error():
    with pytest.raises(AnswerTokenError, match=r"' Nina' \(token \d+\) is both answer and foil"):
        with_row(answer=[" Nina", " Peter"], foil=[" Ruth", " Nina"]).encode(tokenizer())
    assert kinds(with_row(answer="Nina", foil=" Nina"))[-1] == ("odd", "answer_is_foil", "error")


def test_an_answer_listed_twice_is_an_error():
    """It would count twice in a probability mass, also when only the tokens are equal."""
    assert ("odd", "repeated_answer", "error") in kinds(with_row(answer=[" Peter", " Peter"]))
    assert ("odd", "repeated_answer", "error") in kinds(with_row(foil=[" Nina", "Nina"]))


def test_identical_prompts_are_an_error():
    pairs = with_row(corrupted=ioi_row("Peter")["clean"], changed=...)
    with pytest.raises(AlignmentError, match="clean and corrupted prompt are the same text"):
        pairs.encode(tokenizer())
    spaced = with_row(corrupted=" " + ioi_row("Peter")["clean"], changed=...)
    with pytest.raises(AlignmentError, match="different texts but the same tokens"):
        spaced.encode(tokenizer())


@pytest.mark.parametrize("changed", [["S1"], ["S2", "IO"], [], ["last"]])
def test_tokens_may_only_differ_where_changed_says(changed):
    with pytest.raises(AlignmentError, match=r"tokens differ at position 6, but the roles in"):
        with_row(changed=changed).encode(tokenizer())


def test_changed_is_only_checked_where_it_is_stated():
    assert kinds(with_row(changed=...)) == []


def test_changed_may_name_the_last_token():
    row = {"clean": "The war is in Paris", "corrupted": "The war is in Rome", "changed": ["last"]}
    row |= {"answer": " is", "foil": " in", "template": "place", "positions": {}}
    assert kinds(PromptPairs.from_rows([*good_rows(), row])) == []


def test_a_changed_role_without_position_is_named():
    pairs = with_row(changed=["S3"])
    finding = pairs.validate()[0]
    assert (finding.kind, finding.closest) == ("unknown_role", ("S2", "S1"))


def test_positions_outside_the_prompt_are_an_error():
    with pytest.raises(AlignmentError, match="role 'IO' is at position 11, but the prompt has 11"):
        with_row(positions={"IO": 11, "S1": 3, "S2": 6}).encode(tokenizer())


def test_last_means_last():
    good = {"IO": 1, "S1": 3, "S2": 6, "last": 10}
    assert kinds(with_row(positions=good)) == []
    pairs = with_row(positions={**good, "last": 9})
    with pytest.raises(AlignmentError, match="role 'last' is at position 9, the last token at 10"):
        pairs.encode(tokenizer())


def test_a_role_missing_in_some_rows_of_a_template_is_an_error():
    pairs = with_row(positions={"S1": 3, "S2": 6})
    with pytest.raises(PromptError, match="odd: has no role 'IO', which other rows of template"):
        pairs.encode(tokenizer())


def test_duplicate_rows_are_an_error_that_names_the_first():
    pairs = PromptPairs.from_rows([*good_rows(), ioi_row(id="again")])
    with pytest.raises(PromptError, match=f"again: repeats the prompts .* row '{pairs[0].id}'"):
        pairs.encode(tokenizer())
    assert pairs.deduplicated().validate(tokenizer()) == ()


def test_one_prompt_under_two_templates_is_an_error():
    """Its two copies could land on both sides of the split."""
    pairs = PromptPairs.from_rows([ioi_row(), ioi_row(template="other", foil=" Ruth", id="odd")])
    assert kinds(pairs) == [("odd", "shared_prompt", "error")]


def test_a_corrupted_prompt_that_is_clean_elsewhere_is_a_warning():
    other = ioi_row("Nina", "Emma", id="odd", template="other")
    other |= {"corrupted": ioi_row()["clean"], "changed": ["IO", "S1"]}
    other |= {"clean": "Nina and Emma met. Nina gave a book to"}
    assert ("odd", "shared_prompt", "warning") in kinds(PromptPairs.from_rows([ioi_row(), other]))


def test_unknown_words_in_a_prompt_are_an_error():
    row = ioi_row("Peter", thing="zebra")
    pairs = with_row(clean=row["clean"], corrupted=row["corrupted"])
    with pytest.raises(PromptError, match=r"2 problems in 1 row \(unknown_token 2\)"):
        pairs.encode(tokenizer())
    assert "at position 9" in pairs.validate(tokenizer())[0].what


def test_a_single_template_is_a_warning_that_does_not_stop_encoding():
    pairs = PromptPairs.from_rows([ioi_row(), ioi_row("Ruth")])
    assert kinds(pairs) == [("", "few_templates", "warning")]
    assert len(pairs.encode(tokenizer())) == 2


def test_a_trailing_space_is_a_warning():
    row = ioi_row("Peter")
    pairs = with_row(clean=row["clean"] + " ", corrupted=row["corrupted"] + " ")
    assert ("odd", "trailing_space", "warning") in kinds(pairs)


def test_derived_templates_of_single_rows_are_a_warning():
    """A slot without a role would count every filler as an independent template."""
    rows = [ioi_row(template=..., thing=thing) for thing in ("book", "letter")]
    pairs = PromptPairs.from_rows(rows, tokenizer=tokenizer())
    assert kinds(pairs) == [("", "single_row_templates", "warning")]


def test_an_end_of_text_token_behind_the_prompt_is_an_error():
    """Metrics would read the token after it."""
    with pytest.raises(PromptError, match="puts an end-of-text token after the prompt"):
        PromptPairs.from_rows(good_rows()[:1]).encode(tokenizer(eos=True))


def test_problems_of_all_rows_are_told_together():
    rows = [ioi_row(name, "Nina", answer=" Zebra") for name in ("Ruth", "Ivan", "Adam")]
    rows.append(ioi_row("Peter", changed=["IO"], template="t"))
    with pytest.raises(PromptError) as caught:
        PromptPairs.from_rows(rows).encode(tokenizer())
    assert type(caught.value) is PromptError
    counts = "4 problems in 4 rows (answer_not_one_token 3, changed_elsewhere 1):"
    assert counts in str(caught.value)
    assert str(caught.value).endswith("prompts.validate(tokenizer) lists them all")


def test_without_a_tokenizer_only_the_text_is_checked():
    assert with_row(answer=" Zebra").validate() == ()
    assert [f.kind for f in with_row(changed=["S9"]).validate()] == ["unknown_role"]


@pytest.mark.parametrize("given", [None, "gpt2", len])
def test_something_that_is_no_tokenizer_is_refused(given):
    with pytest.raises(TokenizerMissingError, match=r"\[MT401\].*without a tokenizer"):
        PairTokenizer(given)


def test_a_model_without_tokenizer_cannot_encode():
    with pytest.raises(TokenizerMissingError, match=r"given +None \(NoneType\)"):
        PromptPairs.from_rows(good_rows()).encode(None)


def test_no_bos_to_prepend_is_refused():
    with pytest.raises(TokenizerMissingError, match="no bos token to put in front"):
        PromptPairs.from_rows(good_rows()).encode(CharacterTokenizer(), prepend_bos=True)


def test_no_token_to_pad_with_is_refused():
    with pytest.raises(PaddingError, match=r"\[MT402\](.|\n)*lengths 7, 11"):
        PromptPairs.from_rows(good_rows()[:6]).encode(tokenizer(pad=False))


def test_errors_come_back_whole_from_another_process():
    """Workers send them by pickle."""
    import pickle

    with pytest.raises(MechtestError) as caught:
        with_row(changed=["S1"]).encode(tokenizer())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_explain_says_what_a_claim_would_stand_on():
    text = PromptPairs.from_rows(good_rows()).explain(tokenizer())
    for line in (
        "prompts       8 pairs of 4 templates",
        "per template  2 prompts",
        "lengths       7 tokens x2, 9 tokens x2, 11 tokens x4",
        "roles         IO at 1 in 6 prompts, S1 at 3 in 6 prompts, S2 at 5 to 6 in 6 prompts,",
        "foils         1 to 97 tokens a prompt",
        "errors        none",
        "      6  ' Nina'           corrupted ' Emma'  S2",
        "     10  ' to'             last",
    ):
        assert line in text


def test_explain_shows_findings_instead_of_raising():
    text = with_row(changed=["S1"], answer="Peter").explain(tokenizer())
    assert "errors        1: changed_elsewhere 1\n    odd: tokens differ at position 6" in text
    assert "warnings      1: answer_lacks_space 1" in text
