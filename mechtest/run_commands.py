"""What can be asked of two reports, and of stored runs, from a shell? Never imports torch."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechtest.errors import RunError

__all__ = ["Answer", "add_commands"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say.

    Attributes:
        status: Exit status.
        text: For standard output.
    """

    status: int
    text: str


def add_commands(commands: Any) -> None:
    """Add `compare` and `runs` to a parser's subcommands; each sets `answer` to its function."""
    compare = commands.add_parser(
        "compare",
        help="say which findings of one report still hold in another",
        epilog="exit status: 0 nothing was lost, 1 a finding regressed or moved, 2 the reports "
        "cannot be compared, 3 evidence is incomplete or claims were removed",
    )
    compare.add_argument("before", help="run, tag, 'latest', report.json or its directory")
    compare.add_argument("after", help="the report to hold against it, likewise")
    compare.add_argument(
        "--margin", type=float, default=0.2, metavar="SHARE",
        help="share of an effect that may be lost (default: %(default)s)",
    )  # fmt: skip
    compare.add_argument(
        "--two-sided", action="store_true", help="gaining more than the margin counts, too"
    )
    compare.add_argument("--allow", metavar="FILE", help="findings that may be lost for now (TOML)")
    compare.add_argument("--markdown", metavar="FILE", help="write a comment for a pull request")
    compare.add_argument("--json", metavar="FILE", help="write the whole comparison")
    _add_store(compare)
    compare.set_defaults(answer=_compare)
    runs = commands.add_parser("runs", help="list, show or remove stored runs")
    kinds = runs.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = kinds.add_parser("list", help="list stored runs, the newest first")
    _add_store(listing)
    listing.set_defaults(answer=_list)
    show = kinds.add_parser("show", help="show what a run came to")
    show.add_argument("run", help="run, beginning of its name, tag or 'latest'")
    _add_store(show)
    show.set_defaults(answer=_show)
    collect = kinds.add_parser("gc", help="remove runs without a tag, but the newest")
    collect.add_argument(
        "--keep", type=int, default=20, metavar="N",
        help="runs without a tag that stay (default: %(default)s); the latest stays anyway",
    )  # fmt: skip
    collect.add_argument("--dry-run", action="store_true", help="only say what would go")
    _add_store(collect)
    collect.set_defaults(answer=_collect)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, metavar="DIR",
        help="where runs are kept (default: the nearest .mechtest at or above this directory)",
    )  # fmt: skip


def _store(args: argparse.Namespace) -> Any:
    from mechtest.runs import RunStore, find_store

    return RunStore(args.store if args.store is not None else find_store(Path.cwd()))


# -- compare ---------------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> Answer:
    from mechtest.comparison import Rules, compare_reports, read_allowances
    from mechtest.report import comparison_markdown, read_report
    from mechtest.runs import resolve

    rules = Rules(margin=args.margin, two_sided=args.two_sided)
    store = _store(args)
    found = [resolve(word, store, Path.cwd()) for word in (args.before, args.after)]
    today = dt.datetime.now(dt.UTC).date()
    allowances = read_allowances(args.allow, today) if args.allow else ()
    comparison = compare_reports(
        read_report(found[0].path),
        read_report(found[1].path),
        rules=rules,
        names=(found[0].name, found[1].name),
        allowances=allowances,
    )
    if args.markdown:
        _write(args.markdown, comparison_markdown(comparison))
    if args.json:
        _write(args.json, json.dumps(comparison, allow_nan=False, ensure_ascii=False, indent=1))
    return Answer(int(comparison["status"]), "\n".join(_told(comparison)))


def _told(comparison: dict[str, Any]) -> list[str]:
    from mechtest.report import comparison_cells, comparison_headline

    lines = [comparison_headline(comparison)]
    for name, change, _, verdicts, why in comparison_cells(comparison):
        lines += [f"{change}: {name}", f"  {verdicts}; {why}"]
    counts = comparison["counts"]
    counted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return [*lines, counted or "no claims", *comparison["notes"]]


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


# -- runs ------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> Answer:
    store = _store(args)
    runs = store.runs()
    lines = []
    for run in runs:
        names = [*run.tags, *(["latest"] if run.latest else [])]
        called = f"  ({', '.join(names)})" if names else ""
        lines += [f"{run.name}{called}", f"  {run.headline}"]
    known = {run.name for run in runs}
    gone = [f"tag {tag} points to {run}, which is gone" for tag, run in store.tags.items()
            if run not in known]  # fmt: skip
    empty = f"no runs in {store.root}; `pytest claims --mechtest-save` keeps one"
    return Answer(0, "\n".join([*lines, *gone]) or empty)


def _show(args: argparse.Namespace) -> Answer:
    from mechtest.report import cautions, headline, read_report, verdict_table
    from mechtest.runs import resolve

    found = resolve(args.run, _store(args), Path.cwd())
    report = read_report(found.path)
    lines = [f"{found.name}: {headline(report)}", *cautions(report)]
    lines += ["  ".join(row) for row in verdict_table(report["claims"])]
    return Answer(0, "\n".join([*lines, f"report: {found.path}"]))


def _collect(args: argparse.Namespace) -> Answer:
    from mechtest.runs import collect_runs

    done = collect_runs(_store(args), keep=args.keep, dry=args.dry_run)
    word = "would remove" if done.dry else "removed"
    lines = [f"{word} {run.name}: {run.headline}" for run in done.removed]
    lines += [f"{word} {path.name}: half a run that a crash left" for path in done.leftovers]
    gone = len(done.removed) + len(done.leftovers)
    return Answer(0, "\n".join([*lines, f"{word} {gone}, {len(done.kept)} runs stay"]))
