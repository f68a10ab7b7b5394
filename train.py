"""Trains a LoRA from one YAML file: the same as `lora-scripts train`, with whatever Python is typed."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "src"))

from lora_scripts.door import enter

if __name__ == "__main__":
    sys.exit(enter("train", __file__))
