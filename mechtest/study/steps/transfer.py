"""Does the circuit carry other behaviours, too?"""

from __future__ import annotations

from pathlib import Path

from mechtest.discovery.circuits.transfer import transfer_matrix
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.errors import MechtestError
from mechtest.study.bench import Bench, encodable
from mechtest.study.step import Found
from mechtest.tasks import DiscoveryPairs, PromptPairs

__all__ = ["transfer_circuits"]


def transfer_circuits(bench: Bench) -> Found:
    """Ablate the best circuits on the discovery halves of other prompt files."""
    found = Found()
    files = bench.study.transfer["prompts"]
    if not files:
        found.lines.append("not asked for: the study file names no other prompts under [transfer]")
        return found
    tasks: dict[str, DiscoveryPairs] = {
        Path(bench.study.study["prompts"]).stem: bench.prompts.discovery
    }
    for file in files:
        try:
            whole = encodable(PromptPairs.from_jsonl(file), bench.study.study["per_template"])
            behaviour_of(looking_runner(bench.model, whole.discovery), bench.metric)
            tasks[Path(file).stem] = whole.discovery
        except MechtestError as error:
            found.warnings.append(f"{file}: {error.what}")
    circuits = bench.best(bench.settings["circuits"])
    if not circuits:
        found.warnings.append("there is no circuit to ask about")
        return found
    matrix = transfer_matrix(
        bench.model, circuits, tasks, metric=bench.metric, progress=bench.progress,
        seed=bench.seed,
    )  # fmt: skip
    found.keep("transfer", matrix, count=6)
    return found
