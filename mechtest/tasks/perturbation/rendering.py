"""What does a perturbed prompt read, is it still the same question, and where are its roles now?

Nothing is taken on trust: after every edit both twins are tokenized again, and an edit that leaves
another question than before is refused with its reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mechtest.errors import PromptError
from mechtest.tasks.collection_checks import collection_findings
from mechtest.tasks.encoding import EncodedPairs, encode_rows
from mechtest.tasks.fingerprints import Fingerprints
from mechtest.tasks.pair import PromptPair
from mechtest.tasks.perturbation.marked_text import MarkedText
from mechtest.tasks.perturbation.operation import Perturbation
from mechtest.tasks.token_checks import token_findings
from mechtest.tasks.tokens import PairTokenizer, PairTokens, Tokenizer

__all__ = ["Refusal", "Renderer"]

Offsets = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Refusal:
    """Why a perturbed prompt cannot be asked.

    Attributes:
        kind: Of the edit; empty where the prompt itself cannot be edited.
        reason: A few words, for counting.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class _Draft:
    """A prompt after some edits.

    Attributes:
        tokens: The pair, tokenized.
        clean: The clean prompt, marked.
        corrupted: Its twin.
    """

    tokens: PairTokens
    clean: MarkedText
    corrupted: MarkedText


class Renderer:
    """Renders perturbed prompts for one tokenizer; the same one gives the same pair every time.

    Args:
        tokenizer: The model's.

    Raises:
        TokenizerMissingError: There is none.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._words = PairTokenizer(tokenizer)
        self._known: dict[Perturbation, _Draft | Refusal] = {}
        self._pieces: dict[int, str] = {}
        self._tokens: dict[str, tuple[int, ...]] = {}

    def render(self, perturbation: Perturbation) -> PromptPair | Refusal:
        """Return the perturbed pair, or why there is none.

        The pair keeps its template, which stays its cluster, and its answers; its roles are where
        their words are now. Its id is that of its prompt with the edits behind it.
        """
        draft = self._draft(perturbation)
        return draft if isinstance(draft, Refusal) else draft.tokens.pair

    def pair(self, perturbation: Perturbation) -> PromptPair:
        """Return the perturbed pair of one that renders.

        Raises:
            PromptError: It does not; says why.
        """
        found = self.render(perturbation)
        if isinstance(found, Refusal):
            raise PromptError(
                f"a perturbed prompt cannot be asked: {found.kind} {found.reason}",
                given=repr(perturbation),
                expected="edits that the model's vocabulary and the prompt's roles allow",
                next_step="leave this edit out for this prompt",
            )
        return found

    def encode(self, asked: Sequence[Perturbation], device: torch.device | str) -> EncodedPairs:
        """Put perturbed prompts that render into tensors, each once, in this order.

        Templates of prompts that read alike are no matter here, so nothing is checked again.
        """
        drafts = [self._draft(one) for one in asked]
        tokens = [draft.tokens for draft in drafts if isinstance(draft, _Draft)]
        assert len(tokens) == len(drafts), "what is refused is not asked"
        texts = [text for row in tokens for text in (row.pair.clean, row.pair.corrupted)]
        templates = tuple(dict.fromkeys(row.pair.template for row in tokens))
        return encode_rows(
            tokens,
            self._words,
            templates=templates,
            fingerprints=Fingerprints.of(texts=texts, clusters=templates),
            side="all",
            device=device,
        )

    def _draft(self, asked: Perturbation) -> _Draft | Refusal:
        if asked not in self._known:
            self._known[asked] = self._edited(asked) if asked.operations else self._base(asked.base)
        return self._known[asked]

    def _base(self, pair: PromptPair) -> _Draft | Refusal:
        """Mark the roles of a prompt as it is."""
        tokens = self._tokenized(pair)
        texts = []
        for text, ids in ((pair.clean, tokens.clean), (pair.corrupted, tokens.corrupted)):
            places = self._offsets(text, ids)
            if places is None or any(at >= len(places) for _, at in pair.positions):
                return Refusal("", "its tokens do not add up to its text")
            texts.append(
                MarkedText(text, tuple((role, *places[at]) for role, at in pair.positions))
            )
        return _Draft(tokens, *texts)

    def _edited(self, asked: Perturbation) -> _Draft | Refusal:
        """Make the last edit to what the others left, and check what came of it."""
        before = self._draft(Perturbation(asked.base, asked.operations[:-1]))
        if isinstance(before, Refusal):
            return before
        operation = asked.operations[-1]
        edits = operation.edit(before.clean), operation.edit(before.corrupted)
        if edits == (None, None):
            return Refusal(operation.kind, "does not apply")
        # A word of one twin alone (the other person's name) is edited where it is.
        clean, corrupted = edits[0] or before.clean, edits[1] or before.corrupted
        after = self._draft_of(asked, clean, corrupted)
        reason = after if isinstance(after, str) else _changed_question(before.tokens, after.tokens)
        if reason or isinstance(after, str):
            return Refusal(operation.kind, str(reason))
        return after

    def _draft_of(
        self, asked: Perturbation, clean: MarkedText, corrupted: MarkedText
    ) -> _Draft | str:
        """Return the edited pair with its roles found again, or what is wrong with it."""
        places: list[dict[str, int]] = []
        for marked in (clean, corrupted):
            offsets = self._offsets(marked.text, self._ids(marked.text))
            if offsets is None:
                return "unknown word"
            places.append({role: _token_at(start, offsets) for role, start, _ in marked.marks})
        base = asked.base
        lost = [role for role in base.roles if role not in places[0] or places[0][role] < 0]
        if lost:
            return f"loses role {lost[0]!r}"
        if places[0] != places[1]:
            return "roles stand at other places in the twin"
        pair = replace(
            base,
            id=f"{base.id} + {', '.join(map(repr, asked.operations))}",
            clean=clean.text,
            corrupted=corrupted.text,
            positions=tuple(sorted(places[0].items(), key=lambda item: (item[1], item[0]))),
        )
        tokens = self._tokenized(pair)
        found = [*collection_findings([pair]), *token_findings([tokens], self._words)]
        wrong = [finding for finding in found if finding.severity == "error"]
        return wrong[0].kind.replace("_", " ") if wrong else _Draft(tokens, clean, corrupted)

    def _offsets(self, text: str, ids: tuple[int, ...]) -> Offsets | None:
        """Return where each token's word stands in a text, None where tokens do not spell it.

        Blanks are passed over: one in front of a word belongs to its token and not to the word, and
        tokenizers differ in what they write for it.
        """
        if self._words.unknown in ids:
            return None
        bos = 1 if ids[:1] == (self._words.bos,) else 0
        spans, at = [(0, 0)] * bos, 0
        for token in ids[bos:]:
            word = self._piece(token).strip()
            start = at + len(text[at:]) - len(text[at:].lstrip()) if word else at
            if not text.startswith(word, start):
                return None
            at = start + len(word)
            spans.append((start, at))
        return None if text[at:].strip() else tuple(spans)

    def _tokenized(self, pair: PromptPair) -> PairTokens:
        """Tokenize a pair; a text that comes again (the plain twin, a role's check) is known."""
        answers = tuple(self._words.answer(pair.clean, text) for text in pair.answer)
        foils = tuple(self._words.answer(pair.clean, text) for text in pair.foil)
        return PairTokens(pair, self._ids(pair.clean), self._ids(pair.corrupted), answers, foils)

    def _ids(self, text: str) -> tuple[int, ...]:
        if text not in self._tokens:
            self._tokens[text] = self._words.prompt(text)
        return self._tokens[text]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self._words.word(token)
        return self._pieces[token]


def _token_at(start: int, offsets: Offsets) -> int:
    """Return the token whose word begins at a character, -1 where none does."""
    found = [index for index, (first, last) in enumerate(offsets) if first == start < last]
    return found[0] if found else -1


def _changed_question(before: PairTokens, after: PairTokens) -> str:
    """Return in which respect a prompt asks something else than before; empty where in none."""
    if (before.clean, before.corrupted) == (after.clean, after.corrupted):
        return "changes no token"
    answers = (before.answer, before.foil), (after.answer, after.foil)
    old, new = ([[token.id for token in one] for one in both] for both in answers)
    if old != new:
        return "changes the answer's token"
    named = {token for ids in old for token in ids}
    for one, other in ((before.clean, after.clean), (before.corrupted, after.corrupted)):
        counts = Counter(token for token in one if token in named)
        if counts != Counter(token for token in other if token in named):
            return "mentions the answer or foil"
    if len(before.differing) != len(after.differing):
        return "changes what the twins differ in"
    return ""
