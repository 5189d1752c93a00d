"""README and docs/: links lead somewhere, files, commands and options exist, and the README's speeds are measured."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from slant.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "engine/slant/demo/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
CURRENT = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]  # those two also name what is gone
COMMANDS = typer.main.get_command(app).commands
ANYWHERE = {"--help", "--debug"}


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


def lines_of_blocks(page):
    """The lines of code blocks; one that ends in a backslash is joined with the next."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def spans(page):
    """The code between backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", text)


def slant_commands(lines):
    """The words after ``slant`` of each slant command in lines of shell."""
    for line in lines:
        for part in re.split(r" \| ", line):
            if part.startswith("slant "):
                yield shlex.split(part.partition(" > ")[0], comments=True)[1:]


def options_of(command):
    return {spelled for option in command.params for spelled in (*option.opts, *option.secondary_opts)}


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows_of_tables(page):
    """The cells of Markdown tables by their first one, without what is in brackets."""
    lines = re.findall(r"^\|(.*)\|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[re.sub(r"\(.*\)", "", cell).strip() for cell in line.split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


@each(PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            path, _, heading = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not heading or heading in anchors(found), target


@each(CURRENT)
def test_files_that_are_named_exist(page):
    words = [word for code in (*lines_of_blocks(page), *spans(page)) for word in code.split()]
    named = [word for word in words if re.match(r"(engine|kernels|tests|docs|benchmarks)/[\w./*-]*$", word)]
    assert [word for word in named if "NAME" not in word and not any(ROOT.glob(word.rstrip("/")))] == []


@each(CURRENT)
def test_commands_in_blocks_can_be_parsed(page):
    for name, *words in slant_commands(lines_of_blocks(page)):
        COMMANDS[name].make_context(name, list(words))  # checks options, values and what is required; runs nothing


@each(CURRENT)
def test_commands_in_sentences_and_tables_have_their_options(page):
    for name, *words in slant_commands(spans(page)):
        if name not in ANYWHERE:
            assert {word for word in words if word.startswith("--")} <= options_of(COMMANDS[name]) | ANYWHERE


@each(CURRENT)
def test_options_that_are_named_alone_exist(page):
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    known = ANYWHERE.union(re.findall(r'"(--[a-z-]+)"', scripts), *map(options_of, COMMANDS.values()))
    assert {span.split()[0] for span in spans(page) if re.match(r"--[a-z]", span)} <= known


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_speeds_in_the_readme_are_the_measured_ones():
    readme, measured = rows_of_tables(ROOT / "README.md"), rows_of_tables(ROOT / "docs" / "benchmarks.md")
    systems = readme.keys() & measured.keys() - {"", "---"}
    columns = [
        ("1x128", "1x1024", "8x128", "posts", "peak memory").index(x) for x in ("1x1024", "8x128", "peak memory")
    ]
    assert len(systems) >= 5
    for system in systems:
        assert readme[system] == [measured[system][column] for column in columns], system
