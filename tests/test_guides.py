"""The code of the guide pages runs, block by block in one namespace, and prints the output below it."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import fastsqrtm

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "guide").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_code_of_a_page_prints_what_the_page_says(page):
    blocks = [(match[1], match[2], page.read_text()[: match.start()].count("\n") + 1)
              for match in BLOCK.finditer(page.read_text())]  # fmt: skip
    assert any(language == "python" for language, _, _ in blocks)
    names: dict[str, object] = {"__name__": page.stem}
    for i, (language, code, line) in enumerate(blocks):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # The line numbers of a traceback are those of the page.
            exec(compile("\n" * line + code, str(page), "exec"), names)
        following = blocks[i + 1] if i + 1 < len(blocks) else ("", "", 0)
        expected = following[1] if following[0] == "text" else ""
        assert printed.getvalue() == expected, f"{page.name}, line {line}"


def test_every_word_of_the_public_api_is_in_the_reference():
    """Each public function stands on the page of its module, which shows all of them or names it among the members."""
    members = {}
    for page in (DOCS / "api").glob("*.md"):
        text = page.read_text()
        named = re.search(r"members: \[(.*)\]", text)
        members[re.search(r"::: (\S+)", text)[1]] = named and named[1].split(", ")
    for name in fastsqrtm.__all__:
        member = getattr(fastsqrtm, name)
        if callable(member):
            assert member.__module__ in members, f"{name}: docs/api has no page for {member.__module__}"
            shown = members[member.__module__]
            assert shown is None or name in shown, f"{name} is not on the page of {member.__module__}"
