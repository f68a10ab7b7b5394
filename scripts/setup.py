"""Makes the project's environment in .venv and installs what it needs; what `make setup` runs.

Standard library only, and no syntax newer than Python 3.6: an old Python must get as far as saying so.
Running it again costs nothing while the project's requirements stay the same.
"""

import argparse
import glob
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

from lora_scripts.core.language import speak_unicode
from lora_scripts.door import (
    ENVIRONMENT,
    MACHINE_ERROR,
    MINIMUM_PYTHON,
    ROOT,
    environment_python,
    say,
    setup_command,
    tell,
)

CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
STAMP = os.path.join(ENVIRONMENT, "setup.json")
NEWEST_MINOR = 14
GIB = 2**30
SMALLEST_ROOM, LARGEST_ROOM = 3, 9
"""GiB that the environment takes: with a torch for the processor, and with everything for NVIDIA cards."""


class Stop(Exception):  # noqa: N818
    """A sentence for the user; the exit code is the machine's."""


def main(arguments):
    parser = argparse.ArgumentParser(prog="setup.py", description=say("setup.help"))
    parser.add_argument("--cuda", nargs="?", const="", metavar="COMMAND", help=say("setup.help.cuda"))
    parser.add_argument("--cpu", action="store_true", help=say("setup.help.cpu"))
    parser.add_argument("--force", action="store_true", help=say("setup.help.force"))
    options = parser.parse_args(arguments)
    speak_unicode()
    try:
        set_up(options)
    except Stop as stop:
        tell(str(stop))
        return MACHINE_ERROR
    return 0


def set_up(options):
    go_on_with_a_newer_python()
    check_python()
    before = read_stamp()
    index = torch_index(options, before)
    wanted = {"requirements": fingerprint(), "torch_index": index}
    if before == wanted and works(environment_python()) and not options.force:
        print(say("setup.ready"))
        return
    check_room()
    make_environment()
    install(index, renew_torch=index != before.get("torch_index"))
    with open(STAMP, "w", encoding="utf-8") as stamp:
        json.dump(wanted, stamp)
    if has_nvidia_card() and not torch_knows_cuda() and not options.cpu:
        print(say("setup.cpu_torch", command=setup_command()))
    print(say("setup.done"))


def go_on_with_a_newer_python():
    """Where `python3` is the system's old one, a newer one often stands beside it under its full name."""
    if sys.version_info >= MINIMUM_PYTHON or os.name == "nt":
        return
    for minor in range(NEWEST_MINOR, MINIMUM_PYTHON[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer and works(newer):
            os.execv(newer, [newer, os.path.abspath(__file__), *sys.argv[1:]])  # noqa: S606 - this Python, our own words


def check_python():
    if sys.version_info < MINIMUM_PYTHON:
        raise Stop(say("setup.old_python", have=".".join(map(str, sys.version_info[:3]))))
    for module in ("venv", "ensurepip"):
        try:
            importlib.import_module(module)
        except ImportError:
            raise Stop(say("setup.no_venv", module=module)) from None


def check_room():
    free = shutil.disk_usage(ROOT).free // GIB
    if free < SMALLEST_ROOM:
        raise Stop(say("setup.no_room", path=ROOT, free=free, needed=SMALLEST_ROOM))
    if free < LARGEST_ROOM:
        print(say("setup.little_room", free=free, needed=LARGEST_ROOM))


def fingerprint():
    """Changes with anything that an installation depends on."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as content:
            digest.update(content.read())
    return digest.hexdigest()


def read_stamp():
    try:
        with open(STAMP, encoding="utf-8") as stamp:
            return dict(json.load(stamp))
    except (OSError, ValueError):
        return {}


def works(python):
    """Whether an environment's Python starts and is new enough: an upgraded system breaks its links."""
    if not os.path.exists(python):
        return False
    check = f"import sys; sys.exit(sys.version_info < {MINIMUM_PYTHON!r})"
    return subprocess.call([python, "-c", check], stderr=subprocess.DEVNULL) == 0  # noqa: S603 - this Python, our own words


def make_environment():
    if works(environment_python()):
        return
    print(say("setup.create"), flush=True)
    run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT])


def install(index, renew_torch):
    pip = [environment_python(), "-m", "pip", "--disable-pip-version-check", "install"]
    if index and renew_torch:
        print(say("setup.torch"), flush=True)
        run([*pip, "--force-reinstall", pinned("torch"), "--index-url", index])
    print(say("setup.install"), flush=True)
    run([*pip, "--constraint", CONSTRAINTS, "--editable", ROOT + "[dev]"])


def pinned(name):
    """The line of constraints.txt for one package, such as `torch==2.13.0`."""
    with open(CONSTRAINTS, encoding="utf-8") as lines:
        return next(line.strip() for line in lines if line.startswith(name + "=="))


def run(command):
    if subprocess.call(command) != 0:  # noqa: S603 - this Python, our own words
        raise Stop(say("setup.failed"))


def torch_index(options, before):
    """The address that torch comes from, None for the ordinary one. Asks where a card would lie idle else."""
    if options.cpu:
        return None
    text = options.cuda or os.environ.get("TORCH_INDEX")
    if text:
        return index_in(text)
    if options.cuda is None and (before.get("torch_index") or not needs_index()):
        return before.get("torch_index")
    print(say("setup.which_cuda"))
    if not sys.stdin or not sys.stdin.isatty():
        raise Stop(say("setup.give_index", command=setup_command()))
    answer = input(say("setup.paste"))
    return index_in(answer) if answer.strip() else None


def index_in(text):
    """The address in a pasted installation command, or the address itself."""
    match = re.search(r"https://[^\s\"']+", text)
    if match is None:
        raise Stop(say("setup.no_index", text=text))
    return match.group()


def needs_index():
    """Windows alone gets a torch without CUDA from an ordinary installation."""
    return os.name == "nt" and has_nvidia_card() and not torch_knows_cuda()


def has_nvidia_card():
    return shutil.which("nvidia-smi") is not None


def torch_knows_cuda():
    pattern = os.path.join(glob.escape(ENVIRONMENT), "[Ll]ib", "**", "site-packages", "torch", "version.py")
    for path in glob.iglob(pattern, recursive=True):
        with open(path, encoding="utf-8") as text:
            return re.search(r"^cuda\b[^=\n]*= *['\"]", text.read(), re.MULTILINE) is not None
    return False


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
