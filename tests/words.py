"""A word-level tokenizer with leading spaces, made on the spot."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [
    "Emma",
    "Shelby",
    "and",
    "had",
    "fun",
    "gave",
    "an",
    "apple",
    "to",
    "at",
    "school",
    ".",
    ",",
    "Lately",
]


def word_tokenizer(*, bos=True):
    """Return a tokenizer of a few words; `bos` puts the start token in front of every text."""
    vocabulary = {token: i for i, token in enumerate(["<bos>", "<pad>", "<unk>"])}
    for word in WORDS:
        vocabulary[f" {word}" if word.isalpha() else word] = len(vocabulary)
    for word in (".", ","):
        vocabulary[f" {word}"] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"^(?! )"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[.,]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )
