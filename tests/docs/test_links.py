"""Every link in every document leads somewhere, and every document is led to from README.md."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
START = ROOT / "README.md"
# What is no document of ours: written by tools, or fetched by them.
NOT_OURS = {".venv", ".git", "node_modules", "dist", "build"}
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^ {4}.*$|`[^`\n]*`", re.MULTILINE)
LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
BARE = re.compile(r"(?<![(\w])https?://[^\s)>`]+")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def documents() -> list[Path]:
    found = (path for path in ROOT.rglob("*.md") if not NOT_OURS & {*path.parts})
    return sorted(path for path in found if not path.relative_to(ROOT).parts[0].startswith("."))


DOCUMENTS = documents()


@cache
def prose(document: Path) -> str:
    """Without commands, programs and drawings, in which brackets mean something else."""
    return FENCE.sub("", document.read_text())


def links(document: Path) -> list[str]:
    return LINK.findall(CODE.sub("", prose(document)))


@cache
def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings; equal ones are counted."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(prose(document)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, 0) + 1
    return {
        anchor if number == 0 else f"{anchor}-{number}"
        for anchor, count in found.items()
        for number in range(count)
    }


def target(document: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return (document.parent / path).resolve() if path else document, anchor


def broken(document: Path) -> Iterator[str]:
    for link in links(document):
        if urlsplit(link).scheme:
            continue
        path, anchor = target(document, link)
        if not path.exists() or (anchor and anchor not in anchors(path)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    assert list(broken(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_elsewhere_are_well_formed(document):
    """Nobody is asked: tests have no network."""
    text = FENCE.sub("", document.read_text())
    found = [link for link in links(document) if urlsplit(link).scheme] + BARE.findall(
        CODE.sub("", text)
    )
    for link in found:
        parts = urlsplit(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), link


def test_every_document_is_reached_from_the_readme():
    reached, waiting = {START}, [START]
    while waiting:
        document = waiting.pop()
        for link in links(document):
            path, _ = target(document, link)
            if path.suffix == ".md" and path.is_file() and path not in reached:
                reached.add(path)
                waiting.append(path)
    assert [path for path in DOCUMENTS if path not in reached] == []


def test_the_index_lists_every_document():
    index = ROOT / "docs/README.md"
    listed = {target(index, link)[0] for link in links(index)} | {index}
    assert [path for path in DOCUMENTS if path not in listed] == []


def test_nothing_that_is_linked_to_is_left_out_of_the_repository():
    """A file that only this machine has would be there for no reader."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a clone of the repository")
    kept = {ROOT / line for line in done.stdout.splitlines()}
    linked = {
        target(each, link)[0] for each in DOCUMENTS for link in links(each) if ":" not in link
    }
    assert {path for path in linked if path.is_file()} <= kept


# -- that these find something -------------------------------------------------------------------


def test_broken_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# A heading: `x`, *y*\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# Here\n[1](b.md) [2](b.md#a-heading-x-y) [3](#here) [4](b.md#twice-1) [5](https://x.y/z)\n"
        "`[6](no)` [7](gone.md) [8](#gone)\n[9](b.md#twice-2)\n\n"
        "    [10](no)\n\n```\n[11](no)\n```\n"
    )
    assert list(broken(page)) == ["gone.md", "#gone", "b.md#twice-2"]


def test_links_that_go_over_a_line_are_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("a [link\nof two lines](gone.md)\n")
    assert list(broken(page)) == ["gone.md"]
