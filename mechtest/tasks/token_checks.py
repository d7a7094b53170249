"""What does a tokenizer make of each row: do the twins line up, and is every answer one token?

Every check returns findings; nothing is repaired, dropped or raised here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mechtest.errors import AlignmentError, AnswerTokenError
from mechtest.tasks.alignment import draw_alignment
from mechtest.tasks.findings import Finding
from mechtest.tasks.tokens import AnswerToken, PairTokenizer, PairTokens

__all__ = ["token_findings"]

LAST = "last"


def token_findings(rows: Iterable[PairTokens], tokenizer: PairTokenizer) -> Iterator[Finding]:
    """Check what a tokenizer makes of each row: lengths, differences, roles, answers."""
    for row in rows:
        yield from _length_findings(row, tokenizer)
        yield from _position_findings(row, tokenizer)
        yield from _unknown_tokens(row, tokenizer)
        for label, answers in (("answer", row.answer), ("foil", row.foil)):
            yield from _answer_findings(row, label, answers, tokenizer)
        yield from _overlap_findings(row)


def _length_findings(row: PairTokens, tokenizer: PairTokenizer) -> Iterator[Finding]:
    if len(row.clean) != len(row.corrupted):
        yield Finding(
            "unequal_length",
            row.pair.id,
            f"clean has {len(row.clean)} tokens and corrupted {len(row.corrupted)}",
            given=_drawn(row, tokenizer),
            expected="equal lengths: a patch copies position p of one run into p of the other",
            next_step="replace words by words of the same number of tokens",
            error=AlignmentError,
        )
    elif not row.differing and row.pair.clean != row.pair.corrupted:
        yield Finding(
            "identical_prompts",
            row.pair.id,
            "clean and corrupted prompt are different texts but the same tokens",
            given=f"{row.pair.clean!r} and {row.pair.corrupted!r}",
            error=AlignmentError,
        )
    if row.clean and row.clean[-1] == tokenizer.eos and tokenizer.eos is not None:
        yield Finding(
            "ends_with_eos",
            row.pair.id,
            "the tokenizer puts an end-of-text token after the prompt, so 'last' is not the "
            "prompt's last word",
            given=repr(row.pair.clean[-20:]),
            next_step="load the tokenizer with add_eos_token=False",
        )


def _position_findings(row: PairTokens, tokenizer: PairTokenizer) -> Iterator[Finding]:
    positions = dict(row.pair.positions)
    length = len(row.clean)
    for role, position in positions.items():
        if position >= length:
            yield Finding(
                "position_out_of_range",
                row.pair.id,
                f"role {role!r} is at position {position}, but the prompt has {length} tokens",
                given=f"positions[{role!r}]={position}",
                expected=f"0 to {length - 1}, counting the bos token if there is one",
                error=AlignmentError,
            )
    if positions.get(LAST, length - 1) < length - 1:
        yield Finding(
            "last_is_not_last",
            row.pair.id,
            f"role 'last' is at position {positions[LAST]}, the last token at {length - 1}",
            expected="no 'last' at all (it is always there), or the last token's position",
            error=AlignmentError,
        )
    if row.pair.changed is None or not row.differing:
        return
    stated = {positions[role] for role in row.pair.changed if role in positions}
    if LAST in row.pair.changed:
        stated.add(length - 1)
    if stated != set(row.differing):
        yield Finding(
            "changed_elsewhere",
            row.pair.id,
            f"tokens differ at {_listed(row.differing)}, but the roles in 'changed' "
            f"({', '.join(row.pair.changed) or 'none'}) are at {_listed(sorted(stated))}",
            given=_drawn(row, tokenizer),
            expected="'changed' names exactly the roles at which the two prompts differ",
            error=AlignmentError,
        )


def _unknown_tokens(row: PairTokens, tokenizer: PairTokenizer) -> Iterator[Finding]:
    if tokenizer.unknown is None:
        return
    for label, tokens in (("clean", row.clean), ("corrupted", row.corrupted)):
        places = [index for index, token in enumerate(tokens) if token == tokenizer.unknown]
        if places:
            yield Finding(
                "unknown_token",
                row.pair.id,
                f"its {label} prompt has a word that the tokenizer does not know, at "
                f"{_listed(places)}",
                given="|".join(tokenizer.words(tokens)),
                expected="words of the model's vocabulary",
            )


def _answer_findings(
    row: PairTokens, label: str, answers: Sequence[AnswerToken], tokenizer: PairTokenizer
) -> Iterator[Finding]:
    for answer in answers:
        if answer.id is None:
            pieces = ", ".join(f"{token}={tokenizer.word(token)!r}" for token in answer.pieces)
            unknown = tokenizer.unknown in answer.pieces and tokenizer.unknown is not None
            fits = answer.spaced_id is not None
            yield Finding(
                f"{label}_not_one_token",
                row.pair.id,
                f"{label} {answer.text!r} is "
                + ("a word the tokenizer does not know" if unknown else "not exactly one token"),
                given=f"{answer.text!r} = {len(answer.pieces)} token(s): {pieces}",
                closest=(repr(" " + answer.text),) if fits else (),
                expected="one known token, its leading space included (' Paris', not 'Paris')",
                next_step=f"write {' ' + answer.text!r} (token {answer.spaced_id})"
                if fits
                else "choose a word that is one token, or compare the first tokens by hand",
                error=AnswerTokenError,
            )
        elif answer.lacks_space:
            yield Finding(
                f"{label}_lacks_space",
                row.pair.id,
                f"{label} {answer.text!r} would continue the prompt's last word",
                given=f"...{row.pair.clean[-12:]}{answer.text}",
                closest=(repr(" " + answer.text),),
                next_step="put the blank into the answer, unless a word's ending is meant",
                severity="warning",
            )


def _overlap_findings(row: PairTokens) -> Iterator[Finding]:
    answers = {answer.id: answer.text for answer in row.answer if answer.id is not None}
    foils = {foil.id: foil.text for foil in row.foil if foil.id is not None}
    shared = sorted(answers.keys() & foils.keys())
    if shared:
        named = ", ".join(f"{answers[token]!r} (token {token})" for token in shared)
        yield Finding(
            "answer_is_foil",
            row.pair.id,
            f"{named} is both answer and foil, so their difference says nothing",
            given=f"answer {list(answers.values())}, foil {list(foils.values())}",
            expected="answers and foils without a common token",
            error=AnswerTokenError,
        )
    for label, tokens in (("answer", row.answer), ("foil", row.foil)):
        texts = {token.text for token in tokens}
        known = Counter(token.id for token in tokens)
        twice = [t.text for t in tokens if t.id is not None and known[t.id] > 1]
        if twice and len(texts) == len(tokens):
            yield Finding(
                "repeated_answer",
                row.pair.id,
                f"in its {label} list {' and '.join(map(repr, twice))} are the same token",
                error=AnswerTokenError,
            )


def _drawn(row: PairTokens, tokenizer: PairTokenizer) -> str:
    roles = dict(row.pair.positions)
    return draw_alignment(tokenizer.words(row.clean), tokenizer.words(row.corrupted), roles)


def _listed(positions: Sequence[int]) -> str:
    if not positions:
        return "no position"
    return f"position{'s' if len(positions) > 1 else ''} " + ", ".join(map(str, positions))
