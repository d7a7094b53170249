"""How does a report become one page that works without a network?

Jinja fills the templates beside this file and escapes all text; the page holds its style, its
charts and the report itself. Its one script searches, sorts, copies and unfolds; without it the
page reads the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechtest.report.ablation_matrix import ablation_matrix
from mechtest.report.build import DECIDED, VERDICTS
from mechtest.report.cells import (
    cells_of,
    controls_text,
    deciding_evidence,
    effect_text,
    number_text,
    p_text,
    sample_text,
    seconds_text,
    threshold_text,
    titled,
    verdict_text,
)
from mechtest.report.charts import (
    control_histogram,
    forests,
    heat_map,
    parts_forest,
    prompt_histogram,
    template_strip,
)
from mechtest.report.comparison_text import (
    COMPARISON_HEADER,
    comparison_cells,
    comparison_headline,
)
from mechtest.report.plain_text import clean_text, whole_characters
from mechtest.report.timeline import RULE
from mechtest.report.timeline_chart import courses
from mechtest.report.wording import HOW_TO_READ, cautions, headline, in_reading_order

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["embedded_json", "html"]

Row = Mapping[str, Any]

# Beyond so many characters a report is embedded without the lists of single values; and where that
# is still beyond so many, with the main numbers only.
_EMBEDDED_LIMITS = (300_000, 600_000)
_MAIN = ("id", "key", "verdict", "as_expected", "level", "p")
_CODE = re.compile(r"^\[MT\d+\] ")  # of an error; its whole text stands below the numbers
_SLIM = 100
"""Beyond this many claims, the numbers of single measurements are in report.json only."""
_FOLDER = Path(__file__).with_name("templates")
_SINGLE_VALUES = {
    "values", "prompt_ids", "effects", "behaviours", "templates", "prompt_digests",
}  # fmt: skip
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def html(report: Mapping[str, Any]) -> str:
    """Return the report as one self-contained page."""
    claims = titled(report["claims"])
    timeline, charts = courses(report)
    fates = {m.id: track.fate for track in timeline.tracks for m in track.moments if charts}
    slim = len(claims) > _SLIM
    views = [_claim(index, row, report, slim=slim) for index, row in enumerate(claims)]
    _name_anchors(views)
    for view in views:
        view["course"] = fates.get(view["row"]["id"], "")
    style = _style(report["summary"])
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    place = {id(row): index for index, row in enumerate(claims)}
    template = _templates().get_template("page.html.j2")
    return template.render(
        report=report,
        headline=headline(report),
        comparison=_comparison(report.get("comparison")),
        cautions=cautions(report),
        chips=_chips(report["summary"]),
        claims=views,
        attention=[views[place[id(row)]] for row in in_reading_order(claims) if _is_off(row)],
        groups=_groups(views, report["families"]),
        without=[view for view in views if view["row"]["verdict"] not in (*DECIDED[:3],)],
        forests=forests(claims),
        provenance=_provenance(report),
        run=_run(report["run"]),
        how_to_read=HOW_TO_READ,
        embedded=embedded_json(report),
        slim=slim,
        assumed=_once(text for view in views for text in view["assumptions"]) if slim else [],
        courses=charts,
        anchors={view["row"]["id"]: view["anchor"] for view in views},
        rule=RULE,
        levels=timeline.levels,
        matrix=ablation_matrix(views),
        policy=_policy(style, script),
        style=_verbatim(style),
        script=_verbatim(script),
    )


def _comparison(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    return {
        "headline": comparison_headline(comparison),
        "header": COMPARISON_HEADER,
        "rows": comparison_cells(comparison),
        "notes": comparison["notes"],
    }


def _style(summary: Mapping[str, int]) -> str:
    """Return the page's style, with a rule for each chip."""
    shown = [f"v-{chip['verdict']}" for chip in _chips(summary)]
    rules = [
        f"body:has(#show-{name.removeprefix('v-')}:checked) .filtered > "
        f"*:not(.{name}):not(.axis):not(.family) {{ display: none; }}"
        for name in [*shown, "off"]
    ]
    return "\n".join([(_FOLDER / "style.css").read_text(encoding="utf-8"), *rules])


