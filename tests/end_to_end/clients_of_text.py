"""What other programs make of our text LoRAs: llama.cpp's own converters, llama.cpp itself, vLLM's reader.

    PEERS_DIR=DIR [LLAMA_PYTHON=PYTHON] python tests/end_to_end/clients_of_text.py [KIND ...]

``DIR`` holds, at any depth, the sources of llama.cpp (``convert_lora_to_gguf.py``) and of vLLM
(``vllm/lora/utils.py``). ``PYTHON`` is an interpreter that has the package ``xllamacpp``, which brings
llama.cpp compiled. What is absent is printed as absent. For each kind of model a tiny random base with a
random adapter is made in a temporary folder; each line is a figure, and the exit code tells whether all of
them are small.

With real tokenizers under ``LORA_SCRIPTS_ASSETS/tokenizers`` (``qwen3``, ``llama2``, ``gemma``) llama.cpp
also reads texts, so that its cutting of words is compared with the tokenizer's own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402

from lora_scripts.adapters.attach import attach  # noqa: E402
from lora_scripts.adapters.spec import AdapterSpec  # noqa: E402
from lora_scripts.export.gguf_file import stored_tensors  # noqa: E402
from lora_scripts.export.gguf_names import ARCHITECTURES  # noqa: E402
from lora_scripts.export.peft_folder import write_peft  # noqa: E402
from lora_scripts.export.text_facts import TextFacts  # noqa: E402
from lora_scripts.export.text_proof import next_token_logits  # noqa: E402
from lora_scripts.families import _source  # noqa: E402
from lora_scripts.toolbox.gguf_export import export_gguf  # noqa: E402
from lora_scripts.toolbox.merge import merge  # noqa: E402
from tests.texts import small  # noqa: E402

TOKENIZERS = {"qwen2": "qwen3", "qwen3": "qwen3", "llama": "llama2", "mistral": "llama2", "gemma": "gemma"}
TEXTS = (
    "What can I do when the kettle leaks?",
    "您好，请问这款水壶的保修期是多久？",
    "def add(a, b):\n    return a + b  # 1234567\n",
    "It's 3.14,  isn't it?\n\n  Naïve café 🙂 DON'T",
)
SMALL = 1e-2
"""Wrong rows or scales make one and more; llama.cpp's GELU is a table in half precision (Gemma: 3e-3)."""
WORDS = 4000
"""How many of the likeliest next words are compared."""
RUN = """
import json, sys, xllamacpp as x
order = json.load(open(sys.argv[1]))
p = x.CommonParams()
p.model.path = order["model"]
p.n_ctx, p.n_parallel, p.warmup, p.use_jinja, p.verbosity = 512, 1, False, False, 0
p.cpuparams.n_threads = 1
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if order["lora"]:
    a = x.CommonAdapterLoraInfo()
    a.path, a.scale = order["lora"], 1.0
    p.lora_adapters = [a]
server, found = x.Server(p), []
for prompt in order["prompts"]:
    r = server.handle_completions({"prompt": prompt, "n_predict": 1, "n_probs": order["words"],
        "temperature": 0.0, "cache_prompt": False, "ignore_eos": True})
    r = json.loads(r) if isinstance(r, str) else r
    told = r["choices"][0].get("logprobs") or {"content": [{"top_logprobs": []}]}
    top = {t["id"]: t["logprob"] for t in told["content"][0]["top_logprobs"]}
    found.append({"tokens": r["usage"]["prompt_tokens"], "top": top})
json.dump(found, open(sys.argv[2], "w"))
"""


def found_in(folder: Path | None, name: str) -> Path | None:
    """The first file that ends in ``name`` below ``folder``."""
    return next(iter(sorted(folder.rglob(name))), None) if folder and folder.is_dir() else None


