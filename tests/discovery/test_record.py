"""Records come back from disk as they were, and nothing else passes for one."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from mechtest.discovery.record import About, DiscoveryRecord, about, read_only
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryFileError, NonFiniteError
from tests.assertions.zoo import prompts, prose


@part_of_records
@dataclass(frozen=True)
class Row:
    name: str
    value: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Example(DiscoveryRecord):
    numbers: np.ndarray
    rows: tuple[Row, ...]
    reasons: dict[str, str]

    def lines(self):
        return (f"{self.numbers.size} numbers",)

    def plot(self, path=None):
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Another(Example):
    pass


@pytest.fixture
def example():
    pairs = prompts().discovery.encode(prose().tokenizer)
    core = about("an_example", prose(), pairs, metric="logit_difference", k=3)
    # A third has no short decimal, in neither width.
    numbers = read_only(np.array([[1 / 3, np.float32(0.1)], [-0.0, 5e-324]]))
    return Example(core, numbers, (Row("a", 0.1), Row("b", None)), {"b": "nothing there"})


def test_what_is_saved_comes_back_bit_by_bit(example, tmp_path):
    path = example.save(tmp_path / "deep" / "example.json")
    back = DiscoveryRecord.load(path)
    assert type(back) is Example
    assert back == example
    assert back.numbers.tobytes() == example.numbers.tobytes()
    assert back.rows == example.rows
    assert back.about == example.about
    assert back.about.fitted_on == example.about.fitted_on
    assert not back.numbers.flags.writeable


def test_findings_that_differ_are_not_equal(example):
    other = Example(example.about, read_only(example.numbers * 2), example.rows, example.reasons)
    assert other != example
    assert example != 3


def test_the_core_says_what_was_looked_at(example):
    assert example.about.model.name == prose().source
    assert example.about.settings == {"k": 3}
    assert len(example.about.prompt_ids) == len(example.about.templates) > 1
    assert "4 numbers" in repr(example)


def test_no_number_is_infinite(example):
    broken = Example(example.about, read_only(np.array([np.inf])), (), {})
    with pytest.raises(NonFiniteError, match="1 of 1 numbers"):
        broken.to_json()
    broken = Example(example.about, example.numbers, (Row("a", float("nan")),), {})
    with pytest.raises(NonFiniteError, match="Example cannot be written"):
        broken.to_json()


def test_what_is_no_finding_is_refused(example, tmp_path):
    text = example.to_json()
    content = json.loads(text)
    for bad, why in [
        ("{", "no JSON"),
        ("[]", "no mechtest-discovery/1"),
        (json.dumps({**content, "format": "x"}), "no mechtest-discovery/1"),
        (json.dumps({**content, "kind": "Nothing"}), "another kind"),
        (json.dumps({**content, "more": 1}), "more"),
        (json.dumps({**content, "about": {"$": "Gone"}}), "Gone"),
    ]:
        with pytest.raises(DiscoveryFileError, match="holds no DiscoveryRecord") as caught:
            DiscoveryRecord.from_json(bad)
        assert why in str(caught.value)
    with pytest.raises(DiscoveryFileError, match="another kind"):
        Another.from_json(text)
    with pytest.raises(DiscoveryFileError, match="cannot be read"):
        DiscoveryRecord.load(tmp_path / "absent.json")


def test_values_of_unknown_kinds_are_refused(example):
    with pytest.raises(TypeError, match="object"):
        Example(example.about, example.numbers, (), {"a": object()}).to_json()
    assert isinstance(example.about, About)
