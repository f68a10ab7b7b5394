"""The values an adapter starts from: functions of the seed and a parameter's name, or of its base weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lora_scripts.core.seeds import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXACT_SIDE = 1024
"""Up to this smaller side singular vectors are computed exactly; above, by iteration."""
ROUNDS = 8
OVERSAMPLING = 16


def fill(parameter: torch.Tensor, name: str, seed: int) -> None:
    """Kaiming-uniform with a = sqrt(5) for the first matrix, zeros for the second (Hu et al. 2021, as PEFT
    and sd-scripts start), each parameter from a generator of its own, so that no other one shifts its
    values."""
    import torch

    if ".lora_B." in name:
        parameter.zero_()
        return
    bound = 1.0 / math.sqrt(parameter[0].numel())
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "adapter", name))
    drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    parameter.copy_(drawn)


def weight_of(layer: Any) -> Tensor:
    """The base weight (out, in) of a PEFT layer as float32, dequantised where it is stored in fewer bits."""
    from peft.utils.integrations import dequantize_module_weight

    weight: Tensor = dequantize_module_weight(layer.get_base_layer()).detach().float()
    return weight


def row_lengths(weight: Tensor) -> Tensor:
    """What a DoRA's magnitude starts from (Liu et al. 2024, eq. 2): the length of each output's weights,
    (out,); of a convolution (1, out, 1, 1), as PEFT keeps it."""
    lengths = weight.flatten(1).norm(dim=1)
    return lengths if weight.ndim == 2 else lengths.reshape(1, -1, *[1] * (weight.ndim - 2))


def principal(weight: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The ``rank`` largest singular values of ``weight`` (m, n) and their vectors: (m, rank), (rank,),
    (rank, n), float32. The same weight and name give the same bits; each right vector's largest entry is
    positive.

    Exact through the Gram matrix in float64 where a side is small; else by subspace iteration (Halko et al.
    2011, algorithm 4.4), whose vectors are as good as the gap between singular values allows.
    """
    import torch

    work = weight.double() if min(weight.shape) <= EXACT_SIDE else weight.float()
    wide = work if work.shape[0] <= work.shape[1] else work.T
    if min(weight.shape) <= EXACT_SIDE:
        left = torch.linalg.eigh(wide @ wide.T)[1].flip(1)[:, :rank]
    else:
        generator = torch.Generator("cpu").manual_seed(derive_seed(0, "pissa", name))
        columns = min(rank + OVERSAMPLING, wide.shape[0])
        drawn = torch.randn((wide.shape[1], columns), generator=generator).to(wide.device)
        basis = torch.linalg.qr(wide @ drawn)[0]
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.T @ basis)[0])[0]
        inner = torch.linalg.svd(basis.T @ wide, full_matrices=False)[0]
        left = (basis @ inner)[:, :rank]
    projected = left.T @ wide
    values = projected.norm(dim=1)
    right = projected / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None]
    if wide is not work:
        left, right = right.T, left.T
    largest = right.gather(1, right.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(right.dtype)
    return (left * signs.T).float(), values.float(), (right * signs).float()


def pissa(weight: Tensor, rank: int, scale: float, name: str) -> tuple[Tensor, Tensor]:
    """``A0`` (rank, in) and ``B0`` (out, rank) with ``scale * B0 @ A0`` the principal part of ``weight``
    (Meng et al. 2024, eq. 2 and 3), as PEFT's ``pissa``; zeros beyond the rank that a weight can have."""
    import torch

    left, values, right = principal(weight, rank, name)
    root = (values / scale).sqrt()
    missing = rank - len(values)
    first = torch.nn.functional.pad(root[:, None] * right, (0, 0, 0, missing))
    second = torch.nn.functional.pad(left * root, (0, missing))
    return first.contiguous(), second.contiguous()
