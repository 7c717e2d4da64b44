"""Builds the root file system of a Cella template from a recipe (TOML). See build_template.py."""

# Part of every template's identity: raise it whenever the same recipe would give another root.
BUILDER_VERSION = 1
