"""Families of base models: each public module is one family and holds one object named ``FAMILY``.

Importing this package, or a family, imports neither torch nor Diffusers: they load inside the verbs.
"""
