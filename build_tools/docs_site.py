"""Hooks of mkdocs for `make docs`, for everything that mkdocs.yml cannot express.

Formulas become MathML while the site is built, so that a page needs no script and no network. Files outside docs/ that
a page links to (records of the benchmark, CHANGELOG.md, CONTRIBUTING.md) become part of the site.
"""

import posixpath
import re
from pathlib import Path
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(\]\(|src=\")([^)#\"\s]+)")


def mathml(formula: str, display: str) -> str:
    """MathML of a formula; a command that the converter does not know is an error, not a blot on the page."""
    result = convert(formula, display=display)
    if unknown := re.findall(r"\\[a-zA-Z]+", result):
        raise ValueError(f"no MathML for {', '.join(unknown)} in {formula!r}")
    ElementTree.fromstring(result)
    return result


class Formula(InlineProcessor):
    """Converts $x$ before Markdown sees its backslashes and underscores, but after `code`."""

    def handleMatch(self, m, data):
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class Formulas(Extension):
    def extendMarkdown(self, md):
        md.inlinePatterns.register(Formula(r"(?<![\\$\w])\$(?!\s)([^$]+?)(?<!\s)\$(?![\d$])", md), "formula", 185)


def _block(source, language, css_class, options, md, **kwargs) -> str:
    return f'<div class="formula">{mathml(source, "block")}</div>'


def on_config(config):
    config.markdown_extensions.append(Formulas())
    fence = {"name": "math", "class": "math", "format": _block}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files, config):
    records = sorted((ROOT / "bench" / "results").glob("*"))
    for path in (*records, *(ROOT / name for name in PAGES)):
        files.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of the repository into those of the site, where docs/ is the root."""
    from_repository = page.file.src_uri in PAGES
    folder = "" if from_repository else posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match) -> str:
        start, link = match.groups()
        if ":" in link:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        target = target.removeprefix("docs/")
        return start + posixpath.relpath(target, here or ".")

    return LINK.sub(moved, markdown)
