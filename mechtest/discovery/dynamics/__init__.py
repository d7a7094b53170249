"""How does the recurrence behave on real prompts: what lasts, what is written, what is read?"""

from mechtest.discovery.dynamics.eigenmodes import Eigenmodes, eigenmodes
from mechtest.discovery.dynamics.gramians import Gramians, gramians
from mechtest.discovery.dynamics.mode_effects import ModeEffects, ModeGroup, mode_effects
from mechtest.discovery.dynamics.state_rank import StateRank, state_rank
from mechtest.discovery.dynamics.timescales import GateToken, Timescales, timescales

__all__ = [
    "Eigenmodes",
    "GateToken",
    "Gramians",
    "ModeEffects",
    "ModeGroup",
    "StateRank",
    "Timescales",
    "eigenmodes",
    "gramians",
    "mode_effects",
    "state_rank",
    "timescales",
]
