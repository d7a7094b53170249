"""A report of a realistic run: every verdict, five seeds, a map, an expected refutation."""

import random
from dataclasses import asdict

from mechtest.records import (
    Controls,
    Counterexample,
    Effect,
    EffectMap,
    Evidence,
    Guard,
    ModelIdentity,
    OtherAblation,
    Verdict,
)
from mechtest.report import build_report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"\' onmouseover=alert(1) x="',
    "a | b | c",
    "`code` ``` **bold** _it_ [link](javascript:alert(1)) ![x](http://evil/x.png)",
    "first line\nsecond line\r\n::error::injected",
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil\x07link\x1b]8;;\x07 \x9b1m",
    "half \ud83d of an emoji \U0001f600 whole",
    "line\u2028separator\u2029and \u202ereversed\u202c",
    "nul \x00 bell \x07 backspace \x08",
    "@octocat see #1 <!-- comment --> </details> </table> &amp; &#60;b&#62;",
    "{{ 7 * 7 }} {% raw %} ${HOME} %0A%0D",
    "x" * 10_000,
]

ASSUMPTIONS = (
    "Scores of templates are symmetric around their mean under the null hypothesis.",
    "Controls are exchangeable with the claimed subspace inside blocks of equal variance.",
)

SITES = ("blocks.0.state@last",)


def controls(rng, drawn=237, losses=0, *, spread=0.08, observed=0.91, p=0.0125, weak=False):
    values = tuple(rng.gauss(0.04, spread) for _ in range(drawn))
    excess = Effect(observed - 0.04, observed - 0.1, observed, 0.95, "share of behaviour")
    stopped = "specific" if losses < 3 else "futile"
    kind = "haar" if weak else "block"
    mean = sum(values) / drawn
    return Controls(
        kind, drawn, losses, p, stopped, observed, mean, losses / (2 * drawn), excess, weak, values
    )


def evidence(rng, estimate=0.91, half=0.05, verdict="supported", label="", **changes):
    prompts = changes.pop("prompts", 128)
    behaviours = tuple(rng.gauss(4.0, 0.5) for _ in range(prompts))
    values = {
        "kind": "necessity",
        "label": label,
        "circuit": SITES,
        "intervention": "resample",
        "metric": "logit_difference",
        "effect": Effect(estimate, estimate - half, estimate + half, 0.975, "share of behaviour"),
        "verdict": Verdict(verdict),
        "threshold": 0.5,
        "direction": "greater",
        "p_effect": 0.0002,
        "method": "sign flips of 16 templates, all 65,536 patterns",
        "clusters": 16,
        "clusters_positive": 16,
        "worst_cluster": "capital-of",
        "prompts": prompts,
        "accuracy": 0.98,
        "moved": 0.97,
        "broken": 0.0,
        "model": ModelIdentity("fixtures/zoo/prose/seed0", "ab" * 32, "cd" * 32, "float32", "cpu"),
        "controls": controls(rng, observed=estimate),
        "guards": (
            Guard(
                "task", passed=True, detail="the untouched model answers 98 % of the prompts right"
            ),
            Guard("illusion", None, "no second component was named to compare with"),
        ),
        "assumptions": ASSUMPTIONS,
        "prompt_ids": tuple(f"capital-of/{i}" for i in range(prompts)),
        "effects": tuple(b * rng.gauss(estimate, 0.1) for b in behaviours),
        "behaviours": behaviours,
    }
    return asdict(Evidence(**{**values, **changes}))


def other_ablations():
    low = Effect(0.31, 0.22, 0.4, 0.975, "share of behaviour")
    return (
        OtherAblation("zero", low, agrees=False, detail="zero ablation: effect 0.31 [0.22, 0.4]"),
        OtherAblation("mean", None, agrees=None, detail="mean: it changed no activation"),
    )


def row(name, statement, verdict, parts=(), **changes):
    node = f"claims/test_fact.py::{name}[seed0-step-02500]"
    values = {
        "id": node,
        "key": node.partition("[")[0],
        "statement": statement,
        "family": "fact-state",
        "order": 0,
        "registered": True,
        "expect": "supported",
        "exact": False,
        "verdict": verdict,
        "as_expected": verdict == changes.get("expect", "supported"),
        "gate": "open",
        "level": 0.0125,
        "p": 0.0125 if verdict == "supported" else 1.0,
        "p_adjusted": 0.05 if verdict == "supported" else 1.0,
        "binding": "controls",
        "reason": "",
        "settle": "",
        "notes": [],
        "model": {
            "suite": "fixtures/zoo/prose",
            "seed": 0,
            "checkpoint": "step-02500",
            "step": 2500,
            "sha256": "ab" * 32,
            "dtype": "float32",
            "device": "cpu",
        },
        "settings": [{"threshold": 0.5, "circuit": list(SITES), "intervention": "resample"}],
        "evidence": list(parts),
        "maps": [],
        "source": {
            "file": "claims/test_fact.py",
            "line": 12,
            "code": f"def {name}(mamba, prompts): ...",
        },
        "replay": f"pytest '{node}' --mechtest-seed=0",
        "message": "",
    }
    return {**values, **changes}


