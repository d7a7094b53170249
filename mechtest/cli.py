"""What can be asked of mechtest from a shell?"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mechtest
from mechtest.errors import MechtestError
from mechtest.run_commands import add_commands
from mechtest.study_commands import add_study_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (2 for wrong input).

    Args:
        argv: Arguments, default those of the process.
    """
    args = _parser().parse_args(argv)
    try:
        if not hasattr(args, "answer"):
            return int(args.run(args))
        answer = args.answer(args)
        print(answer.text)
        return int(answer.status)
    except MechtestError as error:
        print(f"mechtest: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `mechtest sites MODEL | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mechtest", description="Circuit claims about Mamba models, checked by pytest."
    )
    parser.add_argument("--version", action="version", version=f"mechtest {mechtest.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    sites = commands.add_parser("sites", help="list every place of a model that can be hooked")
    sites.add_argument("model", help="directory or hub name of a checkpoint")
    sites.add_argument("--revision", help="branch, tag or commit on the hub")
    sites.add_argument("--subfolder", help="directory inside the repository")
    sites.add_argument("--aliases", action="store_true", help="also list other accepted names")
    sites.set_defaults(run=_sites)
    new = commands.add_parser("new-claim", help="write a first claim file, ready to run")
    new.add_argument("file", type=Path, help="for example claims/test_my_circuit.py")
    new.add_argument("--model", required=True, help="suite of models, or one checkpoint")
    new.add_argument("--prompts", required=True, help="prompt file (JSON Lines)")
    new.add_argument("--site", default="blocks.0.state@last", help="default: %(default)s")
    new.set_defaults(run=_new_claim)
    add_study_commands(commands)
    add_commands(commands)
    _add_timeline(commands)
    remade = commands.add_parser(
        "report",
        help="make a report from the journals of a run, or its files anew from report.json",
    )
    remade.add_argument(
        "place", type=Path, metavar="RUN", help="directory of a report, or a report.json"
    )
    remade.add_argument("--output", type=Path, metavar="DIR", help="default: where it lies")
    remade.set_defaults(run=_report)
    return parser


def _add_timeline(commands: Any) -> None:
    line = commands.add_parser(
        "timeline", help="show at which training step each claim was born, moved or died"
    )
    line.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="file or directory")
    line.add_argument("--output", type=Path, metavar="FILE", help="also draw it: .png or .svg")
    line.add_argument("--claim", metavar="PATTERN", help="only claims whose id holds this, or *")
    line.add_argument("--json", action="store_true", help="print JSON instead of a table")
    line.add_argument("--holm", action="store_true", help="correct each claim over its checkpoints")
    line.set_defaults(run=_timeline)


def _report(args: argparse.Namespace) -> int:
    from mechtest.plugin.rebuilding import journal_directory, rebuild, status_of_report
    from mechtest.report import headline, read_report, write_report

    place: Path = args.place
    journals = journal_directory(place) if place.is_dir() else None
    if journals is None:
        report = read_report(place)
        status = status_of_report(report)
        home = place if place.is_dir() else place.parent
    else:
        report, status = rebuild(journals)
        home = place.parent if journals == place else place
    written = write_report(report, args.output or home)
    print(headline(report))
    for note in report["run"]["notes"] if journals is not None else ():
        print(note)
    print(f"wrote {next(path for path in written if path.suffix == '.html')}")
    return status


def _holm() -> Callable[[Mapping[str, float]], Mapping[str, float]]:
    from mechtest.plugin.levels import holm  # here, because it brings pytest with it

    return holm


def _timeline(args: argparse.Namespace) -> int:
    from mechtest.report import read_report
    from mechtest.report.timeline import read_timeline, with_claims
    from mechtest.report.timeline_text import timeline_lines

    reports = [read_report(path) for path in args.reports]
    timeline = read_timeline(reports, adjust=_holm() if args.holm else None)
    if args.claim:
        timeline = with_claims(timeline, args.claim)
    if args.json:
        print(json.dumps(timeline.as_json(), indent=1, allow_nan=False))
    else:
        print("\n".join(timeline_lines(timeline, shutil.get_terminal_size((100, 24)).columns)))
    if args.output:
        from mechtest.report.files import write_whole
        from mechtest.report.timeline_picture import timeline_picture

        write_whole(args.output, timeline_picture(timeline, args.output.suffix.lower()))
        print(f"wrote {args.output}", file=sys.stderr)
    return 0


def _new_claim(args: argparse.Namespace) -> int:
    from mechtest.claim_template import write_claim_file

    write_claim_file(args.file, model=args.model, prompts=args.prompts, site=args.site)
    print(f"wrote {args.file}; check what it says with: pytest {args.file}")
    return 0


def _sites(args: argparse.Namespace) -> int:
    # The listing needs shapes, not weights: the configuration alone is read.
    from mechtest.checkpoints.formats import read_config
    from mechtest.checkpoints.location import locate, read_json
    from mechtest.sites.listing import site_table

    files = locate(args.model, revision=args.revision, subfolder=args.subfolder)
    cfg = read_config(read_json(files.config_path), str(files.config_path))
    sizes = {
        "d_model": cfg.d_model,
        "d_inner": cfg.E,
        "d_state": cfg.N,
        "dt_rank": cfg.R,
        "d_conv": cfg.d_conv,
        "d_vocab": cfg.d_vocab,
    }
    print(site_table(args.model, cfg.n_layer, sizes, aliases=args.aliases))
    return 0
