"""What is kept of two unedited runs made together is what is kept of each alone."""

import torch

from mechtest.interventions import Circuit, NoiseAblation, Runner
from mechtest.interventions.base_run import BaseNeeds
from mechtest.sites import Site
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model

LENGTHS = [6, 4, 5]


def needs(columns, sites, resid):
    """Return needs of the last `columns` columns, with hooks read there."""
    where = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.bool)
    where[:, -columns:] = True
    return BaseNeeds(frozenset(resid), where, {Site(hook, layer): where for hook, layer in sites})


def test_two_runs_in_one_pass_keep_what_each_alone_keeps():
    """Both read the same hook at other positions, and one of them a second hook."""
    model = tiny_model(n_layer=2, dtype="float64")
    packed = Runner(model, tiny_pairs(model, LENGTHS), engine="packed")._packed
    wanted = {
        "clean": needs(3, [("hook_y", 0), ("hook_y", 1)], {0, 1}),
        "corrupted": needs(2, [("hook_y", 0)], {1}),
    }
    together = packed._run_bases(wanted, 0, len(LENGTHS))
    for run, asked in wanted.items():
        (alone,) = packed._run_bases({run: asked}, 0, len(LENGTHS)).values()
        ours = together[run]
        assert ours.values.keys() == alone.values.keys()
        for site, value in alone.values.items():
            assert torch.equal(ours.values[site], value), (run, site)
        assert ours.resid.keys() == alone.resid.keys() == asked.resid
        assert all(torch.equal(ours.resid[layer], alone.resid[layer]) for layer in asked.resid)
        assert torch.equal(ours.last, alone.last)
        prompt, column = asked.states.nonzero(as_tuple=True)
        for layer in range(2):
            mine = ours.h[layer][ours.slot_before(prompt, column + 1)]
            assert torch.equal(mine, alone.h[layer][alone.slot_before(prompt, column + 1)])
        assert torch.equal(ours.prompt_of_row, alone.prompt_of_row)


def test_edits_of_one_variant_at_the_same_rows_are_made_one_after_the_other():
    """Noise is added twice where two circuits overlap, in both executors."""
    model = tiny_model(n_layer=2, dtype="float64")
    pairs = tiny_pairs(model, LENGTHS)
    for hook in ("hook_y", "hook_h", "hook_conv_state"):
        circuits = [Circuit(f"blocks.0.{hook}@-3:"), Circuit(f"blocks.0.{hook}@-2")]
        hooked, packed, once = (
            Runner(model, pairs, engine=engine).run(asked, NoiseAblation(0.5)).logits
            for engine, asked in (
                ("hooked", circuits), ("packed", circuits), ("packed", circuits[0])
            )
        )  # fmt: skip
        assert float((hooked - packed).abs().max()) < 1e-9, hook
        assert float((packed - once).abs().max()) > 1e-6, "twice is not once"
