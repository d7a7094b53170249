"""What is wrong with some prompts, and how are many problems told in one message?

Nothing here knows what can be wrong; see `pair.py` (single rows) and `validation.py` (the rest).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mechtest.errors import PromptError

__all__ = ["Finding", "raise_errors"]

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One problem of one row, or of the whole collection.

    Attributes:
        kind: Stable short name, such as `"unequal_length"`.
        row: Id of the row, `"line 12"` where the row could not be read, `""` for the collection.
        what: One sentence: what is wrong.
        given: What was found, as the writer of the file would recognise it.
        closest: Known names nearest to what was given.
        expected: What would have been accepted.
        next_step: The change that gets the user further.
        severity: An `"error"` makes the prompts unusable, a `"warning"` makes them weaker.
        error: The exception class that tells this problem.
    """

    kind: str
    row: str
    what: str
    given: str | None = None
    closest: tuple[str, ...] = ()
    expected: str | None = None
    next_step: str | None = None
    severity: Literal["error", "warning"] = "error"
    error: type[PromptError] = PromptError

    def __str__(self) -> str:
        head = f"{self.row}: {self.what}" if self.row else self.what
        rows = [
            ("given", self.given),
            ("closest", ", ".join(self.closest)),
            ("expected", self.expected),
            ("next", self.next_step),
        ]
        return "\n".join([head, *(f"  {label:<9} {_hang(text)}" for label, text in rows if text)])


def raise_errors(findings: Iterable[Finding], source: str, next_step: str | None = None) -> None:
    """Raise one exception for all findings that are errors; return when there are none.

    Args:
        findings: Any mixture; warnings are passed over.
        source: Name of the file or collection.
        next_step: The last line of a message that has several problems to tell.

    Raises:
        PromptError: Or the subclass that all the errors share (AlignmentError, AnswerTokenError).
            A single problem is told whole; of several, the first five are (every kind gets its
            turn) under a count of each kind.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    classes = {finding.error for finding in errors}
    raised = classes.pop() if len(classes) == 1 else PromptError
    if len(errors) == 1:
        only = errors[0]
        raise raised(
            f"{source}: {only.row + ': ' if only.row else ''}{only.what}",
            given=None if only.given is None else _hang(only.given),
            closest=only.closest,
            expected=only.expected,
            next_step=only.next_step,
        )
    counts = Counter(finding.kind for finding in errors)
    rows = len({finding.row for finding in errors if finding.row})
    shown = _every_kind_in_turn(errors)[:SHOWN]
    lines = [
        f"{source}: {len(errors)} problems in {rows} row{'' if rows == 1 else 's'} "
        f"({', '.join(f'{kind} {count}' for kind, count in counts.most_common())})"
        + (f", of which {len(shown)}:" if len(errors) > len(shown) else ":"),
        *(f"  {number}. {_hang(str(finding), 5)}" for number, finding in enumerate(shown, 1)),
    ]
    raise raised("\n".join(lines), next_step=next_step)


def _every_kind_in_turn(findings: Sequence[Finding]) -> list[Finding]:
    """Order findings so that the first of every kind comes before the second of any."""
    seen: Counter[str] = Counter()
    ranks = []
    for finding in findings:
        ranks.append(seen[finding.kind])
        seen[finding.kind] += 1
    order = sorted(range(len(findings)), key=lambda index: (ranks[index], index))
    return [findings[index] for index in order]


def _hang(text: str, width: int = 12) -> str:
    return text.replace("\n", "\n" + " " * width)
