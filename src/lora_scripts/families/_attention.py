"""Which attention a U-Net computes with: measured choices, by device, dtype and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PLAIN_UP_TO = 2048 * 2048
"""Queries times keys. Above it the plain score matrix costs more memory than the speed is worth."""


class ByShape:
    """Plain matrix products for small maps, the fused kernel for large ones."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.plain = AttnProcessor()
        self.fused = AttnProcessor2_0()

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        queries = hidden_states.shape[1] if hidden_states.ndim == 3 else hidden_states[0, 0].numel()
        keys = queries if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        chosen = self.plain if queries * keys <= PLAIN_UP_TO else self.fused
        return chosen(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def choose_attention(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    """On a CPU in half precision the fused kernel's backward pass is the slower one; elsewhere it is
    faster."""
    import torch

    if (
        device.type == "cpu"
        and dtype in (torch.bfloat16, torch.float16)
        and hasattr(module, "set_attn_processor")
    ):
        module.set_attn_processor(ByShape())
