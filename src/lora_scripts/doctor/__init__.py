"""The data doctor: what in a folder of pictures and captions is worth mending. It changes nothing.

report = examine(Path("data/style"), settings=Settings(trigger="sks"), progress=None)
page.write(report, Path("output/dataset-check/style"))
"""

from .examination import examine
from .report import Finding, Item, Report, Settings

__all__ = ["Finding", "Item", "Report", "Settings", "examine"]
