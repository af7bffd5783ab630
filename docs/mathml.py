"""Formulas as MathML: browsers draw it by themselves, and no page needs a script."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)


def visit_inline(translator: Any, node: nodes.math) -> None:
    """A formula within a line."""
    translator.body.append(converted(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own line, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(converted(node, "block"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})</span>')
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def converted(node: nodes.Element, display: str) -> str:
    """MathML of a formula; what the converter does not know it leaves as it is, and the build fails with its place."""
    # a prime is raised and small by itself, and as a superscript would be so twice
    mathml: str = convert(node.astext().replace("'", "\N{PRIME}").replace(r"\_", "_"), display=display)
    if "\\" in mathml or "&amp;" in mathml:
        log.warning("expected a formula that latex2mathml knows all of, got: %s", node.astext(), location=node)
    return mathml


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
