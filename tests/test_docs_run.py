"""What README.md and docs/ show works: Python blocks run, shell commands exist."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from mechtest import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.M | re.S,
)
SHELLS = {"sh", "bash", "shell", "console"}
PROGRAMS = {"cd", "git", "make", "mechtest", "pip", "pytest", "python", "python3"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run, if so."""

    language: str
    body: str
    line: int
    reason: str | None


def blocks(page):
    text = page.read_text()
    return [
        Block(m["language"], m["body"], text[: m.start("body")].count("\n") + 1, m["reason"])
        for m in FENCE.finditer(text)
    ]


def name(page):
    return page.relative_to(ROOT).as_posix()


def python_blocks(page):
    return [block for block in blocks(page) if block.language in {"python", "py"}]


def commands(page):
    """Yield the words of every shell command shown on a page."""
    for block in blocks(page):
        if block.language in SHELLS and not block.reason:
            for line in block.body.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield words


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not b.reason for b in python_blocks(page))], ids=name
)
def test_python_blocks_run_in_order(page, monkeypatch):
    """Blocks of one page share their names, as a reader would type them."""
    monkeypatch.chdir(ROOT)
    namespace = {"__name__": "docs"}
    for block in python_blocks(page):
        if not block.reason:
            code = "\n" * (block.line - 1) + block.body
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_commands_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    subcommands = set(re.findall(r"^ {4}([a-z][a-z-]*)(?: |$)", cli._parser().format_help(), re.M))
    assert "sites" in subcommands
    for words in commands(page):
        assert words[0] in PROGRAMS, words
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        if words[0] == "mechtest" and not words[1].startswith("-"):
            assert words[1] in subcommands, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_its_language(page):
    """A block without a language would be neither run nor checked."""
    fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
    assert all(fences[::2]), "an opening fence without a language (use `text`)"
    assert not any(fences[1::2])
    assert len(fences) == 2 * len(blocks(page))


def test_every_page_is_reachable_from_the_readme():
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        queue += [
            page.parent / target
            for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
            if "://" not in target
        ]
    assert {name(page) for page in PAGES if page.resolve() not in seen} == set()


def test_the_search_finds_blocks_and_their_reasons(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```python\nx = 1\n```\n<!-- not run: needs a GPU -->\n```python\ny\n```\n"
        "```sh\n$ PIP_FLAGS=x make claims  # comment\n```\n"
    )
    first, second, third = blocks(page)
    assert (first.body, first.line, first.reason) == ("x = 1\n", 3, None)
    assert second.reason == "needs a GPU"
    assert third.language == "sh"
    assert list(commands(page)) == [["make", "claims"]]
