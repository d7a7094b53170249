"""Small studies of small models, as files."""

from pathlib import Path

from fixtures.compiled import FAMILIES

ROOT = Path(__file__).parents[2]

QUICK = """
[steps.activations]
sites = ["blocks.*.hook_h"]
lens = false
direct = ""
[steps.selection]
count = 2
groups = 0
rank = 0
sample = 3
attribution = false
tracing = false
[steps.patching]
map = false
curve = false
prune = 0
[steps.controls]
circuits = 1
draws = 9
"""
"""Few candidates and few controls: what remains is the machinery."""


def prose(folder, more="", steps=QUICK, **study):
    """Write a study of where the prose model keeps a city; return its file."""
    told = {
        "name": "city",
        "model": str(ROOT / "fixtures/zoo/prose"),
        "prompts": str(ROOT / "fixtures/prompts/fact_city.jsonl"),
        "per_template": 1,
        "output": str(folder / "out"),
        "pictures": False,
        **study,
    }
    return written(folder, told, more + steps)


def written(folder, told, rest=""):
    lines = [f"{key} = {str(v).lower() if isinstance(v, bool) else repr(v)}"
             for key, v in told.items()]  # fmt: skip
    path = folder / "study.toml"
    path.write_text("[study]\n" + "\n".join(lines) + "\n" + rest, encoding="utf-8")
    return path


def compiled(folder, templates=24):
    """Write a model whose circuit is known, its prompts, and a study of both; return all three."""
    built = FAMILIES["marked_slots"].build(seed=0, share=1.0, noise=0.005, templates=templates)
    built.save(folder / "model")
    behaviour = built.prompts.filter(behaviour="first")
    behaviour.to_jsonl(folder / "first.jsonl")
    told = {
        "name": "slots",
        "model": "model",
        "prompts": "first.jsonl",
        "per_template": 1,
        "output": "out",
        "pictures": False,
    }
    return built, written(folder, told, QUICK)
