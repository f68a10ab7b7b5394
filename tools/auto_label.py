"""The door to automatic captions: `python tools/auto_label.py --input DIR --output metadata.csv`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

from lora_scripts.door import enter

if __name__ == "__main__":
    sys.exit(enter("label", __file__))