def _policy(*own: str) -> str:
    """Return a policy that lets in this page's own style and script by their hashes, no more."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _verbatim(text: str) -> Any:
    """Return a file of ours as it is; it holds nothing from users."""
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704


def _name_anchors(views: Sequence[dict[str, Any]]) -> None:
    """Give every claim an anchor that stays when other claims come or go."""
    taken: set[str] = set()
    for view in views:
        digest = hashlib.sha256(view["row"]["id"].encode("utf-8", "replace")).hexdigest()[:10]
        name = f"claim-{digest}"
        while name in taken:
            name += "-again"
        taken.add(name)
        view["anchor"] = name


@cache
def _templates() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": clean_text,
        "block": _block,
        "num": number_text,
        "p": p_text,
        "seconds": seconds_text,
    }
    return environment


def _block(text: object, limit: int = 20_000) -> str:
    return clean_text(text, limit, lines=True)


def embedded_json(report: Mapping[str, Any]) -> Any:
    """Return the report as JSON that can stand in a script element and stays inert there.

    A report of many claims leaves out the lists of single controls and prompts, which would be most
    of the page, and one of very many all but the main numbers; `report.json` beside it has them.
    """
    import markupsafe

    text = _compact(report)
    for limit, smaller in zip(_EMBEDDED_LIMITS, (_without_lists, _main_numbers), strict=True):
        if len(text) > limit:
            text = _compact(smaller(report))
    for character, code in _UNSAFE.items():
        text = text.replace(character, code)
    # The one text that is not escaped for HTML: nothing in it can end the element it stands in.
    return markupsafe.Markup(text)  # noqa: S704


def _compact(report: Any) -> str:
    text = json.dumps(report, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return whole_characters(text)


def _without_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: [] if key in _SINGLE_VALUES and _is_flat(item) else _without_lists(item)
            for key, item in value.items()
        }
    return [_without_lists(item) for item in value] if isinstance(value, list) else value


def _main_numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    claims = [
        {name: row[name] for name in _MAIN}
        | {"effect": (deciding_evidence(row) or {}).get("effect")}
        for row in report["claims"]
    ]
    return {**report, "claims": claims, "run": {}}


def _is_flat(value: Any) -> bool:
    # The values of a map are lists of lists: those are what the page shows, and stay.
    return isinstance(value, list) and not any(isinstance(item, list) for item in value)


def _is_off(row: Row) -> bool:
    return not row["as_expected"]


def _chips(summary: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"verdict": name, "text": name.replace("_", " "), "count": summary[name]}
        for name in VERDICTS
        if summary[name]
    ]


def _claim(index: int, row: Row, report: Mapping[str, Any], *, slim: bool) -> dict[str, Any]:
    """Return what the templates print of one claim, beside the row itself."""
    timing = report["run"].get("claims", {}).get(row["id"], {})
    evidence = [_evidence(item, slim=slim) for item in row["evidence"]]
    return {
        "row": row,
        "number": index + 1,
        "title": clean_text(row["statement"], 300) or clean_text(row["id"], 300),
        "cells": cells_of(row),
        "verdict": verdict_text(row),
        "why": clean_text(_CODE.sub("", str(row["reason"]).strip().partition("\n")[0]), 600),
        "level": p_text(row["level"]),
        "seconds": seconds_text(timing.get("seconds")),
        "timing": timing,
        "evidence": evidence,
        "forests": parts_forest(index, row["evidence"]),
        "maps": [heat_map(table) for table in row["maps"]],
        "settings": [_pairs(settings) for settings in row["settings"]],
        "assumptions": _once(text for item in row["evidence"] for text in item["assumptions"]),
    }


def _evidence(item: Row, *, slim: bool) -> dict[str, Any]:
    return {
        "item": item,
        "effect": effect_text(item["effect"]),
        "threshold": threshold_text(item),
        "controls": controls_text(item["controls"]),
        "sample": sample_text(item),
        "histogram": control_histogram(item["controls"]),
        "prompts": None if slim else prompt_histogram(item),
        "templates": template_strip(item),
        "excess": _excess(item["controls"]),
    }


def _excess(controls: Row | None) -> str:
    return "" if controls is None or controls["excess"] is None else effect_text(controls["excess"])


def _once(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))


def _pairs(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in settings.items()
    ]


def _groups(
    views: Sequence[Mapping[str, Any]], families: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the claims by family, in the order of the report, with the family's gates."""
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for view in views:
        by_family.setdefault(view["row"]["family"], []).append(view)
    groups = []
    for name, members in by_family.items():
        family = families.get(name)
        present = {view["row"]["key"] for view in members}
        absent = [key for key in family["claims"] if key not in present] if family else []
        groups.append({"name": name, "family": family, "claims": members, "absent": absent})
    return groups


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    provenance, budget = report["provenance"], report["family_error"]
    git = provenance.get("git")
    commit = f"{git['commit']}{' with uncommitted changes' * bool(git['dirty'])}" if git else ""
    rows = [
        ("schema", report["schema"]),
        ("family-wise error", f"{budget['alpha']:.4g}, from {budget['source']}"),
        ("claims", f"{budget['registered']} registered, {budget['selected']} selected"),
        ("lock", provenance.get("lock") or "none"),
        ("commit", commit or "not in a repository"),
        ("root seed", str(provenance.get("seed", ""))),
    ]
    rows += [(f"version of {name}", str(v)) for name, v in provenance.get("versions", {}).items()]
    prompts = _pairs(provenance.get("prompts", {}))
    rows += [(f"prompts {name}", digest) for name, digest in prompts]
    tested = provenance.get("circuits", {}).items()
    return rows + [(f"different circuits tested on half {half}", str(n)) for half, n in tested]


def _passes(run: Mapping[str, Any]) -> str:
    """Return how much was run and on what; reports of earlier versions hold less of it."""
    text = f"{run.get('forward_passes', 0):,}"
    if "forward_tokens" in run:
        text += f", {run['forward_tokens']:,} tokens"
    if run.get("kernels"):
        text += f" (engine {run.get('engine', '')}, kernels {', '.join(run['kernels'])})"
    return text


def _run(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("started", str(run.get("started", ""))),
        ("took", seconds_text(run.get("seconds"))),
        ("workers", f"{run.get('workers', '')} with {run.get('threads', '')} threads each"),
        ("forward passes", _passes(run)),
        ("command", " ".join(str(word) for word in run.get("argv", []))),
        *(("note", str(note)) for note in run.get("notes", [])),
    ]
