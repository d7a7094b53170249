"""How can a prompt be asked in another way, without asking something else?

Edits of prompt pairs that leave the answer as it is; tables that offer them for each prompt; and
two ways to draw perturbed prompts: for a search (Hypothesis), and for a fair sample.
"""

from mechtest.tasks.perturbation.insertions import Blanks, Distractor, Filler, Prefix
from mechtest.tasks.perturbation.marked_text import MarkedText
from mechtest.tasks.perturbation.menu import Menu
from mechtest.tasks.perturbation.operation import Operation, Perturbation, Source, perturbed
from mechtest.tasks.perturbation.rendering import Refusal, Renderer
from mechtest.tasks.perturbation.replacements import (
    Attractor,
    Casing,
    Number,
    Rename,
    SwapRoles,
    SwapSentences,
    Synonym,
)
from mechtest.tasks.perturbation.strategy import perturbations, strategy_of
from mechtest.tasks.perturbation.tables import Names, Numbers, Prefixes, Synonyms

__all__ = [
    "Attractor",
    "Blanks",
    "Casing",
    "Distractor",
    "Filler",
    "MarkedText",
    "Menu",
    "Names",
    "Number",
    "Numbers",
    "Operation",
    "Perturbation",
    "Prefix",
    "Prefixes",
    "Refusal",
    "Rename",
    "Renderer",
    "Source",
    "SwapRoles",
    "SwapSentences",
    "Synonym",
    "Synonyms",
    "perturbations",
    "perturbed",
    "strategy_of",
]
