"""`python -m demo.base`: draw, train all parts in order, check and write the folder of `builtin:demo`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.base", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("output/demo_base"), help="unfinished state")
    parser.add_argument("--folder", type=Path, default=None, help="where the finished base goes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--score-only", action="store_true", help="score the finished base again")
    parser.add_argument("--captions", type=int, default=200, help="unseen captions that are scored")
    options = parser.parse_args(arguments)

    import torch
    from transformers import CLIPTokenizer

    from demo.base import checker, folder, text_encoder, unet, vae
    from demo.base.pictures import scenes
    from demo.base.tokenizer import write_tokenizer

    if options.threads:
        torch.set_num_threads(options.threads)
    work: Path = options.work
    target = options.folder or folder.FOLDER
    work.mkdir(parents=True, exist_ok=True)
    if not options.score_only:
        write_tokenizer(work / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        autoencoder = vae.train(work)
        text_model = text_encoder.train(work, tokenizer)
        store = unet.encode(autoencoder, work)
        trained = unet.train(work, store, tokenizer, text_model)
        size = folder.write_folder(target, autoencoder, text_model, tokenizer, trained)
        print(f"{target}: {size / 1e6:.1f} MB")

    judge = checker.train(work)
    known = {scene.content() for scene in scenes(unet.PICTURES, 41, square=unet.SQUARE)}
    wanted = checker.unseen(options.captions, 61, known)
    made = checker.generate(folder.load_folder(target), wanted)
    score, whole = checker.judge(judge, made, wanted)
    checker.sheet(made).save(work / "unseen_captions.png")
    print(json.dumps({**asdict(score), "captions_scored": len(whole)}, indent=2))
    if score.captions < checker.TARGET:
        print(f"only {score.captions:.1%} of unseen captions are right, {checker.TARGET:.0%} were wanted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