def lens_map(rng, rows=4, columns=11):
    words = ["The", "capital", "of", "France", "is", "the", "city", "of", "Paris", "and"]
    labels = [f"{i}" for i in range(len(words))]
    return asdict(
        EffectMap(
            "Effect of patching the state, layer by position, mean over 64 discovery prompts",
            tuple(f"blocks.{i}.state" for i in range(rows)),
            (*labels[: columns - 1], "last"),
            tuple(
                tuple(
                    None if x + y == 12 else rng.gauss(0, 0.1) + (x > 8) * 0.6 / (y + 1)
                    for x in range(columns)
                )
                for y in range(rows)
            ),
            tokens=() if columns < 3 else (*words[: columns - 1], "is"),
        )
    )  # fmt: skip


def decided_rows(rng):
    weak = controls(rng, 57, 9, observed=0.12, p=0.16, weak=True)
    seeds = [evidence(rng, 0.93 - 0.04 * i, 0.04 + 0.01 * i, label=f"seed {i}") for i in range(5)]
    return [
        row(
            "test_necessary",
            "Layer 0's recurrent state at the last token carries the city",
            "supported",
            [evidence(rng, ablations=other_ablations())],
            maps=[lens_map(rng)],
            reason="The effect is 0.91, above 0.5, and none of 237 controls did as well.",
        ),
        row(
            "test_sufficient",
            "Restoring it alone brings the answer back",
            "refuted",
            [evidence(rng, 0.31, 0.09, "refuted", threshold=0.6, p_effect=0.9998)],
            order=1,
            p=0.9998,
            reason="The effect is 0.31 [0.22, 0.40], below 0.6.",
            binding="effect",
            message="ClaimRefuted: effect 0.31 [0.22, 0.40], threshold 0.6, p 0.9998\n"
            "  expected  an effect above 0.6\n  next      look at the weakest template: capital-of",
        ),
        row(
            "test_stable",
            "... in every training seed",
            "supported",
            seeds,
            order=2,
            gate="closed",
            notes=["5 of 5 seeds show that the claim holds in more than 55 % of seeds."],
        ),
        row(
            "test_layer1_inert",
            "Layer 1's state does not carry it",
            "inconclusive",
            [
                evidence(
                    rng, 0.13, 0.08, "inconclusive", kind="absence", threshold=0.15,
                    direction="less", p_effect=0.21, clusters=6, clusters_positive=4, prompts=48,
                    controls=None, model=ModelIdentity("prose/seed0", "", "", "float32", "cpu"),
                )
            ],
            family="inert",
            gate="none",
            p=0.21,
            reason="The interval [0.05, 0.21] holds the threshold 0.15.",
            settle="About 14 templates instead of 6 would settle it with 80 % power.",
            message="ClaimInconclusive: effect 0.13 [0.05, 0.21], threshold 0.15",
        ),
        row(
            "test_induction",
            "A rotated subspace of layer 2 carries it as well",
            "refuted",
            [
                evidence(
                    rng, 0.12, 0.2, "refuted", controls=weak, p_effect=0.99, broken=0.31,
                    effect=Effect(0.12, None, None, 0.975, "share of behaviour",
                                  "denominators are not clearly away from zero"),
                )
            ],
            family="inert",
            order=1,
            gate="none",
            expect="refuted",
            p=0.99,
            reason="The effect is below the threshold, and 9 of 57 controls did as well.",
        ),
        row(
            "test_scan_matches_reference",
            "The parallel scan computes what the recurrence computes",
            "supported",
            [
                evidence(
                    rng, 3e-7, 0, kind="identity", controls=None, p_effect=None, threshold=1e-5,
                    direction="less", metric="largest_difference", clusters=0, clusters_positive=0,
                    effect=Effect(3e-7, None, None, 1.0, "largest difference", "an identity"),
                    accuracy=None, moved=None, broken=None, worst_cluster="",
                )
            ],
            family="identities", gate="none", exact=True, p=0.0, p_adjusted=0.0,
        ),
    ]  # fmt: skip


def broken_rows():
    plain = {"family": "inert", "gate": "none"}
    return [
        row(
            "test_wrong_site", "Layer 9 writes the city", "invalid", **plain, order=2,
            binding="MT101", reason="no site blocks.9.state in this model",
            message="[MT101] no site 'blocks.9.state'\n  closest   blocks.3.state",
        ),
        row("test_long", "A claim whose worker died", "crashed", **plain, order=3,
            reason="worker gw1 was killed by signal 9 while this claim ran"),
        row("test_after", "A claim after it", "not_run", **plain, order=4,
            reason="the run ended before it began"),
        row("test_left_out", "A claim left out", "deselected", **plain, order=5,
            reason="deselected by -k"),
        row("test_gpu", "A claim for a GPU", "skipped", **plain, order=6, registered=False,
            reason="needs a CUDA device"),
        row("test_stopped", "A claim that was interrupted", "interrupted", **plain, order=7,
            reason="interrupted after 57 of 237 controls"),
    ]  # fmt: skip


