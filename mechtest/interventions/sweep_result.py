"""What did a sweep find, place by place and prompt by prompt, and how is it kept?

Numbers are kept for every prompt, so that a mean, an interval or the picture of one prompt can be
asked for later. A number that is missing has a sentence that says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from jaxtyping import Float

from mechtest.errors import NonFiniteError, ShapeError, closest_names
from mechtest.interventions.sweep_file import parsed, read_text, serialized, write_whole
from mechtest.records import EffectMap, ModelIdentity
from mechtest.stats import Interval, cluster_effect, inversion_interval, keyed_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SweepPlace", "SweepResult"]

_DIGITS = 7


@dataclass(frozen=True, slots=True)
class SweepPlace:
    """One place of a sweep.

    Attributes:
        row: Row label.
        column: Column label.
        site: The site intervened on.
        effect: Mean effect, templates weighted equally.
        unit: Of the effect.
        row_index: Index of the row.
        column_index: Index of the column.
    """

    row: str
    column: str
    site: str
    effect: float
    unit: str
    row_index: int
    column_index: int


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """One intervention at many places of a model, arranged in rows and columns.

    An effect is a number a prompt whose mean is the effect of a place. A share of the behaviour is
    therefore a prompt's change divided by the mean behaviour of all prompts, never by its own:
    a mean of ratios would be carried by prompts without a behaviour.

    Attributes:
        rows: Row labels, for example `layer 3`.
        columns: Column labels, for example tokens (`token_label`), roles or channel groups.
        row_name: What the rows are, for example `layer`.
        column_name: What the columns are, for example `token`.
        sites: The site of each place, a tuple a row; "" where there is none.
        values: Effect of each prompt at each place, read-only float64 "row column prompt"; NaN only
            at a place that has a reason.
        reasons: Why numbers are missing, by (row, column).
        prompt_ids: Names of the prompts.
        templates: Template of each prompt: the cluster it belongs to.
        effect_name: What a number says, for example `logit difference lost`.
        unit: Of the numbers, for example `share of behaviour`.
        intervention: For example `resample`.
        base: The run intervened in, `clean` or `corrupted`.
        metric: For example `logit_difference`.
        model: Which weights.
        engine: How it was computed, as plain JSON values.
        prompt_columns: Column labels of each prompt, where they differ between prompts; a tuple a
            prompt, empty otherwise.

    Raises:
        ShapeError: Parts that do not fit each other.
        NonFiniteError: Infinity, or NaN at a place without a reason.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_name: str
    column_name: str
    sites: tuple[tuple[str, ...], ...]
    values: Float[np.ndarray, "row column prompt"]
    reasons: Mapping[tuple[int, int], str]
    prompt_ids: tuple[str, ...]
    templates: tuple[str, ...]
    effect_name: str
    unit: str
    intervention: str
    base: str
    metric: str
    model: ModelIdentity
    engine: Mapping[str, Any] = field(default_factory=dict)
    prompt_columns: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "reasons", dict(self.reasons))
        object.__setattr__(self, "engine", dict(self.engine))
        self._require_fitting_parts()
        self._require_reasons()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.rows), len(self.columns)

    def mean(self) -> Float[np.ndarray, "row column"]:
        """Return the effect of each place: the mean over templates of each template's mean.

        Prompts without a number are left out; NaN where no prompt has one.
        """
        names, member = np.unique(np.array(self.templates, dtype=str), return_inverse=True)
        there = ~np.isnan(self.values)
        counts = np.zeros((*self.shape, len(names)))
        totals = np.zeros_like(counts)
        for cluster in range(len(names)):
            own = member == cluster
            counts[..., cluster] = there[..., own].sum(-1)
            totals[..., cluster] = np.where(there, self.values, 0.0)[..., own].sum(-1)
        with np.errstate(invalid="ignore"):
            means = np.where(counts > 0, totals / np.maximum(counts, 1), 0.0)
            return np.asarray(means.sum(-1) / (counts > 0).sum(-1))

    def of_prompt(self, prompt: int | str) -> Float[np.ndarray, "row column"]:
        """Return the effects on one prompt; NaN where there is none.

        Args:
            prompt: Its index or name.

        Raises:
            ShapeError: There is no such prompt.
        """
        return np.array(self.values[:, :, self.prompt_index(prompt)])

    def prompt_index(self, prompt: int | str) -> int:
        """Return the index of a prompt given by index or name.

        Raises:
            ShapeError: There is no such prompt.
        """
        count = len(self.prompt_ids)
        if isinstance(prompt, str) and prompt in self.prompt_ids:
            return self.prompt_ids.index(prompt)
        if isinstance(prompt, str) or not -count <= prompt < count:
            raise ShapeError(
                "the sweep has no such prompt",
                given=repr(prompt),
                closest=closest_names(str(prompt), self.prompt_ids),
                expected=f"a name in prompt_ids, or an index below {count}",
            )
        return prompt % count

    def interval(self, row: int, column: int, confidence: float = 0.95) -> Interval:
        """Return the confidence interval of one place, with templates as the unit.

        For a place chosen before the numbers were seen: the strongest of many places looks stronger
        than it is, so what a sweep finds is tested as a claim on other prompts.

        Args:
            row: Index of the row.
            column: Index of the column.
            confidence: Of the interval.

        Raises:
            SampleError: Fewer than two templates have a number here.

        Exactness: as `inversion_interval`: sign flips of template means.
        """
        values = self.values[row, column]
        there = ~np.isnan(values)
        labels = [label for label, has in zip(self.templates, there, strict=True) if has]
        effect = cluster_effect(values[there], np.ones(len(labels)), labels)
        generator = keyed_generator(0, self.sites[row][column], "sign flips")
        return inversion_interval(effect, confidence, generator=generator)

    def top(self, count: int = 10) -> tuple[SweepPlace, ...]:
        """Return the places with the largest effects in either direction, the largest first.

        Equal effects come in the order of rows and columns; places without a number never come.
        """
        mean = self.mean()
        order = np.argsort(-np.abs(mean), axis=None, kind="stable")  # NaN sorts to the end
        places = [divmod(int(index), self.shape[1]) for index in order]
        return tuple(
            SweepPlace(
                self.rows[row],
                self.columns[column],
                self.sites[row][column],
                float(mean[row, column]),
                self.unit,
                row,
                column,
            )
            for row, column in places[: max(count, 0)]
            if not np.isnan(mean[row, column])
        )

    def title(self, prompt: int | str | None = None) -> str:
        """Return in one line what was done and on which prompts, or on which one."""
        return f"{self.what()}, {self.which_prompts(prompt)}"

    def what(self) -> str:
        """Return what was done: the intervention, the hooks and the run."""
        return f"{self.intervention} of {self._hooks()} in the {self.base} run"

    def which_prompts(self, prompt: int | str | None = None) -> str:
        """Return which prompts the numbers are of: how many, or the name of the one."""
        prompts, templates = len(self.prompt_ids), len(set(self.templates))
        if prompt is not None or prompts == 1:
            return f"prompt {self.prompt_ids[self.prompt_index(prompt or 0)]}"
        return f"{prompts} prompts of {templates} template{'s' if templates > 1 else ''}"

    def to_effect_map(self, title: str | None = None) -> EffectMap:
        """Return the means as the record that claims and reports take.

        Args:
            title: What it shows; by default the intervention, the hooks and the prompts.
        """
        values = tuple(
            tuple(None if np.isnan(value) else float(f"{value:.{_DIGITS}g}") for value in line)
            for line in self.mean().tolist()
        )
        return EffectMap(title or self.title(), self.rows, self.columns, values, self.unit)

    def to_json(self) -> str:
        """Return everything as one line of strict JSON: null where there is no number.

        Raises:
            NonFiniteError: NaN or infinity in `engine`.
        """
        return serialized(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; every number is the same bit by bit.

        Raises:
            SweepFileError: Another format, or missing or unknown fields.
        """
        return parsed(text, "the text", cls)

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a file, whole or not at all, and return its path."""
        return write_whole(Path(path), (self.to_json() + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SweepFileError: There is no file, or it is of another format.
        """
        return parsed(read_text(Path(path)), str(path), cls)

    def plot(
        self,
        path: str | Path | None = None,
        *,
        prompt: int | str | None = None,
        ax: Axes | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        annotate: bool | Literal["auto"] = "auto",
    ) -> Figure:
        """Draw the sweep as a heat map; see `mechtest.interventions.sweep_plot.plot_sweep`."""
        from mechtest.interventions.sweep_plot import plot_sweep

        return plot_sweep(self, path, prompt=prompt, ax=ax, vmin=vmin, vmax=vmax, annotate=annotate)

    def __repr__(self) -> str:
        rows, columns = self.shape
        strongest = "".join(
            f", strongest {place.effect:.3g} at {place.site}" for place in self.top(1)
        )
        return f"<SweepResult {rows} x {columns}: {self.title()}; {self.unit}{strongest}>"

    def _repr_svg_(self) -> str | None:
        """Return the picture for a notebook, None without matplotlib."""
        from mechtest.errors import MissingPackageError
        from mechtest.interventions.sweep_plot import svg_text

        try:
            return svg_text(self)
        except MissingPackageError:
            return None

    def _hooks(self) -> str:
        """Return what was intervened on: `blocks.*.hook_h`, or how many hooks."""
        sites = [site for line in self.sites for site in line if site]
        names = list(dict.fromkeys(_pattern(site) for site in sites))
        return " and ".join(names) if len(names) in (1, 2) else f"{len(names)} hooks"

    def _require_fitting_parts(self) -> None:
        rows, columns = self.shape
        prompts = len(self.prompt_ids)
        shapes: Mapping[str, tuple[object, object]] = {
            "values": (self.values.shape, (rows, columns, prompts)),
            "sites": (tuple(map(len, self.sites)), (columns,) * rows),
            "templates": (len(self.templates), prompts),
            "prompt_columns": (
                tuple(map(len, self.prompt_columns)),
                (columns,) * prompts if self.prompt_columns else (),
            ),
        }
        for name, (given, expected) in shapes.items():
            if given != expected:
                raise ShapeError(
                    f"{name} of a sweep do not fit its rows, columns and prompts",
                    given=given,
                    expected=f"{expected} for {rows} rows, {columns} columns, {prompts} prompts",
                )
        outside = [at for at in self.reasons if not (0 <= at[0] < rows and 0 <= at[1] < columns)]
        if outside:
            raise ShapeError(
                "a reason for a place that the sweep does not have",
                given=outside[0],
                expected=f"(row, column) below ({rows}, {columns})",
            )

    def _require_reasons(self) -> None:
        explained = np.zeros(self.shape, dtype=bool)
        for (row, column), reason in self.reasons.items():
            explained[row, column] = bool(reason)
        bad = np.isinf(self.values) | (np.isnan(self.values) & ~explained[:, :, None])
        if bad.any():
            row, column, prompt = np.argwhere(bad)[0]
            raise NonFiniteError(
                f"the effect at {self.rows[row]}, {self.columns[column]} is "
                f"{self.values[row, column, prompt]} for prompt {self.prompt_ids[prompt]}",
                expected="a finite number, or NaN at a place that has a reason",
            )


def _pattern(site: str) -> str:
    """Return a site without layer and position."""
    bare = site.partition("@")[0]
    return ".".join("*" if part.isdigit() else part for part in bare.split("."))
