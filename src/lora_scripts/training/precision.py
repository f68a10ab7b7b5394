"""Mixed precision through ``torch.amp``: what the base is stored in, what is computed in, what is scaled."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INITIAL_SCALE = 2.0**12
"""fp16 losses of one picture are near 0.1: a start at 2**16 would only waste the first windows."""


@dataclass
class Precision:
    """``mode`` is ``fp16``, ``bf16`` or ``no``; the adapter and its optimizer are always fp32."""

    mode: str
    device: Any
    scaler: Any = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.mode == "fp16", init_scale=INITIAL_SCALE
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type that the frozen base is stored and computed in."""
        import torch

        return {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}[self.mode]

    def autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.mode != "no")


def resolve_mode(wanted: str, device: Any) -> str:
    """``auto`` becomes bf16 where the device computes it natively, fp16 on older cards, else ``no``."""
    import torch

    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "no"
