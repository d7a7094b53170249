"""What does a first claim file look like, for a model, a prompt file and a site?"""

from __future__ import annotations

from pathlib import Path

from mechtest.errors import RegistrationError
from mechtest.sites import Site

__all__ = ["claim_file", "write_claim_file"]

TEMPLATE = '''"""What does {site} have to do with these prompts?

Say in a sentence what you found, where, and on which prompts you looked (never on these).
"""

import mechtest as mt

pytestmark = mt.family({name!r}, model={model!r}, prompts={prompts!r})

CIRCUIT = mt.Circuit({site!r})


@mt.claim("{site} carries the behaviour")
def test_necessary(mamba, prompts):
    mt.assert_necessary(mamba, CIRCUIT, prompts, threshold=0.5)


@mt.claim("... and restoring it alone brings the behaviour back")
def test_sufficient(mamba, prompts):
    mt.assert_sufficient(mamba, CIRCUIT, prompts, threshold=0.8)


# A suite in which everything is supported may only show that everything is: write down what should
# be false as well, for example the same claim about another layer.
# @mt.claim("False: ...", expect="refuted")
# def test_false_twin(mamba, prompts):
#     mt.assert_necessary(mamba, mt.Circuit("another site"), prompts)
'''


def claim_file(name: str, *, model: str, prompts: str, site: str) -> str:
    """Return the text of a claim file.

    Args:
        name: Name of the family.
        model: Suite or checkpoint.
        prompts: Prompt file.
        site: Site name with a position.

    Raises:
        UnknownSiteError, PositionError: The site cannot be read.
    """
    return TEMPLATE.format(name=name, model=model, prompts=prompts, site=str(Site.parse(site)))


def write_claim_file(path: Path, *, model: str, prompts: str, site: str) -> None:
    """Write a claim file that runs; never over another.

    Raises:
        RegistrationError: The name is not one that pytest collects, or the file is there already.
    """
    if not (path.name.startswith("test_") and path.suffix == ".py"):
        raise RegistrationError(
            "pytest does not collect a file of this name",
            given=str(path),
            expected="test_something.py",
        )
    if path.exists():
        raise RegistrationError(
            f"{path} is there already, and is left as it is",
            given=str(path),
            next_step="choose another name",
        )
    name = path.stem.removeprefix("test_").replace("_", "-")
    text = claim_file(name, model=model, prompts=prompts, site=site)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
