"""Sphinx settings; systems/, api/ and changelog.md are made by ``_ext/generated_pages.py`` from what is there."""

import sys
from pathlib import Path

import anytask

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "anytask"
author = copyright = "The anytask maintainers"
release = version = anytask.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "generated_pages",
]
html_theme = "furo"
html_title = "anytask"
html_static_path, html_css_files = ["_css"], ["tables.css"]
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": False}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Departures from the paper", "Source", ("Parameters every system has", "params_style")]
nitpicky = False
# Napoleon turns words such as "shape" in parameter types into cross-references, which match several attributes.
suppress_warnings = ["ref.python"]


def _skip_routing(app, what, name, obj, skip, options):
    """Leave out scikit-learn's metadata-routing methods: every estimator inherits them, and they say nothing of it."""
    return True if name.endswith("_request") or name == "get_metadata_routing" else None


def setup(app):
    app.connect("autodoc-skip-member", _skip_routing)
