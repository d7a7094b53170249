"""Which claims follow from what is known of compiled models, and which verdicts are right?

Necessity and sufficiency ask two questions: a part of a layer that does the work is more special
than channels at random, so that such claims are supported. A whole layer is compared with half of
all channels, and half of them may hold what matters too: such claims need not be supported, and
must not be refuted.
"""

from fixtures.compiled import runner_on
from fixtures.compiled.measure import measure_all
from mechtest.assertions import (
    check_minimal,
    check_necessary,
    check_not_necessary,
    check_sufficient,
)
from mechtest.interventions import Circuit
from tests.compiled.builds import MIXED, built

__all__ = ["NEGLIGIBLE", "TERMS", "build", "verdict", "verdicts"]

NOISE = 0.005
MARGIN = 0.15
NEGLIGIBLE = 0.2
TERMS = {"level": 0.05, "losses": 1}


def build(name, share=MIXED):
    """Return a build with noise, so that effects differ from template to template."""
    return built(name, share=share, noise=NOISE, templates=32, per_template=1)


def verdict(check, compiled, row, **terms):
    prompts = compiled.prompts_of(row)
    return str(check(compiled.model, row.circuit, prompts, **TERMS, **terms).verdict)


def is_part(row):
    return row.circuit.channels is not None or row.circuit.subspace is not None


def expected_above(row, effect):
    """Return the verdicts a claim may get that is true of this effect, with a margin."""
    if "cut" in row.roles:
        return {"invalid"}
    if "illusory" in row.roles:
        return {"refuted"}
    leads = is_part(row) and effect > 0.5  # a lesser lane has to compete with the greater one
    return {"supported"} if leads else {"supported", "inconclusive"}


def expected_absent(row):
    """Return the verdicts that "ablating it loses less than a fifth" may get."""
    if abs(row.ablated) < NEGLIGIBLE - 0.1:
        return {"supported"}
    return {"refuted"} if row.ablated > NEGLIGIBLE + 0.05 else {"supported", "inconclusive"}


def verdicts(compiled, row):
    """Yield what was claimed of a row, the verdict, and the verdicts that are right."""
    effects = [(check_necessary, row.ablated)]
    if is_part(row) or row.ablated != row.restored:  # elsewhere the two ask the same
        effects.append((check_sufficient, row.restored))
    for check, effect in effects:
        if effect > MARGIN + 0.05:
            found = verdict(check, compiled, row, threshold=effect - MARGIN)
            yield f"{check.__name__} above", found, expected_above(row, effect)
    if row.ablated > MARGIN and (not is_part(row) or "illusory" in row.roles):
        more = verdict(check_necessary, compiled, row, threshold=row.ablated + MARGIN)
        # Subspace claims are carried out in standardised units: a trap does more or less there.
        yield "check_necessary beyond", more, {"invalid"} if "cut" in row.roles else {"refuted"}
    absent = verdict(check_not_necessary, compiled, row, threshold=NEGLIGIBLE)
    yield "check_not_necessary", absent, expected_absent(row)
    if "minimal" in row.roles and row.circuit.channels is not None:
        yield from minimality(compiled, row)


def idle_channel(compiled, row):
    """Return the channel beside a row's that does least there."""
    sites = [str(site) for site in row.circuit.sites]
    beside = [one for one in range(compiled.model.cfg.E) if one not in row.circuit.channels][:8]
    found = measure_all(
        runner_on(compiled.model, compiled.prompts, row.behaviour),
        [Circuit(*sites, channels=[one]) for one in beside],
    )
    return min(zip(beside, found, strict=True), key=lambda pair: abs(pair[1].ablated))[0]


def minimality(compiled, row):
    """Yield what is claimed of a circuit's channels one by one, and of one channel too many.

    Words are spread over channels: a channel does much for some prompts and nothing for others, so
    that few templates may leave it open whether all of them are needed on average.
    """
    channels, least = row.circuit.channels, compiled.least_loss(row)
    spare = idle_channel(compiled, row)
    if len(channels) < 2:
        return
    for extra, right in (((), {"supported", "inconclusive"}), ((spare,), {"refuted"})):
        every = (*channels, *extra)
        circuit = Circuit(*map(str, row.circuit.sites), channels=every)
        found = check_minimal(
            compiled.model, circuit, compiled.prompts_of(row), delta=least / 2,
            groups={str(one): [one] for one in every}, level=TERMS["level"],
        )  # fmt: skip
        name = "check_minimal" if not extra else "check_minimal, one too many"
        yield name, str(found.verdict), right
