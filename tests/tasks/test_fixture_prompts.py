"""Do the shipped prompt files pass every check under the shipped tokenizers?"""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mechtest.tasks import PromptPairs

FIXTURES = Path(__file__).parents[2] / "fixtures"
FILES = sorted((FIXTURES / "prompts").glob("*.jsonl"))
SUITES = {"recall": "recall", "induction": "induction"}


def suite_tokenizer(name):
    suite = FIXTURES / "zoo" / SUITES.get(name, "prose")
    found = sorted(suite.glob("seed0/*/tokenizer.json"))
    assert found, f"no tokenizer under {suite}/seed0: the fixture models are not there"
    return PreTrainedTokenizerFast(
        tokenizer_file=str(found[0]),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_prompt_file_is_sound(path):
    """No findings at all, at least 16 templates a half, at least 16 prompts a template."""
    pairs = PromptPairs.from_jsonl(path)
    tokenizer = suite_tokenizer(path.stem)
    assert pairs.validate(tokenizer) == ()
    assert min(len(half.templates) for half in pairs.split()) >= 16
    assert min(map(len, pairs.by_template().values())) >= 16
    firsts = PromptPairs(tuple(rows[0] for rows in pairs.by_template().values()))
    assert len(firsts.encode(tokenizer)) == len(pairs.templates)


def test_shipped_behaviours_share_no_template():
    """One name in two files would tie the halves of different behaviours together."""
    homes = {}
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            homes.setdefault(json.loads(line)["template"], set()).add(path.stem)
    # A file of answer-preserving twins (ioi_name_order) uses the templates of its behaviour (ioi).
    for template, files in homes.items():
        behaviour = min(files, key=len)
        assert all(file.startswith(behaviour) for file in files), template
