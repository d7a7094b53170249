"""Which checkpoints belong to one training recipe, by seed and by step?

A suite is a directory tree or a manifest (`manifest.py`):

    suite/seed{k}/step-{n}/config.json ...   several seeds, several steps
    suite/step-{n}/config.json ...           one run; it counts as seed 0
    suite/seed{k}/config.json ...            one checkpoint a seed; it counts as step 0
    suite/suite.toml                         anything else, including the hub; wins over the tree

Names become numbers by a pattern, so `step1000` and `step-01000` sort alike and `step-2` comes
before `step-10`. What matches no pattern, or has no config.json yet, is not a member; it is kept
in `ignored` and shown where a member is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mechtest.checkpoints.manifest import CheckpointSource, read_manifest
from mechtest.checkpoints.suite_names import (
    SEED_PATTERN,
    STEP_PATTERN,
    compile_pattern,
)
from mechtest.checkpoints.suite_tree import scan_tree
from mechtest.checkpoints.weight_files import list_directories, list_entries
from mechtest.errors import (
    CheckpointNotFoundError,
    DuplicateWeightsError,
    closest_names,
)

__all__ = ["CheckpointSource", "SuiteIndex"]

_MANIFEST = "suite.toml"


@dataclass(frozen=True)
class SuiteIndex:
    """The members of a suite; nothing is loaded until asked for.

    Attributes:
        root: The directory, or the manifest's.
        name: What reports call it.
        members: Where each (seed, step) is, sorted.
        ignored: Directories that are no members, each with the reason.
    """

    root: Path
    name: str
    members: Mapping[tuple[int, int], CheckpointSource]
    ignored: tuple[str, ...] = ()

    @classmethod
    def scan(
        cls,
        path: str | Path,
        step_pattern: str = STEP_PATTERN,
        seed_pattern: str = SEED_PATTERN,
    ) -> SuiteIndex:
        r"""List the members of a suite.

        Args:
            path: A directory tree, a directory with a suite.toml, or a manifest itself.
            step_pattern: Regular expression for the names of steps; its one group is the number.
            seed_pattern: The same for seeds.

        Raises:
            CheckpointNotFoundError: No such place, or no checkpoint in it.
            ConfigError: The manifest is wrong, or two directories stand for one (seed, step).
        """
        root = Path(path).expanduser()
        manifest = root / _MANIFEST if root.is_dir() else root
        if manifest.is_file():
            name, found = read_manifest(manifest)
            return cls(manifest.parent, name, dict(sorted(found.items())))
        if not root.is_dir():
            near = closest_names(root.name, list_directories(root.parent))
            raise CheckpointNotFoundError(
                f"no suite {root}",
                given=str(root),
                closest=[str(root.parent / name) for name in near],
                expected=f"a directory seed0/step-100/..., or one with a {_MANIFEST}",
            )
        members, ignored = scan_tree(
            root, compile_pattern(seed_pattern), compile_pattern(step_pattern)
        )
        if not members:
            raise CheckpointNotFoundError(
                f"{root} holds no checkpoints of a suite",
                given="; ".join(ignored[:6]) or list_entries(root),
                expected=f"seed0/step-100/config.json and so on, or a {_MANIFEST}",
            )
        sources = {key: CheckpointSource(str(at)) for key, at in sorted(members.items())}
        return cls(root, root.resolve().name, sources, tuple(ignored))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds, ascending."""
        return tuple(sorted({seed for seed, _ in self.members}))

    @property
    def steps(self) -> tuple[int, ...]:
        """Training steps that any seed has, ascending."""
        return tuple(sorted({step for _, step in self.members}))

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """(seed, step) pairs that other seeds have and this one lacks."""
        return tuple(
            (seed, step)
            for seed in self.seeds
            for step in self.steps
            if (seed, step) not in self.members
        )

    def source(self, seed: int, step: int | str = "last") -> CheckpointSource:
        """Return where a member is.

        Args:
            seed: Training seed.
            step: Training step, or "last": the suite's last, the same for every seed, so that
                seeds are never compared at different amounts of training.

        Raises:
            CheckpointNotFoundError: The suite has no such member; what it has is listed.
        """
        if seed not in self.seeds:
            raise CheckpointNotFoundError(
                f"suite {self.name} has no seed {seed}",
                given=f"seed={seed!r}",
                expected=f"seeds {_numbers(self.seeds)}",
            )
        wanted = self.steps[-1] if step == "last" else step
        if (seed, wanted) not in self.members:
            own = sorted(s for k, s in self.members if k == seed)
            raise CheckpointNotFoundError(
                f"seed {seed} of suite {self.name} has no step {wanted}"
                + (", the last of the suite" if step == "last" else ""),
                given=f"seed={seed}, step={step!r}",
                expected=f"steps {_numbers(own)} (the suite has {_numbers(self.steps)})",
                next_step="; ".join(self.ignored[:4]) or None,
            )
        return self.members[seed, int(wanted)]

    def check_distinct(self, steps: Iterable[int] | None = None) -> None:
        """Make sure that seeds are different models at every step.

        A few tensors are compared first, and whole checkpoints only where those agree, so that a
        large suite is not read from end to end.

        Args:
            steps: Compare at these steps only. Members on the hub are fetched.

        Raises:
            DuplicateWeightsError: Two seeds hold the same weights; the text names both.
        """
        from mechtest.checkpoints.distinct import find_duplicates

        for step in self.steps if steps is None else steps:
            group = {key: at for key, at in self.members.items() if key[1] == step}
            for first, second in find_duplicates(group):
                raise DuplicateWeightsError(
                    f"seeds {first[0]} and {second[0]} of suite {self.name} hold the same weights "
                    f"at step {step}",
                    given=f"{self.members[first]} and {self.members[second]}",
                    expected="one independently trained model a seed",
                    next_step="replace the copy; counted twice, one model would look like a "
                    "replication",
                )

    def __str__(self) -> str:
        missing = f", {len(self.gaps)} missing" if self.gaps else ""
        return f"{self.name}: {len(self.seeds)} seeds x {len(self.steps)} steps{missing}"


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
