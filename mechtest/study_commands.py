"""What can be asked of a study from a shell?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mechtest.errors import StudyError

__all__ = ["add_study_commands", "starter_text"]

STARTER = """# A study: where does the model keep what it answers with?
#
#     mechtest discover {file}
#     mechtest discover {file} --emit claims/test_{stem}.py
#     pytest claims/test_{stem}.py
#
# `mechtest discover {file} --list` shows every step and setting; docs/discover.md explains them.

[study]
name = "{name}"
model = "{model}"
prompts = "{prompts}"
# seed = 0                  # training seed of the suite
# checkpoint = "last"
# metric = "logit_difference"
# per_template = 4          # fewer prompts of each template: faster
# output = "studies/{name}"

[steps]
# skip = ["sae", "scale"]

[steps.selection]
# sites = ["blocks.*.state", "blocks.*.hook_out_proj"]
# positions = ["roles", "last"]

[transfer]
# prompts = ["prompts/another_behaviour.jsonl"]

[scale]
# checkpoints = ["step-01250"]
# models = ["state-spaces/mamba-370m-hf"]
"""


def add_study_commands(commands: Any) -> None:
    """Add `discover` and `new-study` to a parser's subcommands; each sets `run`."""
    discover = commands.add_parser(
        "discover",
        help="look for circuits in fifteen steps, and propose claims about them",
        epilog="exit status: 0 every step asked for is done, 1 a step failed, 2 wrong input",
    )
    discover.add_argument("file", type=Path, metavar="STUDY", help="study file (TOML)")
    discover.add_argument(
        "--steps", default="", metavar="A,B", help="only these, and what they need"
    )
    discover.add_argument("--skip", default="", metavar="A,B", help="leave these out")
    discover.add_argument("--output", type=Path, metavar="DIR", help="instead of the file's")
    discover.add_argument(
        "--emit", type=Path, metavar="FILE", help="write the proposed claims, and their circuits"
    )
    discover.add_argument("--fresh", action="store_true", help="do finished steps anew")
    discover.add_argument(
        "--list", action="store_true", help="only list steps and settings; nothing runs"
    )
    discover.set_defaults(run=_discover)
    new = commands.add_parser("new-study", help="write a first study file")
    new.add_argument("file", type=Path, help="for example study.toml")
    new.add_argument("--model", required=True, help="suite of models, or one checkpoint")
    new.add_argument("--prompts", required=True, help="prompt file (JSON Lines)")
    new.set_defaults(run=_new_study)


def starter_text(file: str, *, name: str, model: str, prompts: str) -> str:
    """Return the text of a first study file."""
    return STARTER.format(
        file=file, name=name, stem=name.replace("-", "_"), model=_escaped(model),
        prompts=_escaped(prompts),
    )  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _discover(args: argparse.Namespace) -> int:
    from mechtest.study import Study, emit_claims

    study = Study.from_toml(args.file, output=args.output)
    if args.list:
        _print(_listing(study))
        return 0
    outcomes = study.run(
        steps=_names(args.steps), skip=_names(args.skip), fresh=args.fresh,
        told=lambda outcome: _print(_told(outcome)),
    )  # fmt: skip
    _print([f"page: {study.output / 'index.html'}"])
    if args.emit is not None:
        written = emit_claims(study, args.emit)
        _print([f"wrote {', '.join(map(str, written))}", f"test them with: pytest {written[0]}"])
    return int(any(one.status in ("failed", "not run") for one in outcomes))


def _told(outcome: Any) -> Iterable[str]:
    step = outcome.step
    state = outcome.status if outcome.fresh or outcome.status != "done" else "done before"
    yield f"{step.number:2} {step.name:13} {state}"
    if outcome.why and outcome.status != "left out":
        yield from (f"     {line}" for line in outcome.why.splitlines())
    if outcome.finished is not None and outcome.status == "done":
        yield from (f"     {line}" for line in outcome.finished.lines[:3])


def _listing(study: Any) -> Iterable[str]:
    from mechtest.study import STEPS

    for step in STEPS:
        skipped = " (left out)" if step.name in study.settings.skip else ""
        yield f"{step.number:2} {step.name:13} {step.question}{skipped}"
        chosen = study.settings.steps[step.name]
        for key, setting in step.settings.items():
            yield f"     {key} = {_toml(chosen[key])}  # {setting.meaning}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{_escaped(value)}"' if isinstance(value, str) else str(value)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _new_study(args: argparse.Namespace) -> int:
    place: Path = args.file
    if place.exists():
        raise StudyError(
            f"{place} is there already, and is left as it is", next_step="choose another name"
        )
    stem = place.stem if place.stem != "study" else Path(args.prompts).stem
    name = "".join(letter if letter.isalnum() else "-" for letter in stem).strip("-") or "study"
    text = starter_text(str(place), name=name, model=args.model, prompts=args.prompts)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{place} cannot be written: {error.strerror or error}") from error
    _print([f"wrote {place}; look for circuits with: mechtest discover {place}"])
    return 0


def _print(lines: Iterable[str]) -> None:
    """Write lines whatever the terminal's encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        text = line.encode(encoding, "replace").decode(encoding)
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
