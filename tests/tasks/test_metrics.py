"""Do metrics compute what their names say, against formulas written again in numpy?"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mechtest.errors import MetricError, NonFiniteError, ShapeError
from mechtest.tasks import (
    METRICS,
    AnswerIds,
    Metric,
    PromptPairs,
    accuracy,
    broken,
    kl_divergence,
    log_probability,
    logit_difference,
    metric_by_name,
    moved,
    normalized_logit_difference,
    probability_mass,
)
from tests.tasks.wordlevel import CALM, good_rows, tokenizer

VOCABULARY = 7
TIGHT = {"rtol": 1e-11, "atol": 1e-11}
numbers = st.floats(-30, 30, width=64)
logits = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.just(VOCABULARY)), elements=numbers
)
WITHOUT_REFERENCE = [metric for metric in METRICS.values() if not metric.needs_reference]


@st.composite
def cases(draw):
    """Logits and, for each prompt, disjoint sets of answers and foils."""
    values = draw(logits)
    answers, foils = [], []
    for _ in values:
        order = draw(st.permutations(range(VOCABULARY)))
        first, second = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        answers.append(order[:first])
        foils.append(order[first : first + second])
    return values, answers, foils


def lse(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def softmax(row):
    shares = np.exp(row - row.max())
    return shares / shares.sum()


def expected(name, row, answers, foils):
    """One prompt's metric, from its definition."""
    right, wrong = [row[i] for i in answers], [row[i] for i in foils]
    shares = softmax(row)
    best = [i for i in range(len(row)) if row[i] == row.max()]
    hit = {n: set(best) <= set(ids) for n, ids in (("accuracy", answers), ("moved", foils))}
    return {
        "logit_difference": lambda: lse(right) - lse(wrong),
        "log_probability": lambda: lse(right) - lse(list(row)),
        "probability_mass": lambda: shares[answers].sum() - shares[foils].sum(),
        "accuracy": lambda: float(hit["accuracy"]),
        "moved": lambda: float(hit["moved"]),
        "broken": lambda: float(not (hit["accuracy"] or hit["moved"])),
    }[name]()


@pytest.mark.parametrize("metric", WITHOUT_REFERENCE, ids=lambda metric: metric.name)
@CALM
@given(case=cases())
def test_metrics_agree_with_their_definitions(metric, case):
    """Single tokens and sets, in float64, against formulas written out one prompt at a time."""
    values, answers, foils = case
    found = metric(torch.tensor(values), AnswerIds.of(answers, foils))
    wanted = [expected(metric.name, *row) for row in zip(values, answers, foils, strict=True)]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), wanted, **TIGHT)


@CALM
@given(case=cases(), other=logits)
def test_kl_divergence_agrees_with_its_definition(case, other):
    """The sum of p log(p/q) with p of the reference run; not the other way round."""
    values, answers, foils = case
    reference = np.resize(other, values.shape)
    ids = AnswerIds.of(answers, foils)
    found = kl_divergence(torch.tensor(values), ids, reference=torch.tensor(reference))
    wanted = []
    for run, of_reference in zip(values, reference, strict=True):
        p, q = softmax(of_reference), softmax(run)
        wanted.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-9)
    assert (found >= 0).all()


@CALM
@given(values=logits, shift=numbers)
def test_kl_divergence_of_equal_predictions_is_zero(values, shift):
    """Equal logits give exactly 0, a constant added to all of them nearly so."""
    ids = AnswerIds.of([0] * len(values), [1] * len(values))
    run = torch.tensor(values)
    assert (kl_divergence(run, ids, reference=run.clone()) == 0).all()
    assert (kl_divergence(run + shift, ids, reference=run) < 1e-12).all()


@CALM
@given(values=logits)
def test_the_logit_difference_of_single_tokens_is_a_plain_difference(values):
    """Bitwise: no logsumexp shows through."""
    run = torch.tensor(values)
    found = logit_difference(run, AnswerIds.of([2] * len(run), [5] * len(run)))
    assert torch.equal(found, run[:, 2] - run[:, 5])


@CALM
@given(case=cases(), shift=numbers)
def test_a_constant_on_all_logits_changes_nothing(case, shift):
    values, answers, foils = case
    ids = AnswerIds.of(answers, foils)
    for metric in (logit_difference, log_probability, probability_mass):
        before, after = metric(torch.tensor(values), ids), metric(torch.tensor(values + shift), ids)
        np.testing.assert_allclose(after, before, **TIGHT)


@pytest.mark.parametrize("metric", [logit_difference, probability_mass], ids=lambda m: m.name)
@CALM
@given(case=cases())
def test_swapping_answer_and_foil_turns_the_sign(metric, case):
    values, answers, foils = case
    there = metric(torch.tensor(values), AnswerIds.of(answers, foils))
    back = metric(torch.tensor(values), AnswerIds.of(foils, answers))
    np.testing.assert_allclose(back, -there, **TIGHT)


