"""A circuit comes back from its file bit by bit, and nothing else passes for one."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.errors import DiscoveryFileError, NonFiniteError
from mechtest.interventions import Circuit, Subspace, digest_of
from mechtest.interventions.circuit_file import circuit_text, parsed_circuit
from mechtest.tasks import Fingerprints


def digest(circuit):
    subspace = circuit.subspace
    fitted = None if circuit.fitted_on is None else circuit.fitted_on.to_row()
    parts = None if subspace is None else [subspace.basis, subspace.dual, subspace.outside]
    sites = [str(site) for site in circuit.sites]
    return digest_of([sites, circuit.channel_key, circuit.name, parts, fitted])


SEEN = Fingerprints.of(texts=["one prompt"], tokens=[[1, 2]], clusters=["a template"])
DIRECTIONS = torch.tensor([[1.0, 0.1], [2.0, 1 / 3], [0.0, -5.0], [7.0, 1e-9]])
SCALE = torch.tensor([1.0, 0.3, 2.0, 1e3])
CIRCUITS = (
    Circuit("blocks.0.state@last"),
    Circuit("blocks.0.state@S2", "blocks.1.hook_out_proj@last", name="two", fitted_on=SEEN),
    Circuit("blocks.1.state@last", channels=[5, 2, 5]),
    Circuit(
        "blocks.0.state@last",
        "blocks.1.hook_h@3",
        channels={
            "blocks.0.state@last": [3, 1],
            "blocks.1.hook_h.3": None,
        },
    ),
    Circuit("blocks.1.hook_h@last", subspace=Subspace.spanned_by(DIRECTIONS, SCALE)),
    Circuit("blocks.1.hook_h@-1", subspace=Subspace(DIRECTIONS, DIRECTIONS / 3, outside=True)),
)


@pytest.mark.parametrize("circuit", CIRCUITS, ids=repr)
def test_a_circuit_comes_back_with_the_same_digest(circuit, tmp_path):
    path = circuit.save(tmp_path / "claims" / "x.circuit.json")
    back = Circuit.load(path)
    assert digest(back) == digest(circuit)
    assert back.fitted_on == circuit.fitted_on
    assert circuit_text(back) == path.read_text()
    assert [one.name for one in path.parent.iterdir()] == ["x.circuit.json"]


@given(st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3), st.sampled_from([32, 64]))
@settings(database=None, deadline=None, max_examples=30)
def test_every_bit_of_a_subspace_comes_back(numbers, bits):
    basis = torch.tensor(numbers, dtype=torch.float64)[:, None] / (1e270 if bits == 32 else 1)
    basis = basis.to(torch.float32 if bits == 32 else torch.float64)
    circuit = Circuit("blocks.0.hook_h@last", subspace=Subspace(basis, basis))
    back = parsed_circuit(circuit_text(circuit)).subspace
    assert back.basis.dtype == basis.dtype
    assert back.basis.numpy().tobytes() == basis.numpy().tobytes()


def test_numbers_that_are_none_are_not_written(tmp_path):
    broken = Subspace(torch.tensor([[float("nan")], [1.0]]), torch.ones(2, 1))
    with pytest.raises(NonFiniteError, match="basis"):
        Circuit("blocks.0.hook_h@last", subspace=broken).save(tmp_path / "x.circuit.json")
    assert not list(tmp_path.iterdir())


def changed(**fields):
    content = json.loads(circuit_text(CIRCUITS[4]))
    return json.dumps({**content, **fields})


def table(values, dtype="float64"):
    numbers = {"dtype": dtype, "values": values}
    return {"dim": 2, "rank": 1, "outside": False, "basis": numbers, "dual": numbers}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "format None"),
        (changed(format="mechtest-circuit/2"), "mechtest-circuit/2"),
        (changed(extra=1), "extra"),
        (changed(sites=[]), "at least one site"),
        (changed(sites=["blocks.0.hook_hh"]), "hook_hh"),
        (changed(sites="blocks.0.hook_h"), "list of texts"),
        (changed(name=3), "no text"),
        (changed(channels=[1]), "not both"),
        (changed(channels=[-1], subspace=None), "-1"),
        (changed(channels=[True], subspace=None), "True"),
        (changed(channels={"blocks.0.state": [1]}, subspace=None), "for every site"),
        (changed(fitted_on={"texts": []}), "clusters"),
        (changed(subspace={}), "basis and dual"),
        (changed(subspace=table([[1.0], [1.0, 2.0]])), "2 by 1"),
        (changed(subspace=table([[1.0], ["a"]])), "no number"),
        (changed(subspace=table([[1.0], [1e60]], "float32")), "too large"),
        (changed(subspace=table([[1.0], [float("nan")]])), "NaN"),
        ('{"format": "mechtest-circuit/1", "format": "mechtest-circuit/1"}', "twice"),
    ],
)
def test_what_is_no_circuit_is_refused_with_the_reason(text, why, tmp_path):
    path = tmp_path / "odd.circuit.json"
    path.write_text(text)
    with pytest.raises(DiscoveryFileError, match=why) as found:
        Circuit.load(path)
    assert "odd.circuit.json" in str(found.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DiscoveryFileError, match="No such file"):
        Circuit.load(tmp_path / "none.circuit.json")
