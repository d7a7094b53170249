"""Directories with tokenizers of several kinds, as somebody may have saved them."""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.words import word_tokenizer

ZOO = Path(__file__).parents[1] / "fixtures" / "zoo"
TEXTS = ["Emma gave an apple to Shelby.", "one  two   three\n\tfour", "naïve café 日本 🙂 1896"] * 3
BLANKS = [AddedToken(" " * n, normalized=True, special=False) for n in (4, 3, 2)]


def byte_level(*, bos=False):
    """Byte-pair encoding over bytes, with blanks as added tokens: GPT-NeoX in small."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>", "<|padding|>"], initial_alphabet=alphabet
    )
    core.train_from_iterator(TEXTS, trainer)
    core.add_tokens(BLANKS)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def word_pieces():
    """Pieces of lower-case words, whose decoded text is tidied."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    core.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=names))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokens = {f"{name[1:-1].lower()}_token": name for name in names}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **tokens
    )


def unigram():
    """Pieces marked by an underscore for the blank, as SentencePiece has them."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


MAKERS = {
    "words": word_tokenizer,
    "words, no bos": lambda: word_tokenizer(bos=False),
    "bytes": byte_level,
    "bytes, bos": lambda: byte_level(bos=True),
    "pieces": word_pieces,
    "unigram": unigram,
}


def folder_of(name, place):
    """Return a directory with the named tokenizer, written below `place` unless it is shipped."""
    if name in ("prose", "recall"):
        return sorted(ZOO.glob(f"{name}/seed0/*/tokenizer.json"))[-1].parent
    MAKERS[name]().save_pretrained(place)
    return place


def settings(folder, **changes):
    """Change `tokenizer_config.json`; None takes a setting out."""
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def older(folder):
    """Rewrite a directory as transformers 4 wrote it: flags of tokens, and a map of the names."""
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    found = json.loads((folder / "tokenizer_config.json").read_text())
    names = {key: value for key, value in found.items() if key.endswith("_token")}
    declared = {str(token.pop("id")): token for token in tokens}
    settings(
        folder,
        added_tokens_decoder=declared,
        add_bos_token=False,
        add_eos_token=False,
        add_prefix_space=False,
        clean_up_tokenization_spaces=True,
        tokenizer_class="GPTNeoXTokenizer",
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
