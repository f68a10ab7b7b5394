"""`python -m demo.reference`: what full fine-tuning reaches on the demo's data in the demo's number of steps.

The LoRA of configs/demo.yaml and the whole U-Net are trained by the same loop on the same windows and noise,
for three seeds, and measured by the trainer's own validation. The full run takes the best of a few learning
rates, so that the LoRA is not compared with a badly set rival.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import TYPE_CHECKING, Any

from demo.__main__ import CONFIG, ROOT
from demo.base.folder import FOLDER, fingerprint

if TYPE_CHECKING:
    from lora_scripts.training.session import Session

SEEDS = (42, 43, 44)
FULL_RATES = (2e-4, 5e-4, 1e-3)


def open_run(seed: int) -> Session:
    """The demo's session with another seed, ready to train."""
    from lora_scripts.config.load import load_config
    from lora_scripts.core.problems import raise_errors
    from lora_scripts.preflight.prepare import prepare
    from lora_scripts.training.precision import resolve_mode
    from lora_scripts.training.session import open_session, pick_device, resolve

    prepared = prepare(load_config(CONFIG, overrides=(f"seed={seed}", "preview.prompts=[]")))
    raise_errors(prepared.problems)
    device = pick_device()
    config = resolve(prepared, resolve_mode(prepared.config.mixed_precision, device))
    assert prepared.dataset is not None
    return open_session(prepared, config, prepared.dataset.fingerprint(), device, lambda *_: None)


def train_whole(session: Session, rate: float) -> None:
    """Swap the LoRA for all weights of the U-Net, in fp32, as what the session's job trains."""
    import torch

    from lora_scripts.adapters.attach import Adapter, detach
    from lora_scripts.training import optimizers

    detach(session.model, session.adapter)
    predictor = session.model.predictor
    predictor.float().requires_grad_(True).train()
    parameters = {f"unet.{name}": value for name, value in predictor.named_parameters()}
    assert all(value.dtype == torch.float32 for value in parameters.values())
    whole = Adapter(session.adapter.spec, parameters, {"unet": []}, {})
    session.adapter = whole
    assert session.evaluator is not None
    session.evaluator.adapter = whole
    groups = {"predictor": (parameters, rate)}
    optimizer = optimizers.build("adamw", groups, session.config.weight_decay)
    session.job = replace(session.job, parameters=parameters, optimizer=optimizer)


def run(session: Session, label: str) -> tuple[float, float]:
    """Train to the end; held-out loss before and after."""
    from demo.base.progress import track
    from lora_scripts.core.control import Control
    from lora_scripts.training.loop import fit
    from lora_scripts.training.state import TrainingState

    assert session.evaluator is not None
    before = session.evaluator.measure().loss
    bar = track(session.job.total_steps, label)

    def on_event(event: Any) -> None:
        _, notes = next(bar)
        notes["loss"] = f"{event.loss:.3f}"

    fit(session.job, TrainingState(), on_event, Control())
    return before, session.evaluator.measure().loss


def measure(seeds: tuple[int, ...], rates: tuple[float, ...]) -> dict[str, Any]:
    """The reference: losses, their spread over seeds, and gap_closed of the LoRA."""
    tried: dict[float, float] = {}
    for rate in rates if len(rates) > 1 else ():
        session = open_run(seeds[0])
        train_whole(session, rate)
        tried[rate] = run(session, f"whole U-Net, rate {rate}")[1]
        print(f"whole U-Net, rate {rate}: {tried[rate]:.5f}", flush=True)
    best = min(tried, key=lambda rate: tried[rate]) if tried else rates[0]
    rows = []
    steps = 0
    for seed in seeds:
        session = open_run(seed)
        steps = session.job.total_steps
        before, lora = run(session, f"LoRA, seed {seed}")
        if seed == seeds[0] and best in tried:
            full = tried[best]
        else:
            session = open_run(seed)
            train_whole(session, best)
            full = run(session, f"whole U-Net, seed {seed}")[1]
        gap = (before - lora) / (before - full)
        rows.append(
            {"seed": seed, "before": before, "after_lora": lora, "after_full": full, "gap_closed": gap}
        )
        print(json.dumps(rows[-1]), flush=True)
    return {
        "base": fingerprint(),
        "steps": steps,
        "full_learning_rate": best,
        "before": mean(row["before"] for row in rows),
        "after_lora": mean(row["after_lora"] for row in rows),
        "after_full": mean(row["after_full"] for row in rows),
        "gap_closed": mean(row["gap_closed"] for row in rows),
        "gap_closed_spread": pstdev(row["gap_closed"] for row in rows),
        "seeds": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.reference", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where reference.json goes")
    parser.add_argument("--rates", type=float, nargs="+", default=FULL_RATES, help="of the full fine-tuning")
    options = parser.parse_args(arguments)
    # The config names its folders as seen from the repository's root.
    with contextlib.chdir(ROOT):
        reference = measure(SEEDS, tuple(options.rates))
    path: Path = options.folder / "reference.json"
    path.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    print(f"gap closed {reference['gap_closed']:.1%} +- {reference['gap_closed_spread']:.1%}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