@CALM
@given(case=cases())
def test_bounds_and_the_three_rates(case):
    """Mass is in [-1, 1], log-probability at most 0, and the three rates share out every prompt."""
    values, answers, foils = case
    ids, run = AnswerIds.of(answers, foils), torch.tensor(values)
    assert (probability_mass(run, ids).abs() <= 1).all()
    assert (log_probability(run, ids) <= 0).all()
    assert torch.equal(
        accuracy(run, ids) + moved(run, ids) + broken(run, ids), torch.ones(len(run))
    )


def test_a_tie_is_no_hit():
    """A model that says nothing must not score by the order of its vocabulary."""
    ids = AnswerIds.of([0], [1])
    flat = torch.zeros(1, 4)
    assert [m(flat, ids).item() for m in (accuracy, moved, broken)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("given_dtype", "returned"),
    [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32")],
)
@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_float64_stays_and_less_becomes_float32(metric, given_dtype, returned):
    run = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    run = run.to(getattr(torch, given_dtype))
    reference = {"reference": run} if metric.needs_reference else {}
    found = metric(run, AnswerIds.of([0, 1, 2], [3, 3, 4]), **reference)
    assert (found.dtype, tuple(found.shape)) == (getattr(torch, returned), (3,))


def test_the_last_position_is_read_unless_told_otherwise():
    run = torch.randn(2, 4, 6, dtype=torch.float64)
    ids = AnswerIds.of([0, 1], [2, 3])
    assert torch.equal(logit_difference(run, ids), logit_difference(run[:, -1], ids))
    assert torch.equal(logit_difference(run, ids, position=1), logit_difference(run[:, 1], ids))
    each = logit_difference(run, ids, position=torch.tensor([0, -2]))
    picked = torch.stack([run[0, 0], run[1, 2]])
    assert torch.equal(each, logit_difference(picked, ids))


def test_encoded_pairs_can_be_given_as_they_are():
    encoded = PromptPairs.from_rows(good_rows()[:4]).encode(tokenizer())
    run = torch.randn(4, 11, 200)
    found = logit_difference(run, encoded, position=encoded.positions("S2"))
    right, wrong = encoded.answers.answer_ids[:, 0], encoded.answers.foil_ids[:, 0]
    assert torch.equal(found, run[range(4), 6, right] - run[range(4), 6, wrong])


def test_within_leaves_padded_vocabulary_out():
    """Untrained rows of the head take no probability, and infinities in them do not matter."""
    run = torch.tensor([[0.0, 1.0, 2.0, 50.0, float("inf")]])
    ids = AnswerIds.of([0], [1])
    real = run[:, :3]
    assert torch.equal(log_probability.within(3)(run, ids), log_probability(real, ids))
    assert kl_divergence.within(3)(run, ids, reference=real).item() == 0
    assert accuracy.within(3).name == "accuracy"


def test_gradients_flow_through_sets_of_different_sizes():
    """Attribution differentiates metrics; the filling of short sets must not give NaN."""
    run = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    ids = AnswerIds.of([[0], [1, 2, 3]], [[4, 5], [0]])
    for metric in (logit_difference, log_probability, probability_mass):
        assert torch.autograd.gradcheck(lambda x, m=metric: m(x, ids), run)


def test_the_registry_names_every_metric():
    assert set(METRICS) == {
        "logit_difference",
        "log_probability",
        "probability_mass",
        "kl_divergence",
        "accuracy",
        "moved",
        "broken",
    }
    for name, metric in METRICS.items():
        assert isinstance(metric, Metric)
        assert metric_by_name(name) is metric
        assert metric.name == name
        assert metric.unit
        assert metric.sign


def test_an_unknown_metric_names_the_closest():
    with pytest.raises(
        MetricError, match=r"\[MT304\].*'logit_dif'(.|\n)*closest +logit_difference"
    ):
        metric_by_name("logit_dif")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_name_the_prompt(bad):
    run = torch.zeros(3, 4)
    run[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"\[MT305\].*for 1 of 3(.|\n)*prompt 1 \('b'\)"):
        logit_difference(run, AnswerIds.of([0] * 3, [1] * 3, ids="abc"))
    clean = torch.zeros(3, 4)
    with pytest.raises(NonFiniteError, match="reference hold NaN or infinity"):
        kl_divergence(clean, AnswerIds.of([0] * 3, [1] * 3), reference=run)


def test_only_what_is_read_has_to_be_finite():
    """Padded positions may hold anything."""
    run = torch.zeros(1, 2, 3)
    run[0, 0] = float("nan")
    assert logit_difference(run, AnswerIds.of([0], [1])).item() == 0


@pytest.mark.parametrize(
    ("run", "position", "message"),
    [
        (torch.zeros(3, 4), None, "logits cannot be read"),
        (torch.zeros(2, 3, 4, 5), None, "logits cannot be read"),
        (torch.zeros(2, 4, dtype=torch.int64), None, "torch.int64"),
        (torch.zeros(2, 4), 1, "no positions to choose from"),
        (torch.zeros(2, 3, 4), 3, r"outside the logits(.|\n)*-3 to 2"),
        (torch.zeros(2, 3, 4), torch.tensor([0.5, 1]), "an index, or one index a prompt"),
    ],
)
def test_logits_of_the_wrong_shape_are_refused(run, position, message):
    with pytest.raises(ShapeError, match=message):
        logit_difference(run, AnswerIds.of([0, 1], [1, 0]), position=position)


def test_answers_outside_the_vocabulary_are_refused():
    with pytest.raises(MetricError, match=r"outside the vocabulary\n.*0 to 4, vocabulary 4"):
        accuracy(torch.zeros(1, 4), AnswerIds.of([4], [0]))
    with pytest.raises(MetricError, match="outside the vocabulary"):
        accuracy.within(2)(torch.zeros(1, 4), AnswerIds.of([3], [0]))
    with pytest.raises(MetricError, match="fewer entries than the vocabulary"):
        accuracy.within(9)(torch.zeros(1, 4), AnswerIds.of([3], [0]))
    with pytest.raises(MetricError, match="at least one token"):
        accuracy.within(0)


def test_a_reference_is_given_exactly_where_it_is_used():
    run, ids = torch.zeros(1, 4), AnswerIds.of([1], [0])
    with pytest.raises(MetricError, match="kl_divergence needs the logits of a reference run"):
        kl_divergence(run, ids)
    with pytest.raises(MetricError, match="accuracy does not use the logits of a reference run"):
        accuracy(run, ids, reference=run)


@pytest.mark.parametrize(
    ("answers", "foils", "message"),
    [
        (torch.tensor([1, 2]), torch.tensor([[1], [2]]), "answer_ids are not one row"),
        (torch.tensor([[1.0]]), torch.tensor([[1]]), "answer_ids are not one row"),
        (torch.tensor([[1]]), torch.tensor([[1], [2]]), "1 answer rows, 2 foil rows"),
        (torch.tensor([[1], [-1]]), torch.tensor([[1], [2]]), "prompt 1 has no token id in answer"),
    ],
)
def test_answer_ids_are_checked(answers, foils, message):
    with pytest.raises(ShapeError, match=message):
        AnswerIds(answers, foils)


vectors = arrays.arrays(np.float64, 5, elements=st.floats(-10, 10))


@CALM
@given(
    patched=vectors, corrupted=vectors, gap=arrays.arrays(np.float64, 5, elements=st.floats(1, 9))
)
def test_the_normalised_difference_is_0_at_corrupted_and_1_at_clean(patched, corrupted, gap):
    """Per prompt and as a ratio of means, against numpy."""
    clean = corrupted + gap
    ratio = (patched - corrupted) / (clean - corrupted)
    of_means = (patched - corrupted).mean() / (clean - corrupted).mean()
    p, c, k = map(torch.tensor, (patched, clean, corrupted))
    np.testing.assert_allclose(normalized_logit_difference(p, c, k), ratio, **TIGHT)
    found = normalized_logit_difference(p, c, k, over="mean")
    np.testing.assert_allclose(found, of_means, **TIGHT)
    assert found.shape == ()
    assert torch.equal(normalized_logit_difference(c, c, k), torch.ones(5, dtype=torch.float64))
    assert torch.equal(normalized_logit_difference(k, c, k), torch.zeros(5, dtype=torch.float64))


def test_a_vanishing_denominator_names_prompts_and_values():
    clean, corrupted = torch.tensor([2.0, 1.0005, -1.0]), torch.tensor([1.0, 1.0, 1.0])
    with pytest.raises(
        MetricError, match=r"on 1 of 3 prompts(.|\n)*prompt 1 \('b'\): clean 1, corr"
    ):
        normalized_logit_difference(clean, clean, corrupted, ids="abc")
    found = normalized_logit_difference(clean, clean, corrupted, smallest_gap=1e-4)
    assert torch.equal(found, torch.ones(3))


def test_means_that_cancel_are_refused():
    """Each prompt has a gap, their mean has none."""
    clean, corrupted = torch.tensor([1.0, -1.0]), torch.zeros(2)
    with pytest.raises(MetricError, match="hardly differ on average"):
        normalized_logit_difference(clean, clean, corrupted, over="mean")


def test_normalising_refuses_what_are_not_three_finite_vectors():
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    with pytest.raises(
        NonFiniteError, match=r"patched holds NaN or infinity for 1 of 2(.|\n)*pr.* 1"
    ):
        normalized_logit_difference(bad, good, good)
    for wrong in (torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ShapeError, match="three vectors of one length"):
            normalized_logit_difference(wrong, good, good)
    with pytest.raises(MetricError, match="'prompt' or 'mean'"):
        normalized_logit_difference(good, 2 * good, 0 * good, over="median")
