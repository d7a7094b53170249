"""Which mistakes can a user make, and what does each message tell them to do next?

Every error of the project is one class of this tree, with a stable code that documentation and
tests can name, and a text built in one place from the same four parts: what failed, what was
given, what is closest or expected, and the next step.

    MechtestError
    |-- SiteError                 MT1xx  hook names, positions, hook functions
    |   |-- UnknownSiteError      MT101  no such site (also a KeyError)
    |   |-- SiteNotServedError    MT102  the path the caller insisted on cannot serve the site
    |   |-- HookOutputError       MT103  a hook function returned something unusable
    |   |-- SiteNotReachedError   MT104  a hook was asked for and never fired
    |   |-- PositionError         MT105  a position outside the prompt, or a role nobody defined
    |   `-- NotCachedError        MT106  the site exists, but this cache does not hold it (KeyError)
    |-- CheckpointError           MT2xx  files
    |   |-- CheckpointNotFoundError       MT201
    |   |-- CheckpointFormatError         MT202  truncated, missing shard, not what it claims to be
    |   |-- UnsafeCheckpointError         MT203  a pickle that wants to run code
    |   |-- ConfigError                   MT204  config.json missing or contradicting weights
    |   |-- UnsupportedArchitectureError  MT205
    |   |-- RevisionError                 MT206  revision on a local path, or not in the hub cache
    |   |-- DuplicateWeightsError         MT207  two seeds of a suite hold equal weights
    |   `-- WeightMismatchError           MT208  missing, unexpected or misshapen tensors
    |-- TaskError                 MT3xx  prompts and metrics
    |   |-- PromptError           MT301  a prompt row that cannot be used
    |   |-- AlignmentError        MT302  clean and corrupted do not line up token by token
    |   |-- AnswerTokenError      MT303  an answer or foil is not exactly one token
    |   |-- MetricError           MT304  a metric is undefined here (vanishing denominator)
    |   `-- NonFiniteError        MT305  NaN or infinity where a number is needed
    |-- InputError                MT4xx  what a model is called with
    |   |-- TokenizerMissingError MT401
    |   |-- PaddingError          MT402  padding that would silently change the answer
    |   |-- ShapeError            MT403  tensors of the wrong shape, dtype or device
    |   `-- MissingPackageError   MT404  an optional package is not installed (an ImportError)
    |-- InterventionError         MT5xx  changes inside a model
    |   |-- NothingChangedError   MT501  an intervention that changed no activation
    |   `-- SweepFileError        MT502  a file of a sweep that cannot be read or gone on with
    |-- StatisticsError           MT6xx  what a test of a claim is given
    |   |-- SampleError           MT601  too few, mismatched or unusable values
    |   |-- ControlsError         MT602  controls that cannot differ from the claim
    |   `-- UnattainableLevelError  MT603  no data could reach the level asked for
    |-- ClaimError                MT7xx  what a claim came to, when it is not supported
    |   |-- ClaimRefuted          MT701  an AssertionError: the data speak against the claim
    |   |-- ClaimInconclusive     MT702  an AssertionError: they do not decide
    |   |-- ClaimInvalid          MT703  not a failure but an error: nothing was tested
    |   |-- RegistrationError     MT704  claims.lock and the claims do not agree
    |   `-- BehaviourAbsentError  MT705  a ClaimInvalid: this model does not do the task
    |-- RunError                  MT8xx  stored runs, and comparisons of two of them
    |   |-- RunNotFoundError      MT801  no run, tag or report of that name
    |   `-- AllowListError        MT802  an allowance that is expired, has no reason, or is no row
    `-- DiscoveryError            MT9xx  looking for circuits
        |-- DiscoveryFileError    MT901  a file of discovery that cannot be read
        |-- FitError              MT902  something that was to be trained did not come out usable
        `-- StudyError            MT903  a study file or directory that cannot be used
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "AlignmentError",
    "AllowListError",
    "AnswerTokenError",
    "BehaviourAbsentError",
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "ClaimError",
    "ClaimInconclusive",
    "ClaimInvalid",
    "ClaimRefuted",
    "ConfigError",
    "ControlsError",
    "DiscoveryError",
    "DiscoveryFileError",
    "DuplicateWeightsError",
    "FitError",
    "HookOutputError",
    "InputError",
    "InterventionError",
    "MechtestError",
    "MetricError",
    "MissingPackageError",
    "NonFiniteError",
    "NotCachedError",
    "NothingChangedError",
    "PaddingError",
    "PositionError",
    "PromptError",
    "RegistrationError",
    "RevisionError",
    "RunError",
    "RunNotFoundError",
    "SampleError",
    "ShapeError",
    "SiteError",
    "SiteNotReachedError",
    "SiteNotServedError",
    "StatisticsError",
    "StudyError",
    "SweepFileError",
    "TaskError",
    "TokenizerMissingError",
    "UnattainableLevelError",
    "UnknownSiteError",
    "UnsafeCheckpointError",
    "UnsupportedArchitectureError",
    "WeightMismatchError",
    "closest_names",
]


def closest_names(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Return the `count` known names nearest to `name`, best first (empty when nothing is near)."""
    return tuple(difflib.get_close_matches(name, list(known), n=count, cutoff=0.5))


