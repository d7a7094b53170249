"""Which template is a prompt of, when its row does not say so?"""

from mechtest.tasks.pair import PromptPair
from mechtest.tasks.tokens import PairTokenizer

__all__ = ["is_derived", "masked_template"]

PREFIX = "masked: "


def masked_template(pair: PromptPair, tokenizer: PairTokenizer) -> str:
    """Derive a template name: the clean prompt with every slot's token replaced by its role.

    Slots are the positions of all roles but `last` (which names a place, not a slot) and the
    positions at which the corrupted prompt differs (`{changed}` where no role is there). Two rows
    have one template when what remains is equal, so a slot that no role names and that the
    corruption leaves alone (the object given, say) makes templates of its own: too many, too small
    clusters. `validate` warns about derived templates that have a single row.
    """
    tokens = tokenizer.prompt(pair.clean)
    other = tokenizer.prompt(pair.corrupted)
    names = {position: role for role, position in pair.positions if role != "last"}
    if len(tokens) == len(other):
        for index, (one, twin) in enumerate(zip(tokens, other, strict=True)):
            if one != twin:
                names.setdefault(index, "changed")
    skip = 1 if tokens[:1] == (tokenizer.bos,) else 0
    pieces = [
        f"{{{names[index]}}}" if index in names else tokenizer.word(token)
        for index, token in enumerate(tokens)
        if index >= skip or index in names
    ]
    return PREFIX + "".join(pieces).strip()


def is_derived(template: str) -> bool:
    """Say whether a template name was derived by masking."""
    return template.startswith(PREFIX)
