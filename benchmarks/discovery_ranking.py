"""Do the tools of discovery put first what was planted?

On every compiled family, without noise and with noise on all weights: the places (layer and
position) and the channels of the site that carries the behaviour, ranked by each tool on the
discovery half of the prompts. Writes tables of areas under the ROC curve into docs/discover.md.

    PYTHONPATH=.:benchmarks python benchmarks/discovery_ranking.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jaxtyping
import numpy as np
import torch
from planted_places import Case, auroc, cases
from results import table
from tqdm import tqdm

from mechtest.discovery import attribution, circuits, dynamics, lens, probes, temporal, tracing
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit, collect_activations, runner_for_claim, sweep

PAGE = Path(__file__).parents[1] / "docs" / "discover.md"
START, END = "<!-- tables: benchmarks/discovery_ranking.py -->", "<!-- end of tables -->"
NOISES = (0.0, 0.02)
Scores = Mapping[str, float]
Tool = Callable[[Case], Scores]
QUIET = {"progress": False}


def _sweep(base: str) -> Tool:
    def rank(case: Case) -> Scores:
        found = sweep(
            case.compiled.model,
            [f"blocks.*.{hook}" for hook in case.hooks],
            case.prompts,
            positions=case.positions,
            base=base,  # type: ignore[arg-type]
            progress=False,
        )
        return {one.site: abs(one.effect) for one in found.top(10_000)}

    return rank


def _attribution(base: str) -> Tool:
    def rank(case: Case) -> Scores:
        return attribution.attribution_patching(
            case.compiled.model,
            case.prompts,
            [f"blocks.*.{hook}" for hook in case.hooks],
            positions=case.positions,
            base=base,  # type: ignore[arg-type]
            **QUIET,
        ).scores()

    return rank


def _trace(case: Case) -> Scores:
    return tracing.causal_trace(
        case.compiled.model,
        case.prompts,
        sites=[f"blocks.*.{hook}" for hook in case.hooks],
        positions=case.positions,
        metric="logit_difference",
        samples=4,
        **QUIET,
    ).scores()


def _prune(case: Case) -> Scores:
    return circuits.greedy_prune(
        case.compiled.model, case.prompts, _outputs(case), **QUIET
    ).scores()


def _acdc(case: Case) -> Scores:
    return circuits.acdc_prune(
        case.compiled.model, case.prompts, _outputs(case), tau=0.05, **QUIET
    ).scores()


def _edges(method: str) -> Tool:
    def rank(case: Case) -> Scores:
        return attribution.edge_attribution(
            case.compiled.model,
            case.prompts,
            method=method,  # type: ignore[arg-type]
            positions=case.positions,
            **QUIET,
        ).scores()

    return rank


def _lens(case: Case) -> Scores:
    return lens.logit_lens(case.compiled.model, case.prompts, **QUIET).scores()


def _direct(case: Case) -> Scores:
    return lens.direct_logit_attribution(
        case.compiled.model, case.prompts, run="difference", **QUIET
    ).scores()


def _probe(by: str) -> Tool:
    def rank(case: Case) -> Scores:
        return probes.probe(
            case.compiled.model,
            "blocks.*.hook_out_proj",
            case.prompts,
            positions=case.positions,
            control_task=False,
            **QUIET,
        ).scores(by=by)  # type: ignore[arg-type]

    return rank


def _influence(case: Case) -> Scores:
    return temporal.influence_map(
        case.compiled.model, case.prompts, site="hook_out_proj", max_lag=24, **QUIET
    ).scores()


def _outputs(case: Case) -> list[str]:
    return [name for name in case.places if ".hook_out_proj@" in name]


PLACES: dict[str, tuple[Tool, str]] = {
    "sweep, ablating": (_sweep("clean"), ""),
    "sweep, restoring": (_sweep("corrupted"), ""),
    "attribution patching, ablating": (_attribution("clean"), ""),
    "attribution patching, restoring": (_attribution("corrupted"), ""),
    "causal tracing": (_trace, ""),
    "greedy pruning": (_prune, "hook_out_proj"),
    "ACDC": (_acdc, "hook_out_proj"),
    "EAP": (_edges("eap"), "hook_out_proj"),
    "EAP-IG": (_edges("eap-ig"), "hook_out_proj"),
    "probe, effect of what it reads": (_probe("effect"), "hook_out_proj"),
    "probe, accuracy": (_probe("accuracy"), "hook_out_proj"),
    "direct logit attribution": (_direct, "hook_out_proj@last"),
    "logit lens": (_lens, "hook_out_proj@last"),
}
"""Tools that rank places, and the places that each of them ranks."""


def _channel_sweep(base: str) -> Tool:
    def rank(case: Case) -> Scores:
        site, _, position = case.channel_site.partition("@")
        found = sweep(
            case.compiled.model,
            site,
            case.prompts,
            positions=position,
            channels=1,
            base=base,  # type: ignore[arg-type]
            progress=False,
        )
        return dict(enumerate(np.abs(np.nan_to_num(found.mean()[0]))))  # type: ignore[arg-type]

    return rank


def _channel_attribution(base: str) -> Tool:
    def rank(case: Case) -> Scores:
        site, _, position = case.channel_site.partition("@")
        scores = attribution.attribution_patching(
            case.compiled.model,
            case.prompts,
            site,
            positions=position,
            channels="each",
            base=base,  # type: ignore[arg-type]
            **QUIET,
        ).scores()
        return _by_channel(scores)

    return rank


def _modes(case: Case) -> Scores:
    layer = int(case.channel_site.split(".")[1])
    found = dynamics.mode_effects(
        case.compiled.model, case.prompts, layer, by="channels", groups="rank",
        count=len(case.channels), **QUIET,
    )  # fmt: skip
    return _by_channel(found.scores())


def _spread(of: str) -> Tool:
    def rank(case: Case) -> Scores:
        runner = runner_for_claim(
            case.compiled.model, case.prompts.encode(case.compiled.model.tokenizer)
        )
        total = torch.zeros(len(case.channels), dtype=torch.float64)
        clean = collect_activations(runner, Circuit(case.channel_site), "clean")
        twin = collect_activations(runner, Circuit(case.channel_site), "corrupted")
        for name, values in clean.items():
            rows = values if of == "variance" else values - twin[name]
            rows = rows.double()
            spread = rows.var(0) if of == "variance" else (rows**2).mean(0)
            axis = spread.shape.index(len(case.channels))
            total += spread.movedim(axis, 0).reshape(len(case.channels), -1).sum(1)
        return dict(enumerate(total.tolist()))  # type: ignore[arg-type]

    return rank


def _by_channel(scores: Scores) -> Scores:
    return {int(name.rpartition("#")[2]): value for name, value in scores.items()}  # type: ignore[misc]


CHANNELS: dict[str, Tool] = {
    "sweep, ablating": _channel_sweep("clean"),
    "sweep, restoring": _channel_sweep("corrupted"),
    "attribution patching, ablating": _channel_attribution("clean"),
    "attribution patching, restoring": _channel_attribution("corrupted"),
    "modes (by channel)": _modes,
    "difference between the runs (no tool)": _spread("difference"),
    "variance (no tool)": _spread("variance"),
}
"""Tools that rank the channels of a site, and two rankings that ask the model nothing."""


def ranked(tool: Tool, case: Case, planted: Mapping[str, bool]) -> str:
    """Return the area under the curve of one tool in one case, or why there is none."""
    try:
        area = auroc(tool(case), planted)
    except MechtestError as error:
        return type(error).__name__
    return "one kind" if area is None else f"{area:.2f}"


def main() -> None:
    """Rank everything with every tool, and write the tables."""
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    torch.manual_seed(0)
    every = cases(NOISES)
    header = [f"{family}, noise {noise:g}" if noise else family for family, noise, _ in every]
    places, channels = [], []
    for name, (tool, hooks) in tqdm(PLACES.items(), unit="tool"):
        row = [name, hooks or "all"]
        for _, _, case in every:
            row.append(ranked(tool, case, {k: v for k, v in case.places.items() if hooks in k}))
        places.append(row)
        print(*row, sep=" | ", flush=True)
    for name, tool in tqdm(CHANNELS.items(), unit="tool"):
        row = [name, *(ranked(tool, case, case.channels) for _, _, case in every)]  # type: ignore[arg-type]
        channels.append(row)
        print(*row, sep=" | ", flush=True)
    body = "\n\n".join(
        [
            f"### Places\n\n{table(['tool', 'places', *header], places)}",
            f"### Channels\n\n{table(['tool', *header], channels)}",
        ]
    )
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
