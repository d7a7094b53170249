"""How well is a label read off activations, on templates the probe has not seen?

Everything is scikit-learn's: a scaler and a linear model in one pipeline, cross-validated with
whole templates held out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mechtest.discovery.probes.labels import Labels
from mechtest.errors import FitError, MissingPackageError

__all__ = ["KINDS", "ProbeKind", "ProbeModel", "require_sklearn", "without_rounding"]

ProbeKind = Literal["logistic", "ridge", "lasso", "elasticnet"]
KINDS: dict[ProbeKind, str] = {
    "logistic": "names; l2 penalty",
    "ridge": "numbers; l2 penalty",
    "lasso": "numbers; l1 penalty: few coordinates",
    "elasticnet": "numbers; half l1, half l2",
}
ITERATIONS = 5000
ROUNDING = 4 * float(np.finfo(np.float32).eps)

Samples = Float[np.ndarray, "row dim"]


@dataclass(frozen=True)
class ProbeModel:
    """A linear probe of one kind, and how it is cross-validated.

    Attributes:
        kind: See `KINDS`.
        penalty: Weight of the penalty: 1 / C of a logistic regression, alpha of the others.
        folds: Parts the templates are dealt into; as many as there are templates, if fewer.
        seed: For solvers that draw.
    """

    kind: ProbeKind
    penalty: float
    folds: int
    seed: int

    @property
    def numeric(self) -> bool:
        """Whether it reads numbers."""
        return self.kind != "logistic"

    def pipeline(self, samples: Samples) -> Any:
        """Return the scikit-learn pipeline for some samples, not fitted.

        An l2 penalty leaves no weight outside the span of the samples. Where there are fewer of
        them than coordinates, the probe is therefore fitted in their principal axes, all of them:
        the same probe, at the cost of as many coordinates as there are samples.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        linear: Any = {
            "logistic": lambda: LogisticRegression(C=1 / self.penalty, max_iter=ITERATIONS),
            "ridge": lambda: Ridge(alpha=self.penalty),
            "lasso": lambda: Lasso(alpha=self.penalty, max_iter=ITERATIONS, random_state=self.seed),
            "elasticnet": lambda: ElasticNet(
                alpha=self.penalty, max_iter=ITERATIONS, random_state=self.seed
            ),
        }[self.kind]()
        turned = self.kind in ("logistic", "ridge") and samples.shape[1] > samples.shape[0]
        axes = [PCA(svd_solver="full")] if turned else []
        return make_pipeline(StandardScaler(), *axes, linear)

    def held_out(self, samples: Samples, labels: Labels, clusters: np.ndarray) -> np.ndarray:
        """Return a prediction for each prompt, by a probe fitted without its template.

        Raises:
            FitError: One template, a fold without two labels to learn, or no convergence.
        """
        return self._predicted(self.pipeline(samples), samples, labels, clusters)

    def baseline(self, labels: Labels, clusters: np.ndarray) -> np.ndarray:
        """Return what a guess is: the commonest label of the other templates, or their mean."""
        from sklearn.dummy import DummyClassifier, DummyRegressor

        guess = DummyRegressor() if self.numeric else DummyClassifier(strategy="most_frequent")
        return self._predicted(guess, np.zeros((len(clusters), 1)), labels, clusters)

    def fitted(self, samples: Samples, labels: Labels) -> Any:
        """Return the pipeline fitted to all prompts.

        Raises:
            FitError: No convergence.
        """
        with _convergence_or_error(self):
            return self.pipeline(samples).fit(samples, labels.values)

    def _predicted(
        self, model: Any, samples: Samples, labels: Labels, clusters: np.ndarray
    ) -> np.ndarray:
        from sklearn.model_selection import GroupKFold, cross_val_predict

        folds = GroupKFold(min(self.folds, self._templates(clusters)))
        splits = list(folds.split(samples, labels.values, clusters))
        for train, held in splits:
            if len(set(labels.values[train].tolist())) < 2:
                raise FitError(
                    "without some templates there is one label left, and nothing to learn",
                    given=f"{labels.name}: {labels.values[train][0]!s} in all but {len(held)} "
                    "prompts",
                    expected="labels that differ inside templates",
                )
        with _convergence_or_error(self):
            return np.asarray(cross_val_predict(model, samples, labels.values, cv=splits))

    @staticmethod
    def weights(fitted: Any) -> Samples:
        """Return what a fitted pipeline reads, in standardised coordinates, "output dim"."""
        weights = np.atleast_2d(np.asarray(fitted[-1].coef_, dtype=np.float64))
        return weights @ fitted[1].components_ if len(fitted) == 3 else weights

    def _templates(self, clusters: np.ndarray) -> int:
        count = len(set(clusters.tolist()))
        if count < 2:
            raise FitError(
                "a probe is tested on templates it has not seen, and there is one only",
                given=f"{len(clusters)} prompts of {count} template",
                expected="two templates at least, five or more for an interval",
            )
        return count


def without_rounding(samples: Samples) -> Samples:
    """Return the samples with coordinates that vary by float32's rounding alone set constant.

    A scaler would blow rounding up to a spread of 1, and the length of a prompt can be read off it.
    """
    spread = samples.std(axis=0)
    still = spread <= ROUNDING * np.abs(samples).max(axis=0)
    if not still.any():
        return samples
    return np.where(still, samples[0], samples)


def require_sklearn() -> None:
    """Raise unless scikit-learn is there.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "probes need scikit-learn, which is not installed",
            given=str(error),
            next_step='pip install "mechtest[discover]"',
        ) from error


@contextmanager
def _convergence_or_error(probe: ProbeModel) -> Iterator[None]:
    from sklearn.exceptions import ConvergenceWarning

    # Where nothing varies, shares of the variance are undefined; nobody reads them here.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("error", ConvergenceWarning)
        # Many labels for few prompts: what that comes to is told by guessing and by the control.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        try:
            yield
        except ConvergenceWarning as error:
            raise FitError(
                f"the {probe.kind} probe did not converge in {ITERATIONS} steps",
                given=f"penalty={probe.penalty:g}",
                next_step="a larger penalty",
            ) from error
