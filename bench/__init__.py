"""Measurements against other trainers. Not part of the package; see bench/README.md."""
