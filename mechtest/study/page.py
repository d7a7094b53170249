"""How does a study become one page that opens without a network?

Everything is in the file: style, pictures, numbers. Text from prompts and models is cleaned and
escaped; the page's policy lets nothing in but its own style and pictures.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechtest.interventions.sweep_file import write_whole
from mechtest.report.plain_text import clean_text
from mechtest.study.step_folder import found_in
from mechtest.study.table import StepTable

if TYPE_CHECKING:
    from jinja2 import Environment

    from mechtest.study.study import Outcome, Study

__all__ = ["page_html", "write_page"]

_FOLDER = Path(__file__).with_name("templates")
_REPORT_STYLE = Path(__file__).parents[1] / "report" / "templates" / "style.css"
_ROWS = 60
_PICTURE_BYTES = 2_000_000
"""A larger picture is linked, not inlined."""


def write_page(study: Study, outcomes: Sequence[Outcome]) -> Path:
    """Write `index.html` into the study's directory, whole or not at all."""
    text = page_html(study, outcomes)
    return write_whole(study.output / "index.html", text.encode())


def page_html(study: Study, outcomes: Sequence[Outcome]) -> str:
    """Return a study as one self-contained page."""
    style = "\n".join(
        path.read_text(encoding="utf-8") for path in (_REPORT_STYLE, _FOLDER / "study.css")
    )
    counts = {
        status: sum(one.status == status for one in outcomes)
        for status in ("done", "failed", "left out", "not run")
    }
    return _templates().get_template("study.html.j2").render(
        name=study.settings.name,
        asked=_asked(study),
        steps=[_step(study, one) for one in outcomes],
        counts=counts,
        next_commands=_next(study, outcomes),
        policy=_policy(style),
        style=_verbatim(style),
    )  # fmt: skip


def _asked(study: Study) -> list[tuple[str, str]]:
    settings = study.settings
    told = [(key, str(value)) for key, value in settings.study.items() if key != "output"]
    tables = {"transfer": settings.transfer, "scale": settings.scale}
    told += [
        (f"{table}: {key}", ", ".join(value))
        for table, values in tables.items()
        for key, value in values.items()
        if value
    ]
    return told


def _step(study: Study, outcome: Outcome) -> dict[str, Any]:
    step, finished = outcome.step, outcome.finished
    folder = study.output / step.folder
    view: dict[str, Any] = {
        "number": step.number, "name": step.name, "question": step.question,
        "status": outcome.status, "why": outcome.why, "lines": (), "warnings": (),
        "pictures": [], "tables": [], "files": [],
        "settings": [(key, _shown(v)) for key, v in study.settings.steps[step.name].items()],
    }  # fmt: skip
    if finished is None or outcome.status != "done":
        return view
    found = found_in(folder)
    view |= {"lines": finished.lines, "warnings": finished.warnings}
    view["tables"] = [_table(name, one) for name, one in found.records.items()
                      if isinstance(one, StepTable)]  # fmt: skip
    sheet = found.facts.get("sheet")
    pictures = {**({"overview": sheet} if sheet else {}), **finished.pictures}
    view["pictures"] = [
        _picture(name, folder / file, f"{step.folder}/{file}") for name, file in pictures.items()
    ]
    view["files"] = [
        (name, f"{step.folder}/{file}")
        for name, file in (*finished.records.items(), *finished.circuits.items())
    ]
    return view


def _picture(name: str, path: Path, link: str) -> dict[str, str]:
    content = path.read_bytes() if path.is_file() else b""
    inlined = 0 < len(content) <= _PICTURE_BYTES
    data = f"data:image/png;base64,{base64.b64encode(content).decode()}" if inlined else ""
    return {"name": name, "data": data, "link": link}


def _table(name: str, table: StepTable) -> dict[str, Any]:
    rows = [[_shown(value) for value in row] for row in table.rows[:_ROWS]]
    return {
        "name": name, "title": table.title, "columns": table.columns, "rows": rows,
        "more": max(0, len(table.rows) - _ROWS), "unit": table.unit,
    }  # fmt: skip


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _next(study: Study, outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Return what to type next, and why."""
    file = study.settings.source
    states = {one.step.name: one.status for one in outcomes}
    commands: list[tuple[str, str]] = []
    failed = [name for name, status in states.items() if status == "failed"]
    if failed:
        commands.append((f"mechtest discover {file}", f"tries again what failed: {failed[0]}"))
    if states.get("deliverables") == "done":
        if study.found("deliverables").facts["claims"]:
            name = study.settings.name.replace("-", "_")
            claim = f"claims/test_{name}.py"
            commands += [
                (f"mechtest discover {file} --emit {claim}", "writes the proposed claims"),
                (f"pytest {claim}", "tests them on the half of the prompts nobody has looked at"),
            ]
    else:
        commands.append((f"mechtest discover {file} --steps deliverables", "proposes claims"))
    return commands


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data: 'self'; base-uri 'none'; "
        "form-action 'none'"
    )


def _verbatim(text: str) -> Any:
    """Return a file of ours as it is; it holds nothing from users."""
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704


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
        "block": lambda text: clean_text(text, 20_000, lines=True),
    }
    return environment
