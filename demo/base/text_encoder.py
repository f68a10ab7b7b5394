"""Stage 2: a small CLIP text model that first learns to name what a caption says, and is then frozen.

Trained together with the U-Net from nothing, it stays mute for too long and the U-Net learns to do without.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import ATTRIBUTES, varied
from demo.base.progress import Averaged, cosine, load_state, save_state, track
from demo.base.tokenizer import POSITIONS
from demo.world import sample_scene

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

WIDTH = 128
LAYERS = 3
HEADS = 4
STEPS = 500
BATCH = 48
RATE = 1.5e-3


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh text model for this tokenizer."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(12)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Ids (n, 77), padded as the pipeline pads."""
    return tokenizer(
        texts, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
    ).input_ids


def known_words(tokenizer: CLIPTokenizer) -> list[str]:
    """Whole words of the vocabulary, the stock from which strange phrases are made."""
    return sorted(
        piece.removesuffix("</w>")
        for piece in tokenizer.get_vocab()
        if piece.endswith("</w>") and len(piece) > 6 and piece[:-4].isascii() and piece[:-4].isalpha()
    )


def reader() -> torch.nn.Module:
    """Reads attributes out of hidden states as a U-Net would: each learned query attends to all tokens."""
    import torch

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = torch.nn.Parameter(torch.randn(len(ATTRIBUTES), WIDTH) * 0.5)
            self.key = torch.nn.Linear(WIDTH, WIDTH)
            self.value = torch.nn.Linear(WIDTH, WIDTH)
            self.heads = torch.nn.ModuleList(
                torch.nn.Linear(WIDTH, len(options) + 1) for options in ATTRIBUTES.values()
            )
            self.ends = torch.nn.ModuleList(
                torch.nn.Linear(WIDTH, len(options) + 1) for options in ATTRIBUTES.values()
            )

        def forward(
            self, hidden: torch.Tensor, pooled: torch.Tensor
        ) -> list[tuple[torch.Tensor, torch.Tensor]]:
            scores = torch.einsum("qc,btc->bqt", self.queries, self.key(hidden)) / WIDTH**0.5
            found = scores.softmax(-1) @ self.value(hidden)
            return [
                (head(found[:, index]), end(pooled))
                for index, (head, end) in enumerate(zip(self.heads, self.ends, strict=True))
            ]

    torch.manual_seed(13)
    return Reader()


def train(work: Path, tokenizer: CLIPTokenizer, steps: int = STEPS) -> CLIPTextModel:
    """Train (or go on) and return the averaged text model; prints the share of attributes read rightly."""
    import torch
    from torch.nn import functional

    model = build(tokenizer)
    both = torch.nn.ModuleDict({"text": model, "reader": reader()})
    optimizer = torch.optim.AdamW(both.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    averaged = Averaged(both, 0.995)
    state = work / "text_encoder.safetensors"
    done = load_state(state, both, averaged, optimizer)
    words = known_words(tokenizer)
    share = 0.0
    for step, notes in track(steps, "text encoder", done):
        rng = random.Random(5000 + step)
        made = [varied(sample_scene(rng), rng, words, omit=0.12, strange=0.4) for _ in range(BATCH)]
        ids = tokenize(tokenizer, [text for text, _ in made])
        wanted = torch.tensor([said for _, said in made])
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine(step, steps, warmup=100)
        output = both["text"](ids)
        answers = both["reader"](output.last_hidden_state, output.pooler_output)
        loss = sum(
            functional.cross_entropy(answer, wanted[:, index])
            for index, pair in enumerate(answers)
            for answer in pair
        ) / (2 * len(ATTRIBUTES))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(both, step)
        right = [
            (pair[0].argmax(-1) == wanted[:, index]).float().mean() for index, pair in enumerate(answers)
        ]
        share = 0.95 * share + 0.05 * torch.stack(right).mean().item()
        notes["right"] = f"{share:.3f}"
        if (step + 1) % 300 == 0 or step + 1 == steps:
            save_state(state, step + 1, both, averaged, optimizer)
    both.load_state_dict(averaged.values)
    return model.eval().requires_grad_(False)
