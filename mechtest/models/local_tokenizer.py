"""When can a tokenizer be read without transformers, and what does it do by itself?

Importing transformers costs a worker about half as much again as importing torch. A directory with
a `tokenizer.json` needs little of it: the `tokenizers` library reads the same file and gives the
same ids. That holds where nothing else in the directory changes what the file says, so every
setting is looked at, and a directory with one that is not understood is left to transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mechtest.checkpoints.json_file import read_json
from mechtest.errors import TokenizerMissingError

NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# Settings that change neither ids nor decoded text once there is a tokenizer.json; the chat
# template, lengths and sides belong to calls that transformers answers.
_HARMLESS = {
    "add_bos_token",  # whoever reads a tokenizer.json takes bos and eos from it: see `_is_plain`
    "add_eos_token",
    "add_prefix_space",
    "added_tokens_decoder",
    "additional_special_tokens",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "errors",
    "extra_special_tokens",
    "is_local",
    "local_files_only",
    "model_max_length",
    "name_or_path",
    "padding_side",
    "processor_class",
    "special_tokens_map_file",
    "split_special_tokens",
    "tokenizer_class",
    "tokenizer_file",
    "trim_offsets",
    "truncation_side",
}
# transformers may rewrite the pattern of vocabularies above this (a fault in Mistral's files).
_LARGEST = 100_000


class Encoded(dict[str, list[int]]):
    """What one text became: what transformers returns for it, as far as anyone asks.

    Args:
        values: Keys and lists as transformers has them.
        whole: Encodes the same text with transformers; called for anything beyond those.
    """

    def __init__(self, values: Mapping[str, list[int]], whole: Callable[[], Any]) -> None:
        super().__init__(values)
        self._whole = whole

    def __missing__(self, key: Any) -> Any:
        return self._whole()[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name] if name in self else getattr(self._whole(), name)


class LocalTokenizer:
    """A `tokenizer.json` by itself: single texts to ids, ids to text, the special tokens.

    Args:
        backend: A `tokenizers.Tokenizer`.
        special: Name of the token, such as `bos`, to its text; absent where there is none.

    Attributes:
        special: `bos_token`, `bos_token_id` and so on, None where there is none; and `is_fast`.
    """

    def __init__(self, backend: Any, special: Mapping[str, str]) -> None:
        self._backend = backend
        self.special: dict[str, str | int | bool | None] = {"is_fast": True}
        for kind in NAMED:
            token = special.get(kind)
            self.special[f"{kind}_token"] = token
            self.special[f"{kind}_token_id"] = None if token is None else backend.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return `input_ids` and `attention_mask` of one text."""
        found = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return {
            "input_ids": found.ids,
            "attention_mask": found.attention_mask,
        }

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of ids."""
        return str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))


def read_local(source: str | Path) -> LocalTokenizer | None:
    """Read a tokenizer without transformers, or return None where only that gives the same ids.

    Args:
        source: A directory with a `tokenizer.json`, the file itself, or anything else (None).

    Raises:
        TokenizerMissingError: There is such a file, and it is damaged.
    """
    path = Path(source)
    file = path if path.is_file() else path / _FILE
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        settings = {} if path.is_file() else _settings(path)
        backend = None if settings is None else Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise TokenizerMissingError(
            f"the tokenizer at {source} cannot be read",
            given=str(error).splitlines()[0],
            expected="files as the tokenizers library and transformers write them",
            next_step="restore the files, or pass tokenizer= to from_pretrained",
        ) from error
    if settings is None or backend is None:
        return None
    special = {kind: _text(settings.get(f"{kind}_token")) for kind in NAMED}
    if not _is_plain(backend, settings, special):
        return None
    return LocalTokenizer(backend, {kind: text for kind, text in special.items() if text})


def _settings(directory: Path) -> dict[str, Any] | None:
    """Return what stands beside a `tokenizer.json`; None where it takes transformers to read it."""
    if (directory / "added_tokens.json").is_file():
        return None
    if not (directory / _SETTINGS).is_file():
        return {}  # without that file the others are not looked at
    settings = dict(read_json(directory / _SETTINGS))
    older = directory / "special_tokens_map.json"
    if "added_tokens_decoder" not in settings and older.is_file():
        settings |= read_json(older)
    known = _HARMLESS | {f"{kind}_token" for kind in NAMED}
    return settings if known.issuperset(settings) else None


def _is_plain(backend: Any, settings: Mapping[str, Any], special: Mapping[str, str | None]) -> bool:
    """Whether no setting changes what the file alone does.

    transformers adds the tokens of the settings that the file does not have, or has with other
    flags; it drops cuts and padding; and it tidies the text of what is not byte-pair encoding.
    """
    added = {id_: _flags(token) for id_, token in backend.get_added_tokens_decoder().items()}
    texts = {flags[0] for flags in added.values()}
    extra = [
        *(settings.get("additional_special_tokens") or ()),
        *(settings.get("extra_special_tokens") or ()),
    ]
    asked = [*special.values(), *map(_text, extra)]
    declared = settings.get("added_tokens_decoder") or {}
    adds = settings.get("add_bos_token") or settings.get("add_eos_token")
    own = "add_bos_token" in settings or "add_eos_token" in settings
    tidied = settings.get("clean_up_tokenization_spaces")
    return (
        all(text is None or text in texts for text in asked)
        and all(added.get(int(id_)) == _flags_of(token) for id_, token in declared.items())
        and not (adds or (own and backend.num_special_tokens_to_add(is_pair=False)))
        and not settings.get("split_special_tokens")
        and not isinstance(settings.get("extra_special_tokens"), Mapping)
        and not (tidied and type(backend.model).__name__ != "BPE")
        and backend.truncation is None
        and backend.padding is None
        and backend.get_vocab_size() <= _LARGEST
    )


def _text(token: Any) -> str | None:
    """Return the text of a special token as settings write it: a string, or a record of flags."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if found is None or isinstance(found, str) else ""  # no token is called that


def _flags(token: Any) -> tuple[Any, ...]:
    return tuple(getattr(token, name) for name in _FLAGS)


def _flags_of(record: Any) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in _FLAGS) if isinstance(record, Mapping) else ()
