"""How does what a study found become a claim file that pytest runs?

The file reads the circuits from JSON files beside it, which carry the fingerprints of every prompt
looked at: a claim that would be tested on one of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechtest.errors import StudyError
from mechtest.interventions.sweep_file import write_whole
from mechtest.study.python_text import Argument, call, wrapped
from mechtest.study.step import Found

if TYPE_CHECKING:
    from mechtest.study.study import Study

__all__ = ["claim_text", "emit_claims"]

HEAD = '''{question}

Proposed by a study of {prompts} discovery prompts ({templates} templates). The thresholds come from
there, with a margin: an effect on the prompts a circuit was found on is too large. These tests run
on the other half of the prompts, and answer for themselves.

    threshold = lower end of the discovery interval - {margin}, rounded down to .05,
                at most the default of the claim
"""

from pathlib import Path

import mechtest as mt

{family}

HERE = Path(__file__).parent
'''
TEST = """

{measured}
{claim}
def test_{name}(mamba, prompts):
{check}
"""
NAMES = {"circuit": "CIRCUIT", "decoy": "DECOY"}


def emit_claims(study: Study, path: str | Path) -> list[Path]:
    """Write the claims that a study proposes, and the files of their circuits.

    Args:
        study: Its deliverables are finished.
        path: The claim file, `test_something.py`.

    Returns:
        The files written, the claim file first.

    Raises:
        StudyError: Nothing is proposed, pytest does not collect the name, or the disk refuses.
    """
    place = Path(path)
    if not (place.name.startswith("test_") and place.suffix == ".py"):
        raise StudyError(
            "pytest does not collect a file of this name",
            given=str(place),
            expected="test_something.py",
        )
    found = study.found("deliverables")
    if not found.facts["claims"]:
        raise StudyError(
            f"the study {study.settings.name} proposes no claim",
            given="; ".join(found.warnings) or "no circuit",
            next_step=f"look at {study.output / 'index.html'}",
        )
    stem = place.stem.removeprefix("test_")
    files = {key: f"{stem}.{key}.json" if key != "circuit" else f"{stem}.circuit.json"
             for key in found.circuits}  # fmt: skip
    try:
        for key, circuit in found.circuits.items():
            circuit.save(place.with_name(files[key]))
        text = claim_text(study, found, files, stem.replace("_", "-"))
        write_whole(place, text.encode())
    except OSError as error:
        raise StudyError(
            f"{place} cannot be written: {error.strerror or error}",
            expected="a directory that can be written",
        ) from error
    return [place, *(place.with_name(name) for name in files.values())]


def claim_text(study: Study, found: Found, files: Mapping[str, str], family: str) -> str:
    """Return the text of a claim file.

    Args:
        study: Whose.
        found: Of its deliverables.
        files: File of each circuit, beside the claim file.
        family: Name of the family of claims.
    """
    from mechtest.study.thresholds import MARGIN

    told = study.settings.study
    keys = {"model": told["model"], "prompts": told["prompts"]}
    rest = {"seed": (told["seed"], 0), "checkpoint": (told["checkpoint"], "last"),
            "per_template": (told["per_template"], 0)}  # fmt: skip
    keys |= {key: value for key, (value, default) in rest.items() if value != default}
    given: list[Argument] = [("", family), *((f"{key}=", value) for key, value in keys.items())]
    name = found.facts["names"]["circuit"]
    half = study.prompts.discovery
    text = HEAD.format(
        question=wrapped(_plain(f"What does {name} have to do with these prompts?"), '"""', ""),
        prompts=len(half),
        templates=len(half.templates),
        margin=MARGIN,
        family=call("pytestmark = mt.family", given, apart=True),
    )
    for key, file in files.items():
        text += call(f"{NAMES[key]} = mt.Circuit.load", [("HERE / ", file)]) + "\n"
    metric = told["metric"]
    for claim in found.facts["claims"]:
        text += _test(claim, found.facts["names"][claim["circuit"]], metric)
    return text


def _test(claim: Mapping[str, Any], name: str, metric: str) -> str:
    refuted = claim["expect"] == "refuted"
    what = {
        "necessary": f"{name} carries the behaviour",
        "sufficient": f"restoring {name} alone brings the behaviour back",
    }[claim["kind"]]
    low, high = claim["low"], claim["high"]
    span = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    done = "restored" if claim["kind"] == "sufficient" else "lost"
    measured = f"{claim['effect']:.2f}{span} {done}"
    if claim["why"]:
        measured += f" ({claim['why']})"
    about_claim: list[Argument] = [("", f"False: {what}" if refuted else what)]
    terms: list[Argument] = ["mamba", NAMES[claim["circuit"]], "prompts"]
    terms.append(("threshold=", claim["threshold"]))
    if refuted:
        about_claim.append(("expect=", "refuted"))
    if metric != "logit_difference":
        terms.append(("metric=", metric))
    said = f"On the discovery half, where it was found: {_plain(measured)}."
    return TEST.format(
        measured=wrapped(said, "# ", "# "),
        claim=call("@mt.claim", about_claim),
        name="false_twin" if refuted else claim["kind"],
        check=call(f"mt.assert_{claim['kind']}", terms, indent="    "),
    )


def _plain(text: str) -> str:
    """Return a text that can stand in a comment or docstring."""
    return " ".join(text.split()).replace("\\", "/").replace('"""', "'''")
