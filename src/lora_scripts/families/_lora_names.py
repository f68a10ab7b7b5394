"""What the layers of a picture family's LoRAs are called in files, and how such files get onto a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Sheet


def load_lora(pipe: Any, path: Path, name: str) -> None:
    """Puts a LoRA onto a pipeline by Diffusers' own loader."""
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True)


class LoraNames:
    """The names of kohya's layout; a family whose files have others says so."""

    sheet: Sheet

    def load_lora(self, pipe: Any, path: Path, name: str) -> None:
        """Puts the LoRA in the file ``path`` onto ``pipe`` under ``name``."""
        load_lora(pipe, path, name)

    def names(self, component: str, module_name: str) -> str:
        """The kohya name of a module, without ``.lora_down.weight``; one-to-one over a model's modules."""
        part = self.sheet.components[component]
        inner = "" if module_name.startswith(part.inner) else part.inner
        return f"{part.kohya}_{(inner + module_name).replace('.', '_')}"

    def lora_groups(
        self, modules: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> dict[str, list[tuple[str, str]]]:
        """Name in kohya's layout of a weight of the original program -> (component, module) of each that it
        is made of, in the order of their rows, over ``Description.modules``. Empty for families whose files
        know every module by its own name."""
        return {}

    def modules_by_name(
        self, modules: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> dict[str, tuple[str, str]]:
        """The way back from ``names``: kohya name -> (component, module), over ``Description.modules``."""
        adapted = {name for name, part in self.sheet.components.items() if part.kohya}
        return {self.names(c, m): (c, m) for c, found in modules.items() if c in adapted for m in found}
