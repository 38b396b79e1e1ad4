"""Adds the headings of our docstrings that Google's style lacks: Gradient, Cost, Source, and a single Example.

It extends griffe, which reads the docstrings for `make docs`.
"""

import re
import textwrap
from typing import Any

import griffe

TEXT = ("gradient", "cost", "source")
SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n     .*)*)", re.MULTILINE)
"""One entry for several arguments: "rtol, eps: As for `sqrtm`." """


class Sections(griffe.Extension):
    """Turns headings that griffe does not know, and takes for admonitions, into sections like the others."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        if obj.is_class:  # its fields stand at the end, without a heading
            text, *fields = re.split(r"\n\n(?=\w+(?:, \w+)*: )", obj.docstring.value, maxsplit=1)
            if fields:
                obj.docstring.value = f"{text}\n\nAttributes:\n{textwrap.indent(fields[0], '    ')}"
        obj.docstring.value = SEVERAL.sub(
            lambda entry: "\n".join(f"    {name}: {entry[2]}" for name in entry[1].split(", ")), obj.docstring.value
        )
        sections = obj.docstring.parse("google", returns_multiple_items=False, returns_named_value=False)
        obj.docstring.parsed = [self._section(section) for section in sections]

    def _section(self, section: griffe.DocstringSection) -> griffe.DocstringSection:
        if section.kind is not griffe.DocstringSectionKind.admonition:
            return section
        title, text = section.title, section.value.description
        if title.lower() in TEXT:
            body = text
        elif title.lower() == "example":
            body = f"```pycon\n{text}\n```"
        else:
            return section
        return griffe.DocstringSectionText(f'<span class="doc-section-title">{title}:</span>\n\n{body}')
