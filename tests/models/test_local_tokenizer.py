"""What is read without transformers gives exactly what transformers gives, or is left to it."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mechtest.errors import TokenizerMissingError
from mechtest.models.local_tokenizer import NAMED, read_local
from mechtest.models.tokens import LazyTokenizer, Tokens, load_tokenizer
from tests.tokenizer_folders import MAKERS, ZOO, folder_of, older, settings

NAMES = ["prose", "recall", *MAKERS]
HOSTILE = [
    "",
    " ",
    "   ",
    "\n",
    "\t\n  ",
    "Emma gave an apple to",
    " Emma gave  an   apple to ",
    "Emma\u00a0gave\u3000an apple\u200b",
    "<bos> Emma <eos>",
    "<bos><bos>x<unk><pad>",
    "a<|endoftext|>b <|padding|> <|endoftext",
    "[CLS] Emma [SEP][MASK]",
    "<s>Emma</s>",
    "naïve cafe\u0301 café ﬁ Å",
    "日本語 🙂 👩\u200d👩\u200d👧 \u202eabc",
    "1896 18 96 from 1896 to 18",
    "\x00\x01\ufeff\ufffd",
    "don't , isn't . 're ! ?",
    "x" * 3000,
]


@pytest.fixture(params=NAMES)
def folder(request, tmp_path):
    return folder_of(request.param, tmp_path)


def agree(lazy, reference):
    """Hold everything that a claim asks of a tokenizer equal to transformers'."""
    for text in HOSTILE:
        for special in (True, False):
            ours = lazy(text, add_special_tokens=special)
            theirs = reference(text, add_special_tokens=special)
            assert dict(ours) == dict(theirs), text
            assert list(ours) == list(theirs)
            ids = ours["input_ids"]
            assert lazy.decode(ids) == reference.decode(ids)
            shown = reference.decode(ids, skip_special_tokens=True)
            assert lazy.decode(ids, skip_special_tokens=True) == shown
            assert [lazy.decode([i]) for i in ids] == [reference.decode([i]) for i in ids]
    for kind in NAMED:
        assert getattr(lazy, f"{kind}_token") == getattr(reference, f"{kind}_token")
        assert getattr(lazy, f"{kind}_token_id") == getattr(reference, f"{kind}_token_id")
    assert len(lazy) == len(reference)
    assert lazy.is_fast is reference.is_fast is True
    assert bool(lazy)


def whole(lazy):
    """Whether transformers was brought in."""
    return lazy.__dict__["_whole"] is not None


def test_it_agrees_with_transformers_and_does_without_it(folder):
    lazy = LazyTokenizer(folder)
    agree(lazy, PreTrainedTokenizerFast.from_pretrained(str(folder)))
    assert not whole(lazy)


def test_every_shipped_tokenizer_does_without_transformers():
    folders = sorted(path.parent for path in ZOO.glob("*/*/*/tokenizer.json"))
    assert folders
    assert [path for path in folders if read_local(path) is None] == []


def test_a_lone_file_agrees(folder):
    path = folder / "tokenizer.json"
    lazy = LazyTokenizer(path)
    agree(lazy, PreTrainedTokenizerFast(tokenizer_file=str(path)))
    assert not whole(lazy)


def test_a_directory_without_settings_agrees(tmp_path):
    folder = folder_of("bytes", tmp_path)
    (folder / "tokenizer_config.json").unlink()
    lazy = LazyTokenizer(folder)
    agree(lazy, load_tokenizer(folder))
    assert not whole(lazy)


@pytest.mark.parametrize("name", ["bytes", "words, no bos"])
def test_directories_of_older_versions_agree(tmp_path, name):
    folder = folder_of(name, tmp_path)
    older(folder)
    lazy = LazyTokenizer(folder)
    agree(lazy, PreTrainedTokenizerFast.from_pretrained(str(folder)))
    assert whole(lazy) == (name != "bytes")  # the text of words is tidied


