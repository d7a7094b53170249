"""What a compiled model's rows of truth say is what interventions measure."""

from dataclasses import replace
from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch

from fixtures.compiled import EXACT, FAMILIES, ROLES, measure, measure_all
from fixtures.compiled.measure import least_loss
from mechtest.interventions import Runner, collect_activations
from mechtest.interventions.plan import channel_mask
from mechtest.tasks import accuracy, logit_difference
from tests.compiled.builds import MIXED, NAMES, SEEDS, built, runner

BOTH = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Other tests check the shapes of every call; here that would be most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def answered(compiled, behaviour):
    """Return the shares of clean and corrupted prompts answered with the answer."""
    found = runner(compiled, behaviour)
    runs = (found.logits("clean"), found.logits("corrupted"))
    return tuple(float(accuracy(logits, found.pairs).mean()) for logits in runs)


def assert_all_true(compiled, dtype=torch.float32):
    for behaviour in {row.behaviour for row in compiled.truth}:
        rows = [row for row in compiled.truth if row.behaviour == behaviour]
        measured = measure_all(runner(compiled, behaviour, dtype), [row.circuit for row in rows])
        for row, found in zip(rows, measured, strict=True):
            assert_true(compiled, row, found)


def assert_true(compiled, row, found):
    off = (found.ablated - row.ablated, found.restored - row.restored)
    assert max(map(abs, off)) <= row.tolerance, (compiled.family, row, found)


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_what_interventions_measure(name, seed, dtype):
    assert_all_true(built(name, seed), dtype)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_rows_hold_where_one_path_carries_everything(name, share):
    assert_all_true(built(name, share=share))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_is_answered(name, seed):
    compiled = built(name, seed)
    for behaviour in {row.behaviour for row in compiled.stated}:
        assert answered(compiled, behaviour) == (1.0, 0.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("marked_slots", "store 0"),
        ("token_shift", "window 0"),
        ("redundancy", "lane a"),
        ("conjunction", "lane a 0"),
        ("parity", "lane a 0"),
        ("decay", "store 0"),
    ],
)
def test_the_dial_says_how_much_is_lost(name, row, share):
    """In float64, to a thousandth."""
    compiled = built(name, share=share)
    found = compiled.row(row)
    lost = measure(runner(compiled, found.behaviour, torch.float64), found.circuit).ablated
    print(f"{name}: asked {share}, measured {lost:.6f}")
    assert lost == pytest.approx(share, abs=1e-3)


def test_every_role_occurs_and_roles_agree_with_effects():
    seen = set()
    for name in NAMES:
        for row in built(name).truth:
            seen |= set(row.roles)
            assert ("necessary" in row.roles) <= (row.ablated > 0), row
            assert ("sufficient" in row.roles) <= (row.restored > 0), row
            assert ("redundant" in row.roles) <= (row.ablated == 0 < row.restored), row
            if {"inert", "dormant"} & set(row.roles):
                assert row.ablated == row.restored == 0
    assert seen == set(ROLES)


def test_either_of_a_redundant_pair_is_dispensable_and_not_both():
    compiled = built("redundancy")
    for layer in range(2):
        alone = compiled.row(f"store {layer}")
        assert (alone.ablated, alone.restored) == (0, 1)
    assert compiled.row("both stores").ablated == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_minimal_circuit_has_no_idle_channel(name):
    compiled = built(name, templates=12)
    for row in compiled.rows("minimal"):
        assert compiled.least_loss(row) > 10 * EXACT
        spare = set(range(48)) - set(row.circuit.channels)
        sites = [str(site) for site in row.circuit.sites]
        padded = type(row.circuit)(*sites, channels={*row.circuit.channels, min(spare)})
        found = least_loss(runner(compiled, row.behaviour), padded)
        assert abs(found) <= 2 * EXACT


# --- decodable, whether used or not --------------------------------------------------------------


@cache
def half_runner(compiled, behaviour, half):
    chosen = getattr(compiled.prompts.filter(behaviour=behaviour), half)
    pairs = chosen.encode(compiled.model.tokenizer)
    return Runner(compiled.model, replace(pairs, side="discovery"))  # a probe is a fit


def activations(compiled, row, half, run):
    """Return what a row's circuit says in a run, "prompt feature"."""
    spoken = half_runner(compiled, row.behaviour, half)
    parts = []
    for part in row.circuit.parts:
        sites = type(row.circuit)(str(part))
        for value in collect_activations(spoken, sites, run).values():
            if row.circuit.channels is not None:
                value = value * channel_mask(part, row.circuit.channels, value.shape)
            flat = value.flatten(1).double()
            if row.circuit.subspace is not None:
                flat = flat @ row.circuit.subspace.dual
            parts.append(flat)
    return torch.cat(parts, dim=1).numpy()


