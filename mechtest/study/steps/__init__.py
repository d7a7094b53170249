"""Which are the fifteen steps of a study, in order, and what may be set in each?

The order is that of a published recipe for opening up state-space models: look before choosing,
choose before testing, and test by intervention. A step reads what earlier ones wrote, never what
they held in memory, so that a study that goes on is the same as one that never stopped.
"""

from mechtest.study.step import Setting, Step
from mechtest.study.steps.activations import collect_statistics
from mechtest.study.steps.controls import draw_controls
from mechtest.study.steps.deliverables import propose_claims
from mechtest.study.steps.dynamics import look_at_dynamics
from mechtest.study.steps.features import find_features
from mechtest.study.steps.patching import patch_circuits
from mechtest.study.steps.perturbing import perturb_prompts
from mechtest.study.steps.pictures import draw_pictures
from mechtest.study.steps.probing import probe_sites
from mechtest.study.steps.scale import scale_up
from mechtest.study.steps.seeds import compare_seeds
from mechtest.study.steps.selection import select_circuits
from mechtest.study.steps.setup import set_up
from mechtest.study.steps.temporal import follow_time
from mechtest.study.steps.transfer import transfer_circuits

__all__ = ["STEPS"]

SITES = ("blocks.*.state",)
"""The last layer's output carries any answer: only what remembers is looked at by default."""

STEPS: tuple[Step, ...] = (
    Step(1, "setup", "What is studied, exactly, and does the model do the task?", set_up),
    Step(
        2, "activations", "What are the activations of each site like?", collect_statistics,
        {
            "sites": Setting(
                ("blocks.*.hook_resid_post", "blocks.*.hook_out_proj", "blocks.*.hook_h"),
                "sites to measure; * is every layer",
            ),
            "positions": Setting(("last",), "positions to measure; `roles` is every shared role"),
            "lens": Setting(default=True, meaning="read the stream through the unembedding"),
            "tuned_steps": Setting(0, "steps of training a tuned lens; 0 for none"),
            "direct": Setting("branch", "direct logit attribution by layer, branch, channel or "
                              "state; empty for none"),
        },
        needs=("setup",),
    ),
    Step(
        3, "sae", "Of which few directions are activations made?", find_features,
        {
            "site": Setting("blocks.*.hook_resid_pre", "one site; * is the last layer"),
            "positions": Setting("*", "tokens that are trained on"),
            "kind": Setting("topk", "topk, relu or jumprelu"),
            "d_sae": Setting(0, "features; 0 for four times d_model"),
            "k": Setting(8, "features active at once (topk)"),
            "steps": Setting(1000, "steps of training"),
            "seeds": Setting(1, "autoencoders that are trained and compared"),
            "count": Setting(4, "features of the candidate"),
        },
        needs=("setup",),
    ),
    Step(
        4, "probes", "Where can the answer be read off, and is it used?", probe_sites,
        {
            "sites": Setting(("blocks.*.hook_h",), "sites that are probed"),
            "positions": Setting(("last",), "positions that are probed"),
            "label": Setting("answer", "what is read: answer, or a role (the word there)"),
            "kind": Setting("logistic", "logistic, ridge, lasso or elasticnet"),
            "penalty": Setting(1.0, "of the probe, in standardised coordinates"),
            "folds": Setting(5, "parts the templates are dealt into"),
            "control_task": Setting(default=True, meaning="also fit random labels"),
        },
        needs=("setup",),
    ),
    Step(
        5, "selection", "Which circuits are worth a closer look?", select_circuits,
        {
            "sites": Setting(SITES, "sites of the effect map; * is every layer"),
            "positions": Setting(("roles", "last"), "positions of the effect map"),
            "count": Setting(4, "places of each source that become candidates"),
            "parts_of": Setting(1, "of how many of them parts are looked for"),
            "share": Setting(0.9, "of a place's effect that its channels have to do"),
            "groups": Setting(4, "groups of channels that go together; 0 for none"),
            "rank": Setting(8, "directions in which the twins differ; 0 for none"),
            "attribution": Setting(default=True, meaning="also rank places by slopes"),
            "edges": Setting("", "also rank edges by slopes: eap or eap-ig; empty for none"),
            "sample": Setting(24, "places truly patched beside slopes"),
            "tracing": Setting(default=True, meaning="also trace causally: noise and restore"),
            "subject": Setting((), "roles that are noised; by default where the twins differ"),
            "samples": Setting(4, "draws of the noise a prompt"),
            "overlap": Setting(0.8, "shared part from which on two candidates are merged"),
        },
        needs=("setup",), uses=("sae", "probes"),
    ),
    Step(
        6, "patching", "Is it lost without a candidate, and back with it alone?", patch_circuits,
        {
            "count": Setting(8, "candidates to patch"),
            "map": Setting(default=True, meaning="also restore every place of the effect map"),
            "curve": Setting(default=True, meaning="faithfulness of the best k places"),
            "rankings": Setting(10, "rankings by chance beside that curve"),
            "prune": Setting(8, "best places that are pruned one by one; 0 for none"),
            "tolerance": Setting(0.05, "share of the behaviour that pruning may lose"),
        },
        needs=("setup", "selection"),
    ),
    Step(
        7, "perturbation", "Does a circuit keep its effect on edited prompts?", perturb_prompts,
        {
            "circuits": Setting(1, "of the best circuits, how many"),
            "kinds": Setting(("prefix", "casing"), "edits: prefix, casing, blanks, swap_sentences"),
            "prefixes": Setting((), "texts put in front of every prompt"),
        },
        needs=("setup", "patching"),
    ),
    Step(
        8, "temporal", "From which tokens does the answer come, and how long is it kept?",
        follow_time,
        {
            "sites": Setting(("blocks.*.state",), "sites of the map over tokens"),
            "max_lag": Setting(8, "tokens back that influence is measured"),
            "window": Setting(9, "layers knocked out at once"),
        },
        needs=("setup",), uses=("patching",),
    ),
    Step(
        9, "dynamics", "How long do states last, and which of their modes are used?",
        look_at_dynamics,
        {
            "channels": Setting(64, "channels whose Gramians are computed"),
            "groups": Setting("octave", "groups of modes: octave or rank"),
        },
        needs=("setup",), uses=("patching",),
    ),
    Step(
        10, "seeds", "Does it hold in models of other training seeds?", compare_seeds,
        {
            "seeds": Setting(0, "how many seeds, the studied one included; 0 for all"),
            "match": Setting(4, "best places of each seed that are matched; 0 for none"),
        },
        needs=("setup", "patching"),
    ),
    Step(
        11, "transfer", "Does the circuit carry other behaviours, too?", transfer_circuits,
        {"circuits": Setting(1, "of the best circuits, how many")},
        needs=("setup", "patching"), reads=("transfer",),
    ),
    Step(
        12, "pictures", "What does it look like on one sheet?", draw_pictures,
        needs=("selection", "patching"), uses=("temporal",),
    ),
    Step(
        13, "controls", "Do random parts of the model do as much?", draw_controls,
        {
            "circuits": Setting(3, "of the best circuits, how many"),
            "draws": Setting(39, "controls of each"),
        },
        needs=("setup", "patching"),
    ),
    Step(
        14, "scale", "Is it the same in other models?", scale_up,
        needs=("setup", "patching"), reads=("scale",),
    ),
    Step(
        15, "deliverables", "Which claims are proposed?", propose_claims,
        {"level": Setting(0.1, "p of the preview up to which a circuit counts as special")},
        needs=("setup", "selection", "patching"), uses=("activations", "probes", "controls"),
    ),
)  # fmt: skip
