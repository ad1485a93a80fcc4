"""Sphinx: the site whose every picture and number was made by the code beside it."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
os.environ.setdefault("MPLBACKEND", "Agg")

project = "reid_explain"
author = "The reid_explain authors"
copyright = "The reid_explain authors, MIT license"
version = release = installed_version("reid-explain")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "mathml",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "offline_links",
]
nitpicky = False
exclude_patterns = [
    "_build",
    "_static/*.md",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/*.md5",
    "gallery/*.json",
]

# Pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

# Reference
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "within_subsection_order": "reading_order.ReadingOrder",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": (),
    "matplotlib_animations": False,
    "image_scrapers": ("matplotlib",),
    "min_reported_time": 1,
}

# Look
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "reid_explain"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False


def skip_field(app, what, name, member, skip, options):
    """Leave out the fields of named tuples: the docstring of the tuple has them."""
    return skip or (getattr(member, "__doc__", None) or "").startswith("Alias for field")


def setup(app):
    """Register with Sphinx."""
    app.connect("autodoc-skip-member", skip_field)