def words(compiled, row, half, run):
    """Return the word at the role that a row holds, "" where it is no value."""
    found = []
    for pair in getattr(compiled.prompts_of(row), half):
        text = pair.clean if run == "clean" else pair.corrupted
        word = text.split()[dict(pair.positions)[row.holds] - 1]
        found.append(word if word in ("on", "red", "blue", "green", "white", "black") else "")
    return np.array(found)


def probed(compiled, row):
    """Return the accuracy on test templates of a linear probe fitted on discovery templates."""
    data = {
        half: (
            np.concatenate([activations(compiled, row, half, run) for run in RUNS]),
            np.concatenate([words(compiled, row, half, run) for run in RUNS]),
        )
        for half in ("discovery", "test")
    }
    seen, labels = data["discovery"]
    mean, spread = seen.mean(0), seen.std(0).max() + 1e-9
    names = np.unique(labels)
    known = np.c_[(seen - mean) / spread, np.ones(len(seen))]
    gram = known @ known.T + 1e-3 * np.eye(len(known))
    weights = known.T @ np.linalg.solve(gram, (labels[:, None] == names) * 1.0)
    new, truth = data["test"]
    guessed = names[(np.c_[(new - mean) / spread, np.ones(len(new))] @ weights).argmax(1)]
    return float((guessed == truth).mean())


RUNS = ("clean", "corrupted")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_used_can_be_read_off_all_the_same(name):
    compiled = built(name, templates=20)
    unused = [row for row in compiled.truth if {"inert", "redundant"} & set(row.roles)]
    held = {row.name: probed(compiled, row) for row in unused if row.holds}
    assert held
    assert min(held.values()) >= 0.99, held


def test_what_does_not_vary_with_the_word_cannot_be_read_off():
    """The probe is no oracle: the dormant part of a trap hums, whatever the colour."""
    compiled = built("marked_slots", templates=12)
    asleep = replace(compiled.row("trap, dormant part"), holds="first")
    assert probed(compiled, asleep) < 0.5


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_noise_spreads_effects_and_their_truth_is_measured(name):
    clean, noisy = built(name), built(name, noise=0.005)
    for exact, row in zip(clean.truth, noisy.truth, strict=True):
        assert row.ablated == pytest.approx(exact.ablated, abs=0.25)
    assert_all_true(noisy)
    assert any(
        abs(exact.ablated - row.ablated) > 1e-3
        for exact, row in zip(clean.truth, noisy.truth, strict=True)
    )
    assert answered(noisy, noisy.truth[0].behaviour) == (1.0, 0.0)


# --- the horizon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("half_life", [4.0, 6.5])
def test_a_decaying_store_answers_up_to_its_horizon(half_life):
    compiled = FAMILIES["decay"].build(half_life=half_life, templates=12, per_template=1)
    facts = compiled.facts
    for behaviour, right in (("near", True), ("far", False)):
        found = runner(compiled, behaviour)
        pairs = compiled.prompts.filter(behaviour=behaviour)
        distance = np.array([len(p.clean.split()) - dict(p.positions)["value"] for p in pairs])
        assert ((distance < facts["horizon"]) == right).all()
        assert answered(compiled, behaviour)[0] == right
        left = logit_difference(found.logits("clean"), found.pairs).numpy()
        assert left == pytest.approx(facts["gain"] * 0.5 ** (distance / half_life), rel=1e-2)


# --- these tests can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "role"), [("mixer.out_proj.weight", "writes"), ("mixer.x_proj.weight", "B and C")]
)
def test_a_broken_weight_is_noticed(tensor, role):
    """One channel of the store is cut off; the rows must no longer be true."""
    compiled = FAMILIES["marked_slots"].build(templates=4, share=MIXED)
    store = compiled.row("store channels 0")
    state = {name: value.clone() for name, value in compiled.model.state_dict().items()}
    channel = store.circuit.channels[0]
    if role != "writes":
        channel = compiled.anatomy.channels(0, "flag")[0]
    state[f"blocks.0.{tensor}"][:, channel] = 0
    compiled.model.load_state_dict(state)
    with pytest.raises(AssertionError, match="store channels 0"):
        assert_true(compiled, store, measure(runner(compiled, "first"), store.circuit))


def test_a_wrong_row_is_noticed():
    compiled = built("marked_slots")
    row = compiled.row("copy channels 0")
    found = measure(runner(compiled, "first"), row.circuit)
    with pytest.raises(AssertionError, match="copy channels 0"):
        assert_true(compiled, replace(row, ablated=0.01), found)
