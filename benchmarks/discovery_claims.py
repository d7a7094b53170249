"""Do claims that studies propose hold on the prompts nobody looked at?

A study of every behaviour of the zoo, and of every compiled family: steps up to the claim file, and
then the claim file itself in pytest, on the other half. Writes a table into docs/discover.md: the
circuit, its effect on both halves, the optimism with its interval, and what became of each claim.

    PYTHONPATH=.:benchmarks python benchmarks/discovery_claims.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from planted_places import BEHAVIOURS
from results import table
from tqdm import tqdm

from fixtures.compiled import FAMILIES
from mechtest.errors import MechtestError
from mechtest.study import Study, emit_claims
from mechtest.tasks import PromptPairs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "discover.md"
START, END = "<!-- tables: benchmarks/discovery_claims.py -->", "<!-- end of claims -->"
STEPS = ("setup", "activations", "probes", "selection", "patching", "controls", "deliverables")
ZOO = {
    "fact_city": "prose", "fact_material": "prose", "agree": "prose", "gender": "prose",
    "greater_than": "prose", "ioi": "prose", "recall": "recall",
}  # fmt: skip
NOISE = 0.005
OPTIMISM = re.compile(r"test half\): (.*)")


def studied(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield a name and the `[study]` table of everything that is studied."""
    for behaviour, suite in ZOO.items():
        yield (
            f"zoo: {behaviour}",
            {
                "model": str(ROOT / "fixtures/zoo" / suite),
                "prompts": str(ROOT / "fixtures/prompts" / f"{behaviour}.jsonl"),
            },
        )
    for family, (behaviour, _) in BEHAVIOURS.items():
        compiled = FAMILIES[family].build(seed=1, noise=NOISE, share=0.8)
        model = compiled.save(folder / family)
        prompts = folder / f"{family}.jsonl"
        chosen: PromptPairs = compiled.prompts.filter(behaviour=behaviour)
        chosen.to_jsonl(prompts)
        yield f"compiled: {family}", {"model": str(model), "prompts": str(prompts)}


def answered(claim_file: Path) -> list[dict[str, object]]:
    """Return the claims of a report on a claim file, run in a process of its own."""
    report = claim_file.parent / "report"
    subprocess.run(
        [sys.executable, "-m", "pytest", str(claim_file), "-q", "-p", "no:cacheprovider",
         f"--rootdir={claim_file.parent}", f"--mechtest-report={report}"],
        cwd=ROOT, capture_output=True, check=False, text=True,
    )  # fmt: skip
    found: list[dict[str, object]] = json.loads((report / "report.json").read_text())["claims"]
    return found


def row(claim: Mapping[str, object]) -> list[str]:
    """Return one claim as cells: what it says, effects, optimism, verdict."""
    (evidence, *_) = claim["evidence"] or [{}]  # type: ignore[misc]
    effect = evidence.get("effect") or {}
    span = "".join(
        f" [{effect['low']:.2f}, {effect['high']:.2f}]"
        for _ in [0]
        if effect.get("low") is not None
    )
    measured = "" if effect.get("estimate") is None else f"{effect['estimate']:.2f}{span}"
    notes = " ".join(claim["notes"])  # type: ignore[arg-type]
    optimism = OPTIMISM.search(notes)
    p = claim.get("p")
    shown = "" if p is None else f"{p:.3g}"
    return [
        str(claim["statement"]).replace("blocks.", "").replace(" the behaviour", ""),
        "" if optimism is None else optimism[1].split("test half")[0].split(";")[0][:28],
        f"> {evidence.get('threshold', '')}",
        measured,
        shown,
        str(claim["verdict"]),
    ]


def main() -> None:
    """Study everything, test what was proposed, and write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, told in tqdm(list(studied(folder)), unit="study"):
            short = re.sub(r"\W+", "_", name)
            home = folder / short
            home.mkdir()
            toml = home / "study.toml"
            told = {"name": short, **told, "output": str(home / "study")}
            lines = [f"{key} = {json.dumps(value)}" for key, value in told.items()]
            toml.write_text("[study]\nper_template = 2\npictures = false\n" + "\n".join(lines))
            study = Study.from_toml(toml)
            study.run(steps=STEPS, progress=False)
            try:
                (claims, *_) = emit_claims(study, home / f"test_{short}.py")
            except MechtestError as error:
                rows.append([name, f"no claim: {error.given}"[:90], "", "", "", "", ""])
                continue
            rows += [[name, *row(claim)] for claim in answered(claims)]
            for one in rows[-3:]:
                print(*one, sep=" | ", flush=True)
    header = ["studied", "claim", "optimism", "threshold", "effect, test half", "p", "verdict"]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n\n{table(header, rows)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
