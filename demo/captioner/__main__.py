"""`python -m demo.captioner`: draw, train, check and write the folder of the captioner `builtin:demo`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.captioner", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("output/demo_captioner"), help="unfinished state")
    parser.add_argument("--folder", type=Path, default=None, help="where the finished captioner goes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--score-only", action="store_true", help="score the finished captioner again")
    parser.add_argument("--pictures", type=int, default=400, help="unseen pictures that are scored per style")
    options = parser.parse_args(arguments)

    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    from demo.captioner import model, pictures, score, training, words

    if options.threads:
        torch.set_num_threads(options.threads)
    work: Path = options.work
    target = options.folder or model.FOLDER
    if not options.score_only:
        tokenizer = words.write_tokenizer(work / "tokenizer")
        trained = training.train(work, tokenizer)
        print(f"{target}: {model.write_folder(target, trained, tokenizer) / 1e6:.1f} MB")

    known = score.contents_of(pictures.draw(work)[1])
    captioner = BlipForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval()
    processor = BlipProcessor.from_pretrained(target)
    found: dict[str, dict[str, float]] = {}
    for style in (*pictures.STYLES, pictures.UNSEEN_STYLE):
        scenes, drawn = score.unseen(style, options.pictures, known)
        found[style] = score.judge(score.captions_of(captioner, processor, drawn), scenes)
        print(style, json.dumps({name: round(value, 3) for name, value in found[style].items()}), flush=True)
    (work / "score.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    low = [style for style in pictures.STYLES if found[style]["pictures"] < score.TARGET]
    for style in low:
        print(
            f"only {found[style]['pictures']:.1%} of unseen {style} pictures are right, "
            f"{score.TARGET:.0%} were wanted",
            file=sys.stderr,
        )
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
