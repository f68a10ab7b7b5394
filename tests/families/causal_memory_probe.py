"""Prints by how many MB anonymous memory grows at most while 4,096 tokens meet a head of 151,936 words."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import torch

from lora_scripts.families._heads import Head
from lora_scripts.families._token_loss import log_probs

WORDS, WIDTH, TOKENS = 151_936, 128, 4_096


class Bare(torch.nn.Module):
    def __init__(self, adapted: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WORDS, bias=False).bfloat16().requires_grad_(False)
        self.first = torch.nn.Parameter(torch.zeros(4, WIDTH)) if adapted else None
        self.second = torch.nn.Parameter(torch.zeros(WORDS, 4)) if adapted else None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        plain = self.layer(states)
        if self.first is None or self.second is None:
            return plain
        return plain + states @ self.first.T.to(states.dtype) @ self.second.T.to(states.dtype)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.layer if self.first is None else self


def anonymous() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    torch.set_num_threads(1)
    head = Head(Bare(sys.argv[1] == "adapted"), "linear", WORDS)
    states = torch.randn(TOKENS, WIDTH).bfloat16().requires_grad_()
    labels = torch.randint(0, WORDS, (TOKENS,))
    log_probs(states[:8], labels[:8], head).sum().backward()
    before, seen, done = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    log_probs(states, labels, head).sum().backward()
    done.set()
    watcher.join()
    print(max(seen) - before)


if __name__ == "__main__":
    main()
