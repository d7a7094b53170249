"""What did all claims together come to, for a reader, a pull request and a machine?

`build_report` makes one plain dict of all rows; everything else prints it: as JSON with a published
schema, as one self-contained page, as a comment, as annotations, as CTRF. See docs/report.md.
"""

from mechtest.report.build import SCHEMA, VERDICTS, build_report
from mechtest.report.cells import (
    HEADER,
    Cells,
    cells_of,
    clean_text,
    effect_text,
    p_text,
    verdict_table,
    verdict_text,
)
from mechtest.report.comment import markdown
from mechtest.report.comparison_text import (
    COMPARISON_HEADER,
    comparison_cells,
    comparison_headline,
    comparison_markdown,
)
from mechtest.report.ctrf_format import ctrf
from mechtest.report.files import SCHEMA_PATH, load_schema, read_report, write_report
from mechtest.report.github import github_annotations, github_step_summary
from mechtest.report.page import html
from mechtest.report.wording import cautions, headline

__all__ = [
    "COMPARISON_HEADER",
    "HEADER",
    "SCHEMA",
    "SCHEMA_PATH",
    "VERDICTS",
    "Cells",
    "build_report",
    "cautions",
    "cells_of",
    "clean_text",
    "comparison_cells",
    "comparison_headline",
    "comparison_markdown",
    "ctrf",
    "effect_text",
    "github_annotations",
    "github_step_summary",
    "headline",
    "html",
    "load_schema",
    "markdown",
    "p_text",
    "read_report",
    "verdict_table",
    "verdict_text",
    "write_report",
]
