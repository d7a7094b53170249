"""What is decodable where, and is it used?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as tensor_bytes

from mechtest.discovery.probes.directions import ProbeDirections
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import DiscoveryFileError, ShapeError, closest_names
from mechtest.interventions import Circuit, SweepResult
from mechtest.interventions.sweep_file import write_whole
from mechtest.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["VERDICTS", "ProbeRecord", "ProbedPlace"]

VERDICTS = (
    "decodable, used",
    "decodable, not used",
    "decodable, untested",
    "not decodable",
)
By = Literal["effect", "accuracy", "selectivity"]


@dataclass(frozen=True, slots=True)
class ProbedPlace:
    """One place.

    Attributes:
        site: In the notation of claims.
        row: Row label.
        column: Column label.
        accuracy: On templates held out: share of prompts right, or R2 for numbers.
        accuracy_interval: Its interval, templates as the unit.
        control: The same of the control task; None if it was left out.
        effect: Share of the behaviour lost when the directions that are read are resampled; None
            where nothing differs between the runs.
        effect_interval: Its interval.
        whole_effect: Effect of the whole site.
        rank: Directions.
        verdict: One of `VERDICTS`.
    """

    site: str
    row: str
    column: str
    accuracy: float
    accuracy_interval: Interval
    control: float | None
    effect: float | None
    effect_interval: Interval | None
    whole_effect: float | None
    rank: int
    verdict: str

    @property
    def selectivity(self) -> float | None:
        """Accuracy beyond that of the control task."""
        return None if self.control is None else self.accuracy - self.control


@dataclass(frozen=True, eq=False, repr=False)
class ProbeRecord(DiscoveryRecord):
    """Probes of a label at many places, each beside the effect of what it reads.

    That a label can be read off a place says what is there, not that the model uses it: the effect
    says that. A label that is not read off linearly may be there all the same.

    Attributes:
        label: What was read.
        classes: Its values; none for numbers.
        measure: What `accuracy` is: `accuracy`, or `R2` for numbers.
        baseline: What guessing gets: the commonest label, or the mean.
        accuracy: Right (1) or wrong (0) for each prompt whose template was held out; for numbers, 1
            minus the squared error over the mean square about the mean. Means are R2 then.
        control: The same of the control task, mean over its draws; None if it was left out.
        effect: Share of the behaviour lost when the directions are resampled.
        whole_effect: Share lost when all of the site is.
        ranks: Directions at each site; 0 where the probe reads nothing.
        digests: Digest of each site's directions, which are kept beside this record.
    """

    label: str
    classes: tuple[str, ...]
    measure: str
    baseline: float
    accuracy: SweepResult
    control: SweepResult | None
    effect: SweepResult
    whole_effect: SweepResult
    ranks: Mapping[str, int]
    digests: Mapping[str, str]

    # --- what was found --------------------------------------------------------------------------

    def places(self) -> tuple[ProbedPlace, ...]:
        """Return every place that was probed, row by row."""
        return self._places

    def of(self, verdict: str) -> tuple[ProbedPlace, ...]:
        """Return the places of a verdict.

        Raises:
            ShapeError: There is no such verdict.
        """
        if verdict not in VERDICTS:
            raise ShapeError(
                "there is no such verdict",
                given=verdict,
                closest=closest_names(verdict, VERDICTS),
                expected=", ".join(VERDICTS),
            )
        return tuple(place for place in self.places() if place.verdict == verdict)

    def scores(self, by: By = "effect") -> Mapping[str, float]:
        """Return a score for each site, larger where it matters more.

        Args:
            by: `effect` of the directions read (0 where nothing differs between the runs),
                `accuracy`, or `selectivity`.

        Raises:
            ShapeError: Another word, or `selectivity` without a control task.
        """
        if by not in ("effect", "accuracy", "selectivity"):
            raise ShapeError("places are scored by effect, accuracy or selectivity", given=repr(by))
        if by == "selectivity" and self.control is None:
            raise ShapeError(
                "there is no selectivity without a control task",
                given="control_task=False",
                next_step="probe(..., control_task=True)",
            )
        means = self._means
        found = {}
        for row, column in self._probed():
            score = float(means["accuracy" if by == "selectivity" else by][row, column])
            if by == "selectivity":
                score -= float(means["control"][row, column])
            found[self.accuracy.sites[row][column]] = 0.0 if np.isnan(score) else score
        return found

    def circuit(self, site: str | None = None) -> Circuit:
        """Return the directions that were read at a site, as a circuit.

        Args:
            site: One of the places; by default the one with the largest effect.

        Raises:
            ShapeError: No such place, or its probe reads nothing.
            DiscoveryFileError: The record came from JSON alone, without its directions.
        """
        scores = self.scores()
        chosen = site or max(scores, key=lambda name: scores[name])
        if not self.ranks.get(chosen):
            raise ShapeError(
                "no probe read anything at this site",
                given=chosen,
                closest=closest_names(chosen, list(self.digests)),
                expected="one of the places that were probed",
            )
        return self.directions[chosen].circuit(
            chosen, name=f"{self.label} read at {chosen}", fitted_on=self.about.fitted_on
        )

    @property
    def directions(self) -> Mapping[str, ProbeDirections]:
        """What is read at each site.

        Raises:
            DiscoveryFileError: The record came from JSON alone.
        """
        if "_directions" not in self.__dict__:
            raise DiscoveryFileError(
                "this record has no directions: it was read from JSON alone",
                next_step="ProbeRecord.load(path) reads the .safetensors beside it, too",
            )
        return self.__dict__["_directions"]

    # --- shown -----------------------------------------------------------------------------------

    def lines(self) -> tuple[str, ...]:
        """Return one line a place, those decodable and not used first."""
        order = {verdict: index for index, verdict in enumerate((VERDICTS[1], *VERDICTS))}
        order[VERDICTS[1]] = 0
        found = sorted(self.places(), key=lambda place: (order[place.verdict], -place.accuracy))
        width = max((len(place.site) for place in found), default=4)
        head = (
            f"{self.label} by {self.about.settings['kind']} probes: {self.measure} on templates "
            f"held out (guessing gets {self.baseline:.2f}), effect of the directions read"
        )
        return (head, *(_line(place, width, self.measure) for place in found))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw accuracy against effect, one point a place."""
        from mechtest.discovery.probes.picture import plot_probes

        return plot_probes(self, path)

    # --- kept ------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, and its directions beside it as `.safetensors`."""
        tensors: dict[str, np.ndarray] = {}
        for site, one in self.directions.items():
            tensors[f"{site}|frame"] = np.ascontiguousarray(one.frame)
            tensors[f"{site}|scale"] = np.ascontiguousarray(one.scale)
        target = Path(path)
        write_whole(target.with_suffix(".safetensors"), tensor_bytes(tensors))
        return super().save(target)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DiscoveryFileError: A file is missing, or the two do not belong together.
        """
        record = super().load(path)
        beside = Path(path).with_suffix(".safetensors")
        try:
            tensors = load_tensors(beside.read_bytes())
        except (OSError, SafetensorError) as error:
            raise DiscoveryFileError(
                f"{beside} cannot be read: {error}",
                expected="the directions that ProbeRecord.save writes beside the record",
            ) from error
        sites = {name.rpartition("|")[0] for name in tensors}
        found = {
            site: ProbeDirections(tensors[f"{site}|frame"], tensors[f"{site}|scale"])
            for site in sorted(sites)
        }
        if {site: digest_of_directions(one) for site, one in found.items()} != record.digests:
            raise DiscoveryFileError(
                f"{beside} holds other directions than {path} speaks of",
                expected="two files that were written together",
            )
        return record.with_directions(found)

    def with_directions(self, directions: Mapping[str, ProbeDirections]) -> Self:
        """Return this record with its directions at hand."""
        self.__dict__["_directions"] = dict(directions)
        return self

    # --- inner -----------------------------------------------------------------------------------

    @cached_property
    def _means(self) -> Mapping[str, np.ndarray]:
        maps = {"accuracy": self.accuracy, "effect": self.effect, "whole": self.whole_effect}
        if self.control is not None:
            maps["control"] = self.control
        return {name: one.mean() for name, one in maps.items()}

    @cached_property
    def _places(self) -> tuple[ProbedPlace, ...]:
        return tuple(self._place(row, column) for row, column in self._probed())

    def _probed(self) -> list[tuple[int, int]]:
        rows, columns = self.accuracy.shape
        every = [(row, column) for row in range(rows) for column in range(columns)]
        return [at for at in every if at not in self.accuracy.reasons]

    def _place(self, row: int, column: int) -> ProbedPlace:
        site = self.accuracy.sites[row][column]
        accuracy = float(self._means["accuracy"][row, column])
        tested = (row, column) not in self.effect.reasons
        whole = (row, column) not in self.whole_effect.reasons
        effect = float(self._means["effect"][row, column]) if tested else None
        return ProbedPlace(
            site=site,
            row=self.accuracy.rows[row],
            column=self.accuracy.columns[column],
            accuracy=accuracy,
            accuracy_interval=self.accuracy.interval(row, column),
            control=None if self.control is None else float(self._means["control"][row, column]),
            effect=effect,
            effect_interval=self.effect.interval(row, column) if tested else None,
            whole_effect=float(self._means["whole"][row, column]) if whole else None,
            rank=self.ranks[site],
            verdict=self._verdict(accuracy, effect),
        )

    def _verdict(self, accuracy: float, effect: float | None) -> str:
        settings = self.about.settings
        skill = (accuracy - self.baseline) / max(1 - self.baseline, 1e-9)
        if skill < settings["decodable"]:
            return VERDICTS[3]
        if effect is None:
            return VERDICTS[2]
        return VERDICTS[0] if effect >= settings["used"] else VERDICTS[1]


def digest_of_directions(directions: ProbeDirections) -> str:
    """Return 16 hex digits over the numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (directions.frame, directions.scale):
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _line(place: ProbedPlace, width: int, measure: str) -> str:
    control = "" if place.control is None else f" (control {place.control:.2f})"
    effect = "   -" if place.effect is None else f"{place.effect:5.2f}"
    whole = "   -" if place.whole_effect is None else f"{place.whole_effect:5.2f}"
    return (
        f"{place.site:<{width}}  {measure} {place.accuracy:.2f}{control}  effect {effect}"
        f"  whole site {whole}  {place.verdict}"
    )
