"""What is wrong with a collection of prompts before any tokenizer is asked?

Every check returns findings; nothing is repaired, dropped or raised here. Rows that differ only in
their slots are what a template is for and are not reported.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from mechtest.errors import AlignmentError, AnswerTokenError, closest_names
from mechtest.tasks.findings import Finding
from mechtest.tasks.masking import is_derived
from mechtest.tasks.pair import PromptPair

__all__ = ["collection_findings"]

LAST = "last"


def collection_findings(pairs: Sequence[PromptPair]) -> Iterator[Finding]:
    """Check what needs no tokenizer: duplicates, shared prompts, roles and number of templates."""
    yield from _duplicates(pairs)
    yield from _shared_prompts(pairs)
    yield from _uneven_roles(pairs)
    for pair in pairs:
        yield from _row_findings(pair)
    templates = Counter(pair.template for pair in pairs)
    if len(templates) < 2:
        yield Finding(
            "few_templates",
            "",
            f"all {len(pairs)} rows are of {len(templates)} template: no claim can be tested on it",
            expected="at least 2 templates; 32 give a discovery and a test half of about 16 each",
            next_step="write more sentence frames: templates are the unit of all statistics",
            severity="warning",
        )
    single = [name for name, count in templates.items() if count == 1 and is_derived(name)]
    if single:
        yield Finding(
            "single_row_templates",
            "",
            f"{len(single)} of {len(templates)} derived templates have one row only",
            given=single[0],
            expected="a role on every slot, or a 'template' in every row",
            next_step="a slot without a role makes every filler a template of its own, which "
            "counts related prompts as independent: name the slots, or write templates",
            severity="warning",
        )


def _duplicates(pairs: Sequence[PromptPair]) -> Iterator[Finding]:
    first: dict[tuple[object, ...], str] = {}
    for pair in pairs:
        content = (pair.clean, pair.corrupted, pair.answer, pair.foil)
        if content in first:
            yield Finding(
                "duplicate_row",
                pair.id,
                f"repeats the prompts and answers of row {first[content]!r}",
                given=pair.clean,
                next_step="remove it from the file, or use pairs.deduplicated()",
            )
        first.setdefault(content, pair.id)


def _shared_prompts(pairs: Sequence[PromptPair]) -> Iterator[Finding]:
    """Find prompts that stand under two templates: the split could put them on both sides."""
    clean_home: dict[str, PromptPair] = {}
    for pair in pairs:
        clean_home.setdefault(pair.clean, pair)
    for pair in pairs:
        for label, text in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            home = clean_home.get(text)
            if home is not None and home.template != pair.template:
                yield Finding(
                    "shared_prompt",
                    pair.id,
                    f"its {label} prompt is also the clean prompt of row {home.id!r}, which has "
                    "another template",
                    given=f"{text!r} under {pair.template!r} and {home.template!r}",
                    expected="templates that share no prompt, so that the halves of the split are "
                    "disjoint",
                    next_step="give both rows one template name",
                    severity="error" if label == "clean" else "warning",
                )


def _uneven_roles(pairs: Sequence[PromptPair]) -> Iterator[Finding]:
    by_template: defaultdict[str, list[PromptPair]] = defaultdict(list)
    for pair in pairs:
        by_template[pair.template].append(pair)
    for template, rows in by_template.items():
        roles = dict.fromkeys(role for row in rows for role in row.roles if role != LAST)
        for row in rows:
            for role in roles:
                if role not in row.roles:
                    yield Finding(
                        "missing_role",
                        row.id,
                        f"has no role {role!r}, which other rows of template {template!r} have",
                        given=f"roles {', '.join(row.roles) or '(none)'}",
                        expected="the same roles in all rows of a template",
                    )


def _row_findings(pair: PromptPair) -> Iterator[Finding]:
    if pair.clean == pair.corrupted:
        yield Finding(
            "identical_prompts",
            pair.id,
            "clean and corrupted prompt are the same text: no intervention could change anything",
            given=pair.clean,
            error=AlignmentError,
        )
    for label, texts in (("answer", pair.answer), ("foil", pair.foil)):
        repeated = [text for text, count in Counter(texts).items() if count > 1]
        if repeated:
            yield Finding(
                "repeated_answer",
                pair.id,
                f"its {label} list names {', '.join(map(repr, repeated))} twice, "
                "which would count it twice",
                error=AnswerTokenError,
            )
    for role in pair.changed or ():
        if role not in pair.roles and role != LAST:
            yield Finding(
                "unknown_role",
                pair.id,
                f"'changed' names a role {role!r} that has no position",
                given=role,
                closest=closest_names(role, pair.roles),
                expected="roles of this row: " + ", ".join((*pair.roles, LAST)),
            )
    for label, text in (("clean", pair.clean), ("corrupted", pair.corrupted)):
        if text != text.rstrip():
            yield Finding(
                "trailing_space",
                pair.id,
                f"its {label} prompt ends in white space",
                given=repr(text[-20:]),
                expected="a blank at the start of the answer, not at the end of the prompt",
                severity="warning",
            )
