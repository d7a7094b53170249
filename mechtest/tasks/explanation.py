"""How is a set of prompts described to the person who is about to make claims with it?"""

from collections import Counter
from collections.abc import Sequence

from mechtest.tasks.findings import Finding
from mechtest.tasks.split import side_of
from mechtest.tasks.tokens import PairTokenizer, PairTokens

__all__ = ["explain_pairs"]

SHOWN = 5


def explain_pairs(
    name: str, rows: Sequence[PairTokens], tokenizer: PairTokenizer, findings: Sequence[Finding]
) -> str:
    """Write counts, templates per side, prompts per template, lengths, roles and an example.

    Args:
        name: Heading.
        rows: Tokenized rows; they may have errors, which are then counted in the text.
        tokenizer: For the text of single tokens.
        findings: What validation found.
    """
    if not rows:
        return f"{name}\n  no prompts"
    per_template = Counter(row.pair.template for row in rows)
    sides = Counter(side_of(template) for template in per_template)
    prompts = Counter(side_of(row.pair.template) for row in rows)
    lengths = Counter(len(row.clean) for row in rows)
    behaviours = Counter(row.pair.behaviour for row in rows if row.pair.behaviour)
    changed = Counter(len(row.differing) for row in rows)
    lines = [
        name,
        _line("prompts", f"{len(rows)} pairs of {len(per_template)} templates"),
        *([_line("behaviours", _counted(behaviours))] if behaviours else []),
        *(
            _line(side, f"{sides[side]} templates, {prompts[side]} prompts (default salt)")
            for side in ("discovery", "test")
        ),
        _line("per template", _spread(list(per_template.values())) + " prompts"),
        _line("lengths", ", ".join(f"{n} tokens x{count}" for n, count in sorted(lengths.items()))),
        _line("differing", ", ".join(f"{n} x{count}" for n, count in sorted(changed.items()))),
        _line("roles", _roles(rows)),
        _line("answers", _spread([len(row.answer) for row in rows]) + " tokens a prompt"),
        _line("foils", _spread([len(row.foil) for row in rows]) + " tokens a prompt"),
        *_findings(findings),
        *_example(rows[0], tokenizer),
    ]
    return "\n".join(lines)


def _roles(rows: Sequence[PairTokens]) -> str:
    roles = dict.fromkeys(role for row in rows for role in row.pair.roles)
    texts = []
    for role in roles:
        places = [dict(row.pair.positions)[role] for row in rows if role in row.pair.roles]
        some = "" if len(places) == len(rows) else f" in {len(places)} prompts"
        texts.append(f"{role} at {_spread(places)}{some}")
    return ", ".join([*texts, *([] if "last" in roles else ["last"])])


def _findings(findings: Sequence[Finding]) -> list[str]:
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    lines = []
    for label, found in (("errors", errors), ("warnings", warnings)):
        counts = _counted(Counter(finding.kind for finding in found))
        lines.append(_line(label, f"{len(found)}: {counts}" if found else "none"))
        lines += [
            "    " + f"{finding.row}: {finding.what}".removeprefix(": ")
            for finding in found[:SHOWN]
        ]
    return lines


def _example(row: PairTokens, tokenizer: PairTokenizer) -> list[str]:
    clean, corrupted = tokenizer.words(row.clean), tokenizer.words(row.corrupted)
    names: dict[int, list[str]] = {}
    for role, position in row.pair.positions:
        names.setdefault(position, []).append(role)
    last = len(clean) - 1
    if "last" not in names.get(last, []):
        names.setdefault(last, []).append("last")
    answers = [f"{answer.text!r} = token {answer.id}" for answer in row.answer[:SHOWN]]
    foils = [f"{foil.text!r} = token {foil.id}" for foil in row.foil[:SHOWN]]
    lines = [
        f"  example {row.pair.id} (template {row.pair.template})",
        _line("  answer", ", ".join(answers) + (", ..." if len(row.answer) > SHOWN else "")),
        _line("  foil", ", ".join(foils) + (", ..." if len(row.foil) > SHOWN else "")),
    ]
    differing = set(row.differing)
    for index, word in enumerate(clean):
        note = f"  {','.join(names[index])}" if index in names else ""
        twin = f"  corrupted {corrupted[index]!r}" if index in differing else ""
        lines.append(f"    {index:>3}  {word!r:<16}{twin}{note}".rstrip())
    return lines


def _line(label: str, text: str) -> str:
    return f"  {label:<13} {text}"


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