def hostile_rows(rng):
    rows = []
    for index, text in enumerate(HOSTILE):
        part = evidence(
            rng, label=text, circuit=(text,), intervention=text, metric=text, method=text,
            worst_cluster=text, prompt_ids=(text,), effects=(1.0,), behaviours=(1.0,),
            effect=Effect(0.9, None, None, 0.9, text, text), assumptions=(text,),
            guards=(Guard(text, passed=False, detail=text),),
            ablations=(OtherAblation(text, None, agrees=False, detail=text),),
            counterexample=Counterexample(text, text, (text,), text, text, (text,), 0.1, 0.5, text),
            model=ModelIdentity(text, text, text, text, text),
        )  # fmt: skip
        rows.append(
            row(
                text, text, "refuted", [part, part] if index % 2 else [part],
                key=text, family=text, order=index, binding=text, reason=text, settle=text,
                notes=[text], replay=text, message=text, settings=[{text: text, "n": [text]}],
                maps=[{"title": text, "rows": [text], "columns": [text, ""], "unit": text,
                       "values": [[0.5, None]], "tokens": [text, ""]}],
                source={"file": text, "line": 3, "code": text},
                model={"suite": text, "seed": None, "checkpoint": text, "step": None,
                       "sha256": text, "dtype": text, "device": text},
            )
        )  # fmt: skip
    return rows


def report_of(rows, **changes):
    rows = list(rows)
    families = {}
    for item in rows:
        family = families.setdefault(
            item["family"], {"ordered": False, "level": 0.025, "claims": []}
        )
        if item["key"] not in family["claims"]:
            family["claims"].append(item["key"])
    if "fact-state" in families:
        families["fact-state"]["ordered"] = True
    values = {
        "families": families,
        "family_error": {
            "alpha": 0.05,
            "registered": sum(item["registered"] for item in rows),
            "selected": sum(item["registered"] for item in rows),
            "source": "claims/claims.lock",
            "stale": [],
        },
        "provenance": {
            "versions": {"mechtest": "0.1.0", "torch": "2.13.0", "causal-conv1d": None},
            "lock": "ef" * 32,
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
            "seed": 0,
            "prompts": {"fixtures/prompts/fact_city.jsonl": "12" * 32},
            "circuits": {"34" * 8: 4},
        },
        "run": {
            "id": "56" * 16,
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 93.4,
            "workers": 2,
            "threads": 1,
            "engine": "auto",
            "memory": 536870912,
            "kernels": ["native"],
            "forward_passes": 12345,
            "forward_tokens": 6789012,
            "argv": ["pytest", "claims", "-n", "2"],
            "claims": {
                item["id"]: {
                    "seconds": 4.2 + i,
                    "worker": f"gw{i % 2}",
                    "engine": "packed",
                    "forward_passes": 480,
                    "forward_tokens": 96000,
                }
                for i, item in enumerate(rows)
                if item["evidence"]
            },
            "torn_lines": 0,
            "notes": ["worker gw1 was replaced by gw2"],
        },
        "assumptions": ASSUMPTIONS,
    }
    return build_report(rows, **{**values, **changes})


def example_report():
    rng = random.Random(0)
    error = {"file": "claims/test_broken.py", "message": "SyntaxError: invalid syntax\n  line 3"}
    return report_of([*broken_rows(), *decided_rows(rng)], collection_errors=[error])


def hostile_report():
    error = [{"file": text, "message": text} for text in HOSTILE]
    return report_of(hostile_rows(random.Random(0)), collection_errors=error, assumptions=HOSTILE)


def large_report(count, drawn=400):
    """Many claims that came out well, with all their controls, some of them not as expected."""
    rng = random.Random(1)
    rows = []
    for i in range(count):
        estimate = round(rng.uniform(0.2, 0.98), 3)
        verdict = "supported" if estimate > 0.35 else "refuted"
        part = evidence(rng, estimate, rng.uniform(0.02, 0.12), verdict,
                        controls=controls(rng, drawn, observed=estimate))  # fmt: skip
        place = f"blocks.{i % 24}.state@last"
        rows.append(
            row(f"test_{i}", f"The state of layer {i % 24} at the last token carries fact {i}",
                verdict, [part], family=f"family-{i % 8}", order=i // 8, gate="none",
                reason=f"The effect at {place} is {estimate}, held against 0.5.")
        )  # fmt: skip
    return report_of(rows)
