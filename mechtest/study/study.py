"""How does a study run: which steps are to be done, which are done, and what became of each?

A step is done again when anything its numbers depend on has changed: its settings, the model, the
prompts, what the steps it builds on found, or the version. Everything else is left as it is, so a
study that was killed goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from mechtest.errors import MechtestError, StudyError
from mechtest.study.bench import Bench, encodable
from mechtest.study.chosen_models import ChosenModel
from mechtest.study.settings import StudySettings, known_steps, read_study_file
from mechtest.study.step import Found, Step
from mechtest.study.step_folder import (
    Finished,
    found_in,
    json_text,
    read_step,
    text_digest,
    write_step,
)
from mechtest.study.steps import STEPS
from mechtest.study.study_directory import own_directory, unwritable
from mechtest.tasks import PromptPairs

__all__ = ["Outcome", "Study"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of one step.

    Attributes:
        step: The step.
        status: `done`, `failed`, `left out` or `not run`.
        fresh: Whether it was done in this run.
        why: Why it failed, or was not run.
        finished: What its folder says; None where there is none.
        seconds: How long it took in this run.
    """

    step: Step
    status: str
    fresh: bool = False
    why: str = ""
    finished: Finished | None = None
    seconds: float = 0.0


@dataclass(eq=False)
class Study:
    """A study: fifteen steps over one model and one prompt file.

    Args:
        settings: What the study file says.
        output: Directory, where it is not the file's.
    """

    settings: StudySettings
    output: Path = field(default=Path())

    def __post_init__(self) -> None:
        if self.output == Path():
            self.output = self.settings.output

    @classmethod
    def from_toml(cls, path: str | Path, *, output: str | Path | None = None) -> Study:
        """Read a study file.

        Args:
            path: The file.
            output: Directory of the study, instead of the file's.

        Raises:
            StudyError: The file cannot be used; says which key, and what is close to it.
        """
        known = {step.name: step.settings for step in STEPS}
        settings = read_study_file(path, known)
        return cls(settings, settings.output if output is None else Path(output))

    # -- what is looked at ---------------------------------------------------------------------

    @cached_property
    def chosen(self) -> ChosenModel:
        """The studied model and its suite."""
        told = self.settings.study
        return ChosenModel(told["model"], told["seed"], told["checkpoint"], told["device"])

    @cached_property
    def prompts(self) -> PromptPairs:
        """The whole collection.

        Raises:
            StudyError: There is no such file, or no template on one of the halves.
        """
        path = Path(self.settings.study["prompts"]).expanduser()
        if not path.is_file():
            raise StudyError(
                f"there is no prompt file {path}",
                given=str(path),
                expected="a file of prompt pairs (JSON Lines)",
                next_step="paths are relative to where the command is run",
            )
        whole = encodable(PromptPairs.from_jsonl(path), self.settings.study["per_template"])
        if not len(whole.discovery):
            raise StudyError(
                f"{path}: no template falls on the discovery half, so there is nothing to look at",
                given=f"{len(whole)} prompts of {len(whole.templates)} templates",
                expected="templates on both halves; about half of them fall on each",
                next_step="write prompts in more templates",
            )
        return whole

    # -- running -------------------------------------------------------------------------------

    def run(
        self,
        *,
        steps: Iterable[str] = (),
        skip: Iterable[str] = (),
        progress: bool = True,
        fresh: bool = False,
        told: Callable[[Outcome], object] | None = None,
    ) -> list[Outcome]:
        """Do the steps that are not done yet, and write the page.

        Args:
            steps: Only these, and what they cannot do without; by default the file's choice.
            skip: Leave these out, beside those that the file leaves out.
            progress: Show bars on stderr, where that is a terminal.
            fresh: Do everything anew, whatever is finished.
            told: Called with what became of each step, when it is known.

        Returns:
            What became of each of the fifteen steps.

        Raises:
            StudyError: No such step, model or prompts; the directory is of another study, is in
                use, or cannot be written.
        """
        wanted = self._wanted(known_steps(steps, _NAMES, "steps"))
        left_out = {*known_steps(skip, _NAMES, "skip"), *self.settings.skip}
        _ = self.prompts, self.chosen.model  # what is wrong with these is told before any file
        with own_directory(self.output, self.settings.study):
            if fresh:
                self._forget()
            outcomes: dict[str, Outcome] = {}
            bar = tqdm(STEPS, desc=self.settings.name, unit="step",
                       disable=None if progress else True)  # fmt: skip
            for step in bar:
                bar.set_postfix_str(step.name)
                outcome = self._one(step, wanted, left_out, outcomes, progress=progress)
                outcomes[step.name] = outcome
                if told is not None:
                    told(outcome)
            self._close(outcomes)
        return list(outcomes.values())

    def run_step(self, name: str, *, progress: bool = True) -> Found:
        """Do one step, and what it cannot do without, and return what it found.

        Raises:
            StudyError: There is no such step, or it failed; says why.
        """
        outcomes = {one.step.name: one for one in self.run(steps=[name], progress=progress)}
        outcome = outcomes[name]
        if outcome.status != "done":
            raise StudyError(f"step {name!r}: {outcome.status}", given=outcome.why)
        return self.found(name)

    def found(self, name: str) -> Found:
        """Return what a finished step found, read from its folder.

        Raises:
            StudyError: It is not finished.
        """
        (step,) = (step for step in STEPS if step.name in known_steps([name], _NAMES, "step"))
        return found_in(self.output / step.folder)

    # -- inside --------------------------------------------------------------------------------

    def _wanted(self, asked: tuple[str, ...]) -> set[str]:
        wanted = set(asked or self.settings.only or _NAMES)
        for step in reversed(STEPS):
            if step.name in wanted:
                wanted.update(step.needs)
        return wanted

    def _one(
        self,
        step: Step,
        wanted: set[str],
        left_out: set[str],
        outcomes: Mapping[str, Outcome],
        *,
        progress: bool,
    ) -> Outcome:
        """Do one step, unless it is done, left out, or what it needs is missing."""
        if step.name in left_out:
            return Outcome(step, "left out", why="it is left out on purpose (skip)")
        missing = [name for name in step.needs if outcomes[name].status != "done"]
        folder = self.output / step.folder
        if missing:
            return Outcome(
                step, "not run" if step.name in wanted else "left out",
                why=f"it builds on {missing[0]!r}, which is {outcomes[missing[0]].status}",
            )  # fmt: skip
        depends = self._depends(step, outcomes)
        digest = text_digest(depends)
        known = read_step(folder)
        if known is not None and known.digest == digest and known.status == "done":
            return Outcome(step, "done", finished=known)
        if step.name not in wanted:
            return Outcome(step, "left out", why="it was not asked for (steps)")
        return self._done(step, depends, digest, outcomes, progress=progress)

    def _done(
        self,
        step: Step,
        depends: Mapping[str, Any],
        digest: str,
        outcomes: Mapping[str, Outcome],
        *,
        progress: bool,
    ) -> Outcome:
        start = time.monotonic()
        folder = self.output / step.folder
        scratch = self.output / ".journals" / f"{step.name}-{digest[:16]}"
        bench = self._bench(step, outcomes, scratch, progress=progress)
        found, error = _attempt(lambda: step.run(bench))
        terms: dict[str, Any] = {
            "digest": digest,
            "depends": depends,
            "pictures": self.settings.study["pictures"],
        }
        try:
            if not error:
                _, error = _attempt(lambda: write_step(folder, step, found or Found(), **terms))
            if error:
                write_step(folder, step, Found(), error=error, **terms)
        except OSError as problem:
            raise unwritable(folder, problem) from problem
        shutil.rmtree(scratch, ignore_errors=True)
        finished = read_step(folder)
        return Outcome(
            step, "failed" if error else "done", fresh=True, why=error, finished=finished,
            seconds=time.monotonic() - start,
        )  # fmt: skip

    def _bench(
        self, step: Step, outcomes: Mapping[str, Outcome], scratch: Path, *, progress: bool
    ) -> Bench:
        there = [
            name
            for name in (*step.needs, *step.uses)
            if name in outcomes and outcomes[name].status == "done"
        ]
        folders = {name: self.output / outcomes[name].step.folder for name in there}
        return Bench(
            settings=self.settings.steps[step.name],
            study=self.settings,
            chosen=self.chosen,
            prompts=self.prompts,
            before={name: found_in(folder) for name, folder in folders.items()},
            folders=folders,
            scratch=scratch,
            progress=progress,
        )

    def _depends(self, step: Step, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Return everything a step's numbers depend on, by name."""
        told = {key: value for key, value in self.settings.study.items()
                if key not in ("output", "name", "model", "prompts")}  # fmt: skip
        below = {
            name: finished.content
            for name in (*step.needs, *step.uses)
            if name in outcomes
            and (finished := outcomes[name].finished) is not None
            and outcomes[name].status == "done"
        }
        return _plain(
            {
                "mechtest": version("mechtest"),
                "step": step.name,
                "settings": self.settings.steps[step.name],
                "study": told,
                "model": self._model_digest,
                "prompts": self.prompts.digest,
                "below": below,
                **{table: getattr(self.settings, table) for table in step.reads},
            }
        )

    @cached_property
    def _model_digest(self) -> list[str]:
        from mechtest.interventions import digest_of_weights

        model = self.chosen.model
        known = model.fingerprint
        if known is None:
            return [digest_of_weights(model)]
        return [known.weights, known.config, known.tokenizer or ""]

    def _forget(self) -> None:
        for step in STEPS:
            shutil.rmtree(self.output / step.folder, ignore_errors=True)
        shutil.rmtree(self.output / ".journals", ignore_errors=True)

    def _close(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write the page, and how long everything took."""
        from mechtest.study.page import write_page

        seconds = {name: round(one.seconds, 2) for name, one in outcomes.items() if one.fresh}
        path = self.output / "run.json"
        path.write_text(json_text({"seconds": seconds}), encoding="utf-8")
        leftover = self.output / ".journals"
        if leftover.is_dir() and not any(leftover.iterdir()):
            leftover.rmdir()
        write_page(self, list(outcomes.values()))


_NAMES = tuple(step.name for step in STEPS)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """Return what some work gives, or why it failed: it must not end the other steps."""
    try:
        return work(), ""
    except Exception as problem:  # noqa: BLE001
        return None, str(problem) if isinstance(problem, MechtestError) else repr(problem)


def _plain(value: Any) -> Any:
    """Return values as JSON would give them back."""
    return json.loads(json_text(value))