def make(folder: Path, kind: str, tokenizer: Any) -> tuple[Any, Any]:
    """A tiny base in ``folder/base`` with a random adapter in ``folder/lora``; both still in memory."""
    changes = {"sliding_window": None} if kind == "mistral" else {}
    small.write_model(folder / "base", kind, tokenizer=tokenizer, **changes)
    source = _source.resolve(str(folder / "base"))
    family: Any = _source.find("auto", source)
    model = family.load(source)
    adapter = attach(model, AdapterSpec(4, 6.0), seed=1)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.add_(0.1 * drawn)
    write_peft(folder / "lora", model, adapter, TextFacts("voice", {}))
    return model, adapter


def converted(script: Path, *words: str) -> str | None:
    """Runs one of llama.cpp's converters; its last words where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, env=environment
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


def distance(ours: Path, theirs: Path) -> str:
    """The largest relative distance of a tensor, or of adapters' ``B @ A``, and what only one has."""
    first, second = ({n: t for n, _, t in stored_tensors(path)} for path in (ours, theirs))
    alike = set(first) == set(second)
    names = sorted(
        {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in set(first) & set(second)}
    )
    scales = [scale_of(path) for path in (ours, theirs)]
    worst = 0.0
    for name in names:
        if f"{name}.lora_a" in first:
            a, b = (
                s * (found[f"{name}.lora_b"] @ found[f"{name}.lora_a"]) / found[f"{name}.lora_a"].shape[0]
                for s, found in zip(scales, (first, second), strict=True)
            )
        else:
            a, b = first[name], second[name]
        worst = max(worst, float((a - b).norm() / b.norm().clamp_min(1e-12)))
    told = f"{len(names)} tensors, largest relative distance {worst:.2g}"
    return told if alike else f"{told}; NAMES DIFFER {sorted(set(first) ^ set(second))[:4]}"


def heads(ours: Path, theirs: Path) -> str:
    """Entries that the two files say differently, but for names and sizes."""
    from lora_scripts.export.gguf_file import read_entries

    first, second = ({e.key: e.value for e in read_entries(path)} for path in (ours, theirs))
    apart = [key for key in sorted(set(first) | set(second)) if first.get(key) != second.get(key)]
    return ", ".join(key for key in apart if key.startswith("tokenizer.") or "general." not in key) or "none"


def scale_of(path: Path) -> float:
    from lora_scripts.export.gguf_file import read_entries

    return next((float(e.value) for e in read_entries(path) if e.key == "adapter.lora.alpha"), 1.0)


