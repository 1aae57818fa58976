"""Sphinx's settings for the site; .ci/site.py lays out what it is built from."""

import os
from importlib.metadata import metadata

from docutils import nodes
from latex2mathml.converter import convert

REPOSITORY = os.environ["SITE_REPOSITORY"]

project = "agenticrec_lite"
author = "the agenticrec_lite contributors"
copyright = "Apache License 2.0"
release = metadata("agenticrec_lite")["Version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "index"
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets need a kernel; their text stands in for them

nb_execution_mode = "off"  # the notebooks are committed executed
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand once, in the class

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "agenticrec_lite"
html_copy_source = html_show_sourcelink = False
html_extra_path = ["extra"]
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "use_repository_button": True,
    "use_download_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}


def inline(translator, node) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator, node) -> None:
    translator.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app) -> None:
    """Formulas are MathML, which browsers draw by themselves: MathJax would be fetched from elsewhere."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