def test_the_map_of_special_tokens_is_read_where_it_counts(tmp_path):
    folder = folder_of("bytes", tmp_path)
    settings(folder, eos_token=None)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {"pad_token": {"content": "<|padding|>", **flags}, "eos_token": "<|padding|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    lazy = LazyTokenizer(folder)
    assert (lazy.pad_token, lazy.eos_token_id) == ("<|padding|>", 1)
    agree(lazy, PreTrainedTokenizerFast.from_pretrained(str(folder)))
    assert not whole(lazy)


CHANGES = {
    "pad token to add": {"pad_token": "<new>"},
    "extra token to add": {"extra_special_tokens": ["<new>"]},
    "extra token as before 5": {"additional_special_tokens": ["<new>"]},
    "extra token with a name": {"extra_special_tokens": {"image_token": "<new>"}},
    "extra token with an odd name": {"extra_special_tokens": {"<|padding|>": "<new>"}},
    "token of its own": {"image_token": "<|padding|>"},
    "ordinary piece as token": {"sep_token": "E"},
    "declared token to add": {"added_tokens_decoder": {"900": {"content": "<new>"}}},
    "other flags": {
        "added_tokens_decoder": {"1": {"content": "<|padding|>", "lstrip": True, "special": True}}
    },
    "special tokens cut up": {"split_special_tokens": True},
    "bos asked for": {"add_bos_token": True},
    "unknown setting": {"fix_mistral_regex": True},
    "inputs": {"model_input_names": ["input_ids"]},
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_settings_that_change_something_are_left_to_transformers(tmp_path, name):
    folder = folder_of("bytes", tmp_path)
    settings(folder, **CHANGES[name])
    assert read_local(folder) is None
    lazy = LazyTokenizer(folder)
    agree(lazy, PreTrainedTokenizerFast.from_pretrained(str(folder)))
    assert whole(lazy)


def test_refused_bos_and_one_in_the_file_are_left_to_transformers(tmp_path):
    folder = folder_of("bytes, bos", tmp_path)
    settings(folder, add_bos_token=False)
    assert read_local(folder) is None


@pytest.mark.parametrize("what", ["padding", "truncation"])
def test_cuts_and_padding_in_the_file_are_left_to_transformers(tmp_path, what):
    folder = folder_of("bytes", tmp_path)
    path = folder / "tokenizer.json"
    core = read_local(folder)._backend
    core.enable_padding(length=20) if what == "padding" else core.enable_truncation(2)
    core.save(str(path))
    assert read_local(folder) is None
    agree(LazyTokenizer(folder), PreTrainedTokenizerFast.from_pretrained(str(folder)))


def test_large_vocabularies_are_left_to_transformers(tmp_path):
    for count, left in ((100_000, False), (100_001, True)):
        words = {f"w{index}": index for index in range(count)}
        Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
        assert (read_local(tmp_path) is None) == left


def test_tokens_in_a_file_of_their_own_are_left_to_transformers(tmp_path):
    folder = folder_of("bytes", tmp_path)
    (folder / "added_tokens.json").write_text('{"<new>": 900}')
    assert read_local(folder) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = folder_of("bytes", tmp_path)
    (folder / name).write_text('{"version": ')
    with pytest.raises(TokenizerMissingError, match="cannot be read"):
        LazyTokenizer(folder)("text")


def test_the_rest_of_the_interface_is_there(folder):
    reference = PreTrainedTokenizerFast.from_pretrained(str(folder))
    text = "Emma gave"
    ids = reference(text)["input_ids"]
    asked = {
        "attribute of what a text became": lambda t: t(text).input_ids,
        "tensor": lambda t: t(text, return_tensors="pt")["input_ids"].tolist(),
        "tensor later": lambda t: t(text).convert_to_tensors("pt", prepend_batch_axis=True).data,
        "batch": lambda t: dict(t([text, text])),
        "pair": lambda t: dict(t(text, text)),
        "tokens": lambda t: t(text).tokens(),
        "named": lambda t: dict(t(text=text)),
        "vocabulary": lambda t: sorted(t.get_vocab().items()),
        "to tokens": lambda t: t.convert_ids_to_tokens(ids),
        "to ids": lambda t: t.convert_tokens_to_ids(["Emma", "no such token"]),
        "one id": lambda t: t.decode(ids[0]),
        "rows": lambda t: t.decode([ids, ids]),
        "encode": lambda t: t.encode(text),
        "special": lambda t: t.all_special_tokens,
    }
    for what, ask in asked.items():
        lazy = LazyTokenizer(folder)
        lazy(text)
        assert str(ask(lazy)) == str(ask(reference)), what


def test_what_is_set_counts_from_then_on(tmp_path):
    folder = folder_of("bytes", tmp_path)
    lazy = LazyTokenizer(folder)
    assert Tokens(lazy).pad_id == 0
    lazy.pad_token = "<|padding|>"
    assert Tokens(lazy).pad_id == 1
    lazy.add_tokens(["Emma gave"])
    assert lazy("Emma gave")["input_ids"] == [len(lazy) - 1]


def test_copies_and_pickles_work(folder):
    for change in (copy.deepcopy, lambda lazy: pickle.loads(pickle.dumps(lazy))):
        lazy = LazyTokenizer(folder)
        assert change(lazy)("Emma gave")["input_ids"] == lazy("Emma gave")["input_ids"]
        encoded = lazy("Emma gave")
        assert change(lazy)("Emma gave") == encoded == change(encoded)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = lazy.no_such_thing


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(TokenizerMissingError, match="no tokenizer could be loaded"):
        LazyTokenizer(tmp_path)("text")
    assert read_local("some/hub-name") is None


def test_transformers_is_not_imported():
    code = (
        "import sys; from mechtest.models.tokens import LazyTokenizer\n"
        f"lazy = LazyTokenizer({str(folder_of('prose', None))!r})\n"
        "lazy.decode(lazy('The')['input_ids']), lazy.pad_token_id, len(lazy)\n"
        "assert 'transformers' not in sys.modules\n"
        "lazy.get_vocab()\n"
        "assert 'transformers' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
