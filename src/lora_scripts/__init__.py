"""LoRA training from one YAML file.

Rooms, and who may import whom (left may import right):
``cli > training > preflight > export, toolbox > families > adapters, data > config > core``.
``core``, ``config`` and ``data`` never import torch.
"""

__version__ = "0.1.0"