def llama_says(python: str, model: Path, lora: Path | None, prompts: list[Any], words: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        order, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        told = {"model": str(model), "lora": str(lora) if lora else "", "prompts": prompts, "words": words}
        order.write_text(json.dumps(told))
        done = subprocess.run([python, "-c", RUN, str(order), str(answer)], capture_output=True, text=True)
        return (
            json.loads(answer.read_text())
            if answer.is_file()
            else (done.stderr.strip().splitlines() or ["?"])[-1]
        )


def furthest(said: Any, wanted: torch.Tensor) -> float:
    """The largest difference of log-probabilities over the words that a prompt gives 1e-6 or more. A prompt
    after which llama.cpp says half a character has no figures."""
    expected = wanted.double().log_softmax(1)
    worst = 0.0
    for answer, row in zip(said, expected, strict=True):
        likely = [(str(i), value) for i, value in enumerate(row.tolist()) if value > -13.8]
        worst = max([worst, *(abs(answer["top"][i] - value) for i, value in likely if i in answer["top"])])
    return worst


def by_vllm(sources: Path, lora: Path) -> str:
    """vLLM's own parser of names over the adapter's, taken out of its source so that nothing of it is
    imported."""
    text = sources.read_text(encoding="utf-8")
    match = re.search(r"^def parse_fine_tuned_lora_name\(.*?(?=^def |\Z)", text, re.M | re.S)
    if not match:
        return "no parse_fine_tuned_lora_name in this version"
    names: dict[str, Any] = {"WeightsMapper": object}
    exec("from __future__ import annotations\n" + match[0], names)
    from safetensors import safe_open

    with safe_open(str(lora / "adapter_model.safetensors"), framework="pt") as handle:
        parsed = [names["parse_fine_tuned_lora_name"](name) for name in handle.keys()]  # noqa: SIM118
    config = json.loads((lora / "adapter_config.json").read_text())
    wanted = {"r", "lora_alpha", "target_modules", "bias", "use_rslora", "use_dora", "modules_to_save"}
    missing = sorted(wanted - config.keys())
    return f"{len(parsed)} names taken, such as {parsed[0]}; settings missing: {missing}"


def report(kind: str, peers: Path | None, python: str | None) -> bool:
    """Prints the figures of one kind; whether all are small."""
    from transformers import AutoTokenizer

    converter, model_converter = (found_in(peers, f"convert_{part}_to_gguf.py") for part in ("lora", "hf"))
    vllm = found_in(peers, "vllm/lora/utils.py")
    real = (
        Path(os.environ.get("LORA_SCRIPTS_ASSETS", ROOT.parent / "assets"))
        / "tokenizers"
        / TOKENIZERS.get(kind, "-")
    )
    tokenizer = AutoTokenizer.from_pretrained(str(real)) if real.is_dir() else small.chat_tokenizer()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, _ = make(folder, kind, tokenizer)
        base, lora, whole = folder / "base", folder / "lora", ARCHITECTURES[kind].whole
        fine = True
        export_gguf(None, [str(lora)], folder / "lora.gguf", outtype="f32")
        print(f"{kind}: words of {real.name if real.is_dir() else 'a small tokenizer'}")
        if converter is None:
            print("  llama.cpp's converters: absent")
        else:
            wrong = converted(
                converter, "--base", str(base), "--outfile", str(folder / "peer.gguf"), str(lora)
            )
            told = wrong or distance(folder / "lora.gguf", folder / "peer.gguf")
            print(f"  llama.cpp's adapter converter: {told}")
            fine &= wrong is None and "DIFFER" not in told
        if whole:
            export_gguf(None, [str(lora)], folder / "whole.gguf", merged=True, outtype="f32")
            export_gguf(None, [f"{lora}:0"], folder / "bare.gguf", merged=True, outtype="f32")
        if whole and model_converter is not None:
            merge(None, [str(lora)], folder / "merged")
            ours, theirs = folder / "whole.gguf", folder / "p.gguf"
            words = ("--outtype", "f32", "--outfile", str(theirs), str(folder / "merged"))
            wrong = converted(model_converter, *words)
            print(f"  llama.cpp's model converter: {wrong or distance(ours, theirs)}")
            if not wrong:
                print(f"  entries said differently: {heads(ours, theirs)}")
        if python is None:
            print("  llama.cpp itself: absent")
        elif whole:
            ids = [tokenizer(text)["input_ids"] for text in TEXTS]
            wanted = next_token_logits(model.predictor, ids)
            for name, file, adapter in (
                ("adapter", "bare.gguf", folder / "lora.gguf"),
                ("model", "whole.gguf", None),
            ):
                for how, prompts in (("ids", ids), ("texts", list(TEXTS))):
                    said = llama_says(python, folder / file, adapter, prompts, min(len(tokenizer), WORDS))
                    if isinstance(said, str):
                        print(f"  llama.cpp, {name}, {how}: {said}")
                        fine = False
                        continue
                    counts = [answer["tokens"] for answer in said]
                    off = furthest(said, wanted)
                    heard = sum(bool(answer["top"]) for answer in said)
                    told = f"log-probabilities after {heard} prompts differ by {off:.2g}"
                    told += f", tokens {counts}, ours {list(map(len, ids))}"
                    print(f"  llama.cpp, {name}, {how}: {told}", flush=True)
                    fine &= off < SMALL and heard > 0 and counts == list(map(len, ids))
        print(f"  vLLM's reader: {by_vllm(vllm, lora) if vllm else 'absent'}")
    return fine


def main() -> int:
    warnings.simplefilter("ignore")
    told = os.environ.get("PEERS_DIR")
    peers, python = Path(told) if told else None, os.environ.get("LLAMA_PYTHON")
    kinds = sys.argv[1:] or [kind for kind in ARCHITECTURES if kind != "granite"]
    return 0 if all([report(kind, peers, python) for kind in kinds]) else 1


if __name__ == "__main__":
    sys.exit(main())
