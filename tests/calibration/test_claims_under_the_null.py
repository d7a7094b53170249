"""Whole claims, from a model's activations to the verdict, err as often as their level says.

Claims are drawn from the very family their controls come from, at sites where effects are small and
differ from subspace to subspace: the null hypothesis holds by construction.
"""

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import binom

from mechtest.assertions import conduct, control_sets
from mechtest.assertions.asking import Asked
from mechtest.assertions.conduct import begin, finish
from mechtest.assertions.guards import require_no_cut
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.specificity import specificity_terms
from mechtest.assertions.study import prepare_study
from mechtest.interventions import Circuit, Subspace, fit_spectrum
from mechtest.running_claim import RunningClaim
from mechtest.stats import SubspaceControls
from mechtest.tasks import PromptPairs
from tests.assertions.zoo import of_rows, prose

CLAIMS, LEVEL = 80, 0.05


@pytest.fixture(scope="module")
def study():
    """One prompt of eight test templates, and of every discovery template for the spectrum."""
    whole = PromptPairs.from_jsonl("fixtures/prompts/fact_city.jsonl")
    discovery, test = whole.split()
    found = [part.rows[0] for part in test.by_template().values()][:8]
    found += [row for part in discovery.by_template().values() for row in part.rows[:3]]
    return prepare_study(prose(), [], of_rows(found), "logit_difference")


@pytest.fixture(autouse=True)
def measured_once(monkeypatch, study):
    """What depends on model and prompts alone is measured for the first claim and kept."""
    spectra, guards = {}, []

    def spectrum(runner, circuit):
        if circuit.sites not in spectra:
            spectra[circuit.sites] = fit_spectrum(runner, circuit)
        return spectra[circuit.sites]

    def no_cut(question, circuit, *, seed, claim):
        if not guards:
            guards.append(require_no_cut(question, circuit, seed=seed, claim=claim))
        return guards[0]

    # Other tests check the shapes of every call; here that would be most of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(control_sets, "fit_spectrum", spectrum)
    monkeypatch.setattr(conduct, "require_no_cut", no_cut)
    # Forty probes whether controls can differ from the claim; at rank two in 64 dimensions they do.
    monkeypatch.setattr(SubspaceControls, "_refuse_copies", lambda self: None)


def rates(study, terms_of):
    """Return the shares of verdicts, and the controls a claim took, over many null claims."""
    verdicts, drawn = [], []
    for number in range(CLAIMS):
        claim = RunningClaim(key=f"null {number}", level=LEVEL, seed=number)
        found = finish(begin(study, terms_of(number), claim), claim)
        verdicts.append(str(found.decision.verdict))
        if found.evidence.controls is not None:
            drawn.append(found.evidence.controls.drawn)
    share = {name: verdicts.count(name) / CLAIMS for name in sorted(set(verdicts))}
    print(f"{share}, {np.mean(drawn):.1f} controls a claim, {len(drawn)} claims with controls")
    return share


def inside(rate):
    """Say whether a rate lies in the 99 % range of a binomial of the level."""
    low, high = binom.ppf([0.005, 0.995], CLAIMS, LEVEL) / CLAIMS
    return low <= rate <= high


def test_subspaces_drawn_from_their_own_controls_are_special_at_the_level(study):
    """Rank two, turned within the blocks of a random start; the rank among 57 is exact."""
    site = "blocks.1.hook_resid_pre@last"
    spectrum = fit_spectrum(study.discovery, Circuit(site))
    start = np.random.default_rng(5).normal(size=(spectrum.dim, 2)) * spectrum.scale[:, None]
    family = SubspaceControls(start, spectrum, "block", 12345, "where null claims come from")

    def terms(number):
        drawn = family.draw(number)
        subspace = Subspace(torch.as_tensor(drawn.basis), torch.as_tensor(drawn.dual))
        return specificity_terms(Circuit(site, subspace=subspace), Asked())

    share = rates(study, terms)
    assert inside(share.get("supported", 0)), share
    assert share.get("refuted", 0) > 0.5


def test_random_channels_are_necessary_at_the_level(study):
    """Ten of the 64 channels that are unembedded; the threshold is out of the way."""
    generator = np.random.default_rng(6)

    def terms(number):
        chosen = generator.choice(64, size=10, replace=False)
        circuit = Circuit("hook_norm@last", channels=chosen.tolist())
        return necessity_terms(circuit, -10.0, Asked())

    share = rates(study, terms)
    assert inside(share.get("supported", 0)), share
    assert share.get("refuted", 0) > 0.5
