"""A word-level tokenizer like the fixture models', one without bos, and rows to go with them."""

from functools import cache

from hypothesis import settings
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# Shape checks make every call slow and other processes share the cores: no deadline, few examples.
CALM = settings(deadline=None, max_examples=25)

NAMES = ("Emma", "Shelby", "Nina", "Ruth", "Ivan", "Peter", "Adam", "Boris")
FILLER = ("and", "met", "gave", "a", "book", "letter", "to", "The", "is", "in", "at", "the")
WORDS = (*NAMES, *FILLER, "Paris", "Rome", "war", "lasted", "from")
PIECES = (*(f" {word}" for word in WORDS), ",", ".", *(f" {n:02d}" for n in range(100)))
VOCAB = {
    piece: index for index, piece in enumerate(("<bos>", "<pad>", "<unk>", *PIECES, "97", "98"))
}


@cache
def tokenizer(*, bos=True, pad=True, eos=False):
    """Return the tokenizer, with or without a bos in front, a pad token and an eos behind."""
    core = Tokenizer(models.WordLevel({**VOCAB, "<eos>": len(VOCAB)}, unk_token="<unk>"))
    core.normalizer = normalizers.Replace(Regex(r"^(?! )"), " ")
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d\d|[.,]"), "isolated")
    if bos or eos:
        core.post_processor = processors.TemplateProcessing(
            single=("<bos> $A" if bos else "$A") + (" <eos>" if eos else ""),
            special_tokens=[("<bos>", 0), ("<eos>", len(VOCAB))],
        )
    special = {"bos_token": "<bos>", "unk_token": "<unk>"}
    if pad:
        special["pad_token"] = "<pad>"
    if eos:
        special["eos_token"] = "<eos>"
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


class CharacterTokenizer:
    """One token a character and no special ids at all: the least that a tokenizer can be."""

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


def ioi_row(first="Emma", second="Nina", thing="book", template="met-gave", **changes):
    """Return a row of 10 tokens with bos: `{IO} and {S1} met. {S2} gave a {thing} to`."""
    row = {
        "clean": f"{first} and {second} met. {second} gave a {thing} to",
        "corrupted": f"{first} and {second} met. {first} gave a {thing} to",
        "answer": f" {first}",
        "foil": f" {second}",
        "template": template,
        "positions": {"IO": 1, "S1": 3, "S2": 6},
        "changed": ["S2"],
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


def short_row(first="Emma", second="Nina", template="short"):
    """Return a row of 7 tokens with bos: `{IO} met {S1}, {S2} to`, roles like `ioi_row`."""
    return {
        "clean": f"{first} met {second}, {second} to",
        "corrupted": f"{first} met {second}, {first} to",
        "answer": [f" {first}"],
        "foil": f" {second}",
        "template": template,
        "positions": {"IO": 1, "S1": 3, "S2": 5},
    }


def year_row(year=97, template="war"):
    """Return a greater-than row: several answers, several foils."""
    return {
        "clean": f"The war lasted from 18 {year} to 18",
        "corrupted": "The war lasted from 18 02 to 18",
        "answer": [f" {n:02d}" for n in range(year + 1, 100)],
        "foil": [f" {n:02d}" for n in range(year)],
        "template": template,
        "positions": {"year": 6},
        "changed": ["year"],
    }


def good_rows():
    """Return 8 rows of 4 templates and two lengths."""
    return [
        ioi_row(),
        ioi_row("Ruth", "Ivan"),
        ioi_row("Adam", "Boris", "letter", template="letter-only"),
        ioi_row("Ivan", "Ruth", "letter", template="letter-only"),
        short_row(),
        short_row("Peter", "Adam"),
        year_row(),
        year_row(50),
    ]
