"""Loads a base in a process of its own and prints the peak of its anonymous memory. Run by
test_single_file."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path


def anonymous() -> int:
    """Bytes of anonymous memory now; pages of mapped files are the system's to drop and do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


def main(path: str, dtype: str) -> None:
    import torch

    from lora_scripts.families import _source
    from lora_scripts.families._components import quiet_libraries

    quiet_libraries()
    import diffusers
    import transformers

    assert diffusers.UNet2DConditionModel
    assert diffusers.AutoencoderKL
    assert transformers.CLIPTextModel
    source = _source.resolve(path)
    family = _source.find("auto", source)
    before = peak = anonymous()
    running = True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = family.load(source, dtype=getattr(torch, dtype))
    seconds = time.perf_counter() - start
    running = False
    watcher.join()
    kept = sum(t.numel() * t.element_size() for m in model.modules.values() for t in m.state_dict().values())
    print(json.dumps({"peak": peak - before, "kept": kept, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
