"""What is a site, once its name has been read?

A site is a hook of one layer (or of the model) plus the positions meant. The special hook `state`
is the complete recurrent state of a layer: `hook_h` and the convolution window together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mechtest.errors import PositionError, UnknownSiteError, closest_names
from mechtest.sites.aliases import canonical
from mechtest.sites.position import EVERYWHERE, Position
from mechtest.sites.table import BLOCK_HOOKS, HOOKS_BY_NAME, MODEL_HOOKS, STATE_PARTS, HookSpec

STATE_SITE = "state"
_BLOCK = re.compile(r"blocks\.(?P<layer>-?\d+)\.(?P<rest>.+)")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model.

    Attributes:
        hook: Name inside the block or model, as in `sites.table`, or `state`.
        layer: Layer index as given (may be negative), None for hooks of the model.
        position: Positions meant; everywhere unless the name says otherwise.
    """

    hook: str
    layer: int | None = None
    position: Position = EVERYWHERE

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read a site name in any accepted vocabulary.

        Args:
            text: For example `blocks.1.hook_h.7`, `blocks.0.state@last`,
                `blocks.1.hook_resid_pre@S2:` or `backbone.layers.0.mixer.conv1d`.

        Raises:
            UnknownSiteError: No such hook; the closest names are listed.
            PositionError: The part after `@` is no position, or the hook has none.
        """
        name, at, where = text.partition("@")
        position = Position.parse(where) if at else EVERYWHERE
        return cls._build(text, canonical(name), position)

    @classmethod
    def _build(cls, text: str, name: str, position: Position) -> Site:
        block = _BLOCK.fullmatch(name)
        layer = int(block["layer"]) if block else None
        hook = block["rest"] if block else name
        stem, _, suffix = hook.rpartition(".")
        spec = HOOKS_BY_NAME.get(stem)
        if spec is not None and spec.per_position and suffix.isdecimal():
            if not position.everywhere:
                raise PositionError(
                    f"{text!r} names its position twice",
                    given=text,
                    expected=f"{name} or {name.removesuffix('.' + suffix)}@{position}, not both",
                )
            hook, position = stem, Position.at(int(suffix))
        known = {s.name for s in (BLOCK_HOOKS if block else MODEL_HOOKS)}
        if hook not in known and not (block and hook == STATE_SITE):
            raise unknown_site(text, name)
        site = cls(hook, layer, position)
        site._check_position(text)
        return site

    def _check_position(self, text: str) -> None:
        if self.position.everywhere or self.is_state:
            return
        if not self.spec.per_position and self.spec.position_axis is None:
            raise PositionError(
                f"{self.hook} has no positions: its axes are {' '.join(self.spec.axes)}",
                given=text,
                expected=text.partition("@")[0],
            )

    @property
    def is_state(self) -> bool:
        """True for the site `blocks.{l}.state`, which stands for two hooks."""
        return self.hook == STATE_SITE

    @property
    def spec(self) -> HookSpec:
        """The table row of this hook (the state site has none)."""
        return HOOKS_BY_NAME[self.hook]

    @property
    def parts(self) -> tuple[Site, ...]:
        """The sites of single hooks that this one stands for."""
        if not self.is_state:
            return (self,)
        return tuple(Site(hook, self.layer, self.position) for hook in STATE_PARTS)

    def __str__(self) -> str:
        base = self.hook if self.layer is None else f"blocks.{self.layer}.{self.hook}"
        if self.position.everywhere:
            return base
        start = self.position.start
        single = not self.position.is_range and start is not None and start.role is None
        if not self.is_state and self.spec.per_position and single and start and start.offset >= 0:
            return f"{base}.{start.offset}"
        return f"{base}@{self.position}"


def unknown_site(text: str, name: str, n_layers: int | None = None) -> UnknownSiteError:
    """Build the error for a name that is no site, with the closest names that are."""
    layers = range(n_layers if n_layers is not None else 1)
    block = _BLOCK.fullmatch(name)
    layer = block["layer"] if block else "0"
    if n_layers is not None and block and int(layer) not in range(-n_layers, n_layers):
        layer = str(n_layers - 1)
    known = [spec.name for spec in MODEL_HOOKS]
    known += [f"blocks.{layer}.{spec.name}" for spec in BLOCK_HOOKS]
    known += [f"blocks.{layer}.{STATE_SITE}"]
    known += [f"blocks.{layer}.hook_h.{text.rpartition('.')[2]}"]
    shown = f"0..{layers[-1]}" if n_layers else "l"
    return UnknownSiteError(
        f"no site {text!r}" + (f" in a model of {n_layers} layers" if n_layers else ""),
        given=text,
        closest=closest_names(name, known),
        expected=f"hook_..., blocks.{{{shown}}}.hook_... or blocks.{{{shown}}}.state@position",
        next_step="list every site with: mechtest sites MODEL",
    )
