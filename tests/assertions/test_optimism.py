"""A found circuit says how much its search flattered it, and every look is counted."""

from mechtest.assertions import check_necessary
from mechtest.discovery import find_difference_subspace
from mechtest.interventions import Circuit
from mechtest.plugin.gathering import circuits_tested
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose


def check(circuit, pairs, **options):
    return check_necessary(prose(), circuit, pairs, **{"level": LEVEL, **options})


def found_channels(pairs):
    """Return what a search on the discovery half might have found."""
    return Circuit(CARRIES, channels=range(100), fitted_on=pairs.discovery.fingerprints)


def optimism(record):
    return [note for note in record.notes if note.startswith("optimism")]


def test_a_found_circuit_has_a_line_with_an_interval():
    pairs = prompts(templates=8)
    found = found_channels(pairs)
    (line,) = optimism(check(found, pairs, threshold=0.3))
    assert "minus effect on the test half): " in line
    number, _, interval = line.rpartition(": ")[2].partition(" ")
    low, high = interval.strip("[]").split(", ")
    assert float(low) < float(number) < float(high)


def test_subspaces_are_edited_there_as_they_are_in_the_claim():
    pairs = prompts(templates=8)
    site = "blocks.1.hook_out_proj@last"
    found = find_difference_subspace(prose(), site, pairs.discovery, rank=8)
    assert len(optimism(check(found, pairs, threshold=0.1))) == 1


def test_a_declared_circuit_and_one_found_elsewhere_have_none():
    pairs = prompts(templates=8)
    assert not optimism(check(Circuit(CARRIES), pairs))
    other = found_channels(prompts("ioi", templates=8))
    assert not optimism(check(other, pairs, threshold=0.3))


def test_different_circuits_on_one_half_are_counted_once_each():
    pairs = prompts(templates=8)
    with running(RunningClaim(id="t.py::t", key="t")) as claim:
        for circuit in (Circuit(CARRIES), Circuit(INERT), Circuit(CARRIES, name="again")):
            check(circuit, pairs, level=None, max_controls=60)
        check(Circuit(CARRIES), prompts(templates=9), level=None)
    facts = [{"ledger": claim.ledger}, {"ledger": claim.ledger[:1]}, {}]
    assert sorted(circuits_tested(facts).values()) == [1, 2]


def test_planning_looks_at_nothing():
    with running(RunningClaim(id="t.py::t", planning=True)) as claim:
        check(Circuit(CARRIES), prompts(templates=8), level=None)
    assert claim.ledger == []