class MechtestError(Exception):
    """Base of every error the project raises on purpose.

    Args:
        what: One sentence: what failed and on what, by name.
        given: What the caller passed, as they would recognise it.
        closest: Known names nearest to what was given.
        expected: What would have been accepted.
        next_step: The command or change that gets the user further.

    Attributes carry the same parts, so that tests and reports need not parse the text.
    """

    code = "MT000"

    def __init__(
        self,
        what: str,
        *,
        given: object = None,
        closest: Iterable[str] = (),
        expected: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.given = given
        self.closest = tuple(closest)
        self.expected = expected
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        rows = [
            ("given", None if self.given is None else str(self.given)),
            ("closest", ", ".join(self.closest) or None),
            ("expected", self.expected),
            ("next", self.next_step),
        ]
        head = f"[{self.code}] {self.what}"
        return "\n".join([head, *(f"  {label:<9} {text}" for label, text in rows if text)])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only fields must survive the trip from a test worker to its controller.
        return _rebuild, (
            type(self),
            self.what,
            None if self.given is None else str(self.given),
            self.closest,
            self.expected,
            self.next_step,
        )


def _rebuild(
    cls: type[MechtestError],
    what: str,
    given: str | None,
    closest: tuple[str, ...],
    expected: str | None,
    next_step: str | None,
) -> MechtestError:
    return cls(what, given=given, closest=closest, expected=expected, next_step=next_step)


class SiteError(MechtestError):
    """Something is wrong with a hook name, its position or its hook function."""

    code = "MT100"


class UnknownSiteError(SiteError, KeyError):
    """No such site in this model; `closest` holds the nearest names."""

    code = "MT101"
    __str__ = MechtestError.__str__


class SiteNotServedError(SiteError):
    """The caller insisted on a fast path that cannot expose this site."""

    code = "MT102"


class HookOutputError(SiteError):
    """A hook function returned a value of another shape, dtype, device or type."""

    code = "MT103"


class SiteNotReachedError(SiteError):
    """A hook was installed and the forward (or backward) pass never came by."""

    code = "MT104"


class PositionError(SiteError):
    """A position outside the prompt, or a role name that needs a prompt file."""

    code = "MT105"


class NotCachedError(SiteError, KeyError):
    """The site exists in the model, but this cache does not hold it."""

    code = "MT106"
    __str__ = MechtestError.__str__


class CheckpointError(MechtestError):
    """A checkpoint cannot be used as given."""

    code = "MT200"


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No directory, repository or file of that name."""

    code = "MT201"
    __str__ = MechtestError.__str__


class CheckpointFormatError(CheckpointError):
    """A file is truncated, missing or not of the format it claims."""

    code = "MT202"


class UnsafeCheckpointError(CheckpointError):
    """A pickled file holds more than tensors; it was refused, nothing was run."""

    code = "MT203"


class ConfigError(CheckpointError, ValueError):
    """A configuration is missing, malformed, or contradicts the weights."""

    code = "MT204"


class UnsupportedArchitectureError(CheckpointError):
    """The checkpoint is of an architecture this version does not hook."""

    code = "MT205"


class RevisionError(CheckpointError, ValueError):
    """`revision` given with a local path, or a revision that is not in the hub cache."""

    code = "MT206"


class DuplicateWeightsError(CheckpointError):
    """Two members of a suite that should differ hold the same weights."""

    code = "MT207"


class WeightMismatchError(CheckpointError):
    """Tensors are missing, unexpected, or of another shape than the configuration says."""

    code = "MT208"


class TaskError(MechtestError):
    """A prompt or a metric cannot be used as given."""

    code = "MT300"


class PromptError(TaskError, ValueError):
    """A prompt row, or a whole prompt file, that cannot be used."""

    code = "MT301"


class AlignmentError(PromptError):
    """Clean and corrupted prompts do not line up token by token."""

    code = "MT302"


class AnswerTokenError(PromptError):
    """An answer or foil is not exactly one token of the model's tokenizer."""

    code = "MT303"


class MetricError(TaskError, ValueError):
    """A metric is undefined on this input."""

    code = "MT304"


class NonFiniteError(TaskError, ValueError):
    """NaN or infinity where a finite number is needed."""

    code = "MT305"


class InputError(MechtestError):
    """A model was called with something it cannot take."""

    code = "MT400"


class TokenizerMissingError(InputError):
    """Text was given, but the model has no tokenizer."""

    code = "MT401"


class PaddingError(InputError, ValueError):
    """Padding that would change the answer without a word."""

    code = "MT402"


class ShapeError(InputError, ValueError):
    """A tensor of the wrong shape, dtype or device."""

    code = "MT403"


class MissingPackageError(InputError, ImportError):
    """What was asked for needs an optional package that is not installed."""

    code = "MT404"


class InterventionError(MechtestError):
    """An intervention cannot mean anything as given."""

    code = "MT500"


class NothingChangedError(InterventionError):
    """An intervention was carried out and changed no activation: never a null result."""

    code = "MT501"


class SweepFileError(InterventionError, ValueError):
    """A result or journal of a sweep is of another format, of another sweep, or in use."""

    code = "MT502"


class StatisticsError(MechtestError):
    """A statistical test cannot be carried out as asked."""

    code = "MT600"


class SampleError(StatisticsError, ValueError):
    """Values, labels or settings that a test cannot use."""

    code = "MT601"


class ControlsError(StatisticsError):
    """A family of controls whose members cannot differ from the claim."""

    code = "MT602"


class UnattainableLevelError(StatisticsError):
    """No data could give a p value as small as the level: it is said before anything is run."""

    code = "MT603"


class ClaimError(MechtestError):
    """A claim that is not supported.

    Args:
        what: The numbers first, because pytest cuts its summary lines.
        record: The `ClaimRecord`; None where the claim failed before there was one.
        details: Lines that follow the four parts: measurements, controls, how to repeat it.
        **parts: As for `MechtestError`.
    """

    code = "MT700"

    def __init__(
        self, what: str, *, record: Any = None, details: Iterable[str] = (), **parts: Any
    ) -> None:
        super().__init__(what, **parts)
        self.record = record
        self.details = tuple(details)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {line}" for line in self.details)])

    def __reduce__(self) -> tuple[object, ...]:
        # The record stays behind: it travels by itself, and text is what a failure needs.
        rebuild, parts = super().__reduce__()[:2]
        return _rebuild_claim_error, (rebuild, parts, self.details)


def _rebuild_claim_error(
    rebuild: Callable[..., ClaimError], parts: tuple[object, ...], details: tuple[str, ...]
) -> ClaimError:
    error = rebuild(*parts)
    error.details = details
    return error


class ClaimRefuted(ClaimError, AssertionError):
    """The data speak against the claim."""

    code = "MT701"


class ClaimInconclusive(ClaimError, AssertionError):
    """The data decide neither way; an assertion nobody could establish is no pass."""

    code = "MT702"


class ClaimInvalid(ClaimError):
    """The claim could not be tested as stated: an error, never a failure or a pass."""

    code = "MT703"


class RegistrationError(ClaimError):
    """The lock and the claims do not agree, or a claim is declared in a way nothing can test."""

    code = "MT704"


class BehaviourAbsentError(ClaimInvalid):
    """This model does not do the task on these prompts, so there is nothing to take a share of."""

    code = "MT705"


class RunError(MechtestError):
    """A stored run, or a comparison of two, cannot be used as asked."""

    code = "MT800"


class RunNotFoundError(RunError, LookupError):
    """No run, tag or report of that name; `closest` holds the nearest names."""

    code = "MT801"
    __str__ = MechtestError.__str__


class AllowListError(RunError, ValueError):
    """An allowance without a reason, past its date, or for a claim that is not there."""

    code = "MT802"


class DiscoveryError(MechtestError):
    """A tool of discovery cannot answer what it was asked."""

    code = "MT900"


class DiscoveryFileError(DiscoveryError, ValueError):
    """A file holds no record of discovery, is one of another kind or format, or is damaged."""

    code = "MT901"


class FitError(DiscoveryError, ValueError):
    """A probe, lens or autoencoder cannot be trained on this, or what came out is unusable."""

    code = "MT902"


class StudyError(DiscoveryError, ValueError):
    """A study file says something that cannot be done, or its directory is of another study."""

    code = "MT903"
