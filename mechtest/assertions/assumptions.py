"""Which sentences does a reader have to grant before believing a claim?"""

from __future__ import annotations

from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms

__all__ = ["assumptions_of", "assumptions_of_pairs"]

_ABLATIONS = {
    "resample": "what the twin prompt says at this place is a fair stand-in for saying nothing",
    "patch": "activations of the clean run mean the same in the corrupted one",
    "zero": "zeros are a fair stand-in for saying nothing, although the model never sees them",
    "mean": "the mean activation is a fair stand-in for saying nothing",
    "noise": "noise of this size removes what the place says and leaves the rest readable",
}
_KINDS = {
    "components": "special means: among equally many channels of the same hooks at the same "
    "positions, in any layer",
    "block": "special means: among subspaces turned within blocks of nearly equal variance",
    "power": "special means: among subspaces that capture as much variance",
    "sign": "special means: among subspaces with flipped principal coordinates",
    "haar": "special means only: among uniformly random subspaces, which is weak",
    "haar_norm": "special means only: among uniformly random subspaces of equal edits: weak",
}
_DECLARED = "the circuit was declared without looking at these prompts"


def assumptions_of(terms: Terms, study: Study) -> tuple[str, ...]:
    """Return the assumptions of one measurement."""
    name = "patch" if terms.mode == "restore" else terms.intervention.name
    found = _of_measuring(name, study)
    if terms.controls is not None:
        found.append(_KINDS[terms.controls])
    if terms.circuit.fitted_on is None:
        found.append(_DECLARED)
    return tuple(found)


def assumptions_of_pairs(name: str, study: Study, *, declared: bool) -> tuple[str, ...]:
    """Return the assumptions of comparing interventions with one another.

    Args:
        name: Of the intervention.
        study: What they are measured on.
        declared: Whether some circuit was declared, not found.
    """
    return (*_of_measuring(name, study), *((_DECLARED,) if declared else ()))


def _of_measuring(name: str, study: Study) -> list[str]:
    found = [
        f"the {study.metric.name} says what the behaviour is",
        "templates are a sample of what the claim speaks of, with roughly symmetric scores",
    ]
    if name in _ABLATIONS:
        found.append(_ABLATIONS[name])
    return found
