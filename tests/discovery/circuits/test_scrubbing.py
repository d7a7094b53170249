"""Resampled within the right classes nothing is lost; within wrong ones, much."""

import numpy as np
import pytest
import torch

from mechtest.discovery.circuits import ScrubRecord, scrub
from mechtest.discovery.circuits.hypotheses import Classes, classes_of, donors_of
from mechtest.errors import DiscoveryError, PositionError
from tests.assertions.zoo import prompts, prose
from tests.discovery.circuits.compiled_circuits import FIRST, SECOND, compiled, model_and_prompts


def scrubbed(hypothesis, share=0.75, **options):
    model, pairs = model_and_prompts("marked_slots", share)
    return scrub(model, pairs, hypothesis, **{"samples": 2, "progress": False, **options})


@pytest.fixture(scope="module")
def right():
    return scrubbed({FIRST: "first", SECOND: "first"})


def test_the_right_hypothesis_keeps_everything(right):
    assert right.share.estimate == pytest.approx(1.0, abs=5e-3)
    assert all(one.share.estimate == pytest.approx(1.0, abs=5e-3) for one in right.nodes)
    assert max(right.scores().values()) < 5e-3


def test_the_answer_and_a_function_say_the_same(right):
    by_answer = scrubbed({FIRST: "answer", SECOND: lambda pair: pair.answer})
    assert by_answer.share.estimate == pytest.approx(right.share.estimate, abs=5e-3)
    assert [one.classes for one in by_answer.nodes] == [one.classes for one in right.nodes]


def test_a_hypothesis_without_a_store_keeps_the_share_of_the_other():
    found = scrubbed({FIRST: "first"})
    assert found.outside == (SECOND,)
    assert found.share.estimate == pytest.approx(0.75, abs=0.05)
    assert scrubbed({FIRST: "first"}, outside="keep").share.estimate == pytest.approx(1, abs=5e-3)


def test_the_wrong_class_loses_most_and_says_where():
    wrong = scrubbed({FIRST: "second", SECOND: "first"})
    assert wrong.share.estimate < 0.6
    assert max(wrong.scores(), key=wrong.scores().get) == FIRST
    assert wrong.nodes[0].share.estimate < 0.6
    assert wrong.nodes[1].share.estimate == pytest.approx(1.0, abs=5e-3)


def test_the_wrong_node_keeps_nothing():
    wrong = scrubbed({SECOND: "first"}, share=1.0)
    assert wrong.share.estimate == pytest.approx(0.0, abs=0.1)


def test_the_planted_channels_are_all_there_is_of_the_store():
    channels = compiled("marked_slots", 1.0).row("store channels 0").circuit.channels
    named = f"{FIRST}#{','.join(map(str, channels))}"
    found = scrubbed({named: "first"}, share=1.0)
    assert found.share.estimate == pytest.approx(1.0, abs=5e-3)
    assert found.circuit().channels == channels


def test_a_trained_model_is_scrubbed_at_its_roles():
    # Prompts of different lengths: the place of a role is taken from the role of the other prompt.
    right, wrong = (
        scrub(prose(), prompts(), {"blocks.1.state@subject_last": key}, samples=2,
              progress=False)
        for key in ("answer", "any")
    )  # fmt: skip
    assert right.share.estimate > 0.8
    assert wrong.share.estimate < 0.3


def test_classes_of_one_prompt_are_said():
    found = scrubbed({FIRST: ["first", "second"], SECOND: "any"})
    assert found.nodes[0].key == "first + second"
    assert found.nodes[0].alone > 0
    assert any("alone in their class" in line for line in found.lines())
    with pytest.raises(DiscoveryError, match="nothing would be resampled"):
        scrubbed({FIRST: lambda pair: pair.id})


@pytest.mark.parametrize(
    ("hypothesis", "options", "error", "why"),
    [
        ({FIRST: "third"}, {}, PositionError, "third"),
        ({FIRST: lambda pair: []}, {}, DiscoveryError, "compared"),
        ({FIRST: "first"}, {"samples": 0}, DiscoveryError, "at least once"),
        ({FIRST: "first"}, {"memory": 1000}, DiscoveryError, "memory"),
        ({"blocks.0.hook_A": "first"}, {"outside": "keep"}, DiscoveryError, "same for all"),
    ],
)
def test_bad_hypotheses_are_refused(hypothesis, options, error, why):
    model, pairs = model_and_prompts("marked_slots", 0.75)
    with pytest.raises(error, match=why):
        scrub(model, pairs, hypothesis, **{"samples": 2, "progress": False, **options})


def test_a_function_needs_the_prompts_and_not_only_their_tokens():
    model, pairs = model_and_prompts("marked_slots", 0.75)
    encoded = pairs.discovery.encode(model.tokenizer)
    assert classes_of("answer", encoded, encoded).count > 1
    with pytest.raises(DiscoveryError, match="encoded"):
        scrub(model, encoded, {FIRST: lambda pair: pair.answer})


def test_donors_are_other_prompts_of_the_class_and_shape_whatever_the_batch():
    classes = Classes("by hand", (0, 0, 0, 1, 1, 2, 0))
    shapes = [1, 1, 1, 1, 1, 1, 2]
    draws = [donors_of(classes, shapes, seed=0, stream="s", number=n) for n in range(20)]
    for donors, alone in draws:
        assert alone.tolist() == [False, False, False, False, False, True, True]
        for prompt, donor in enumerate(donors):
            assert classes.members[donor] == classes.members[prompt]
            assert shapes[donor] == shapes[prompt]
            assert (donor == prompt) == alone[prompt]
    again, _ = donors_of(classes, shapes, seed=0, stream="s", number=3)
    assert np.array_equal(again, draws[3][0])
    assert len({tuple(donors) for donors, _ in draws}) > 1


def test_draws_repeat_and_records_come_back(right, tmp_path):
    one, same, other = (scrubbed({SECOND: "any"}, samples=1, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.share != other.share
    assert ScrubRecord.load(right.save(tmp_path / "scrub.json")) == right
    right.plot(tmp_path / "scrub.png")
    assert torch.is_grad_enabled()
