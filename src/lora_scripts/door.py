"""What stands before the packages: the doors `train.py` and `tools/auto_label.py`, and what set-up shares.

Only the standard library, and no syntax newer than Python 3.6: whatever `python` the user types must get as
far as the project's own environment, or as one sentence that says what to do.
"""

import json
import os
import subprocess
import sys

from lora_scripts.core.language import language

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = os.path.join(ROOT, ".venv")
MINIMUM_PYTHON = (3, 11)
MACHINE_ERROR = 4


def say(key: str, **params: object) -> str:
    """A sentence of the catalogue's `door.toml`, which keeps to one `"key" = "text"` a line.

    A Python before 3.11 has no TOML reader; such a line's two halves are JSON as well.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, "core", "messages", language(), "door.toml")
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name, equals, text = line.strip().partition(" = ")
            if equals and name == json.dumps(key):
                return str(json.loads(text)).format(**params)
    raise KeyError(key)


def tell(sentence: str) -> None:
    """Prints to stderr, whatever the console's encoding lacks."""
    encoding = sys.stderr.encoding or "ascii"
    sys.stderr.write(sentence.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


def environment_python() -> str:
    """The Python of the project's environment, whether or not it is there."""
    place = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(ENVIRONMENT, *place)


def setup_command() -> str:
    return "python scripts\\setup.py" if os.name == "nt" else "python3 scripts/setup.py"


def enter(command: str, script: str) -> int:
    """Carries out a command of `lora-scripts` here if this Python can, else goes on in `.venv`.

    Returns the exit code; on POSIX, going on replaces this process and does not return.
    """
    missing = _missing()
    if not missing:
        from lora_scripts.cli.main import run

        return run([command, *sys.argv[1:]])
    python = environment_python()
    inside = os.path.realpath(sys.prefix) == os.path.realpath(ENVIRONMENT)
    if not inside and os.path.exists(python):
        return _go_on(python, os.path.abspath(script))
    tell(_what_to_do(missing))
    return MACHINE_ERROR


def _missing() -> list:
    """What keeps this Python from doing the work: its own age, or names of packages."""
    if sys.version_info < MINIMUM_PYTHON:
        return ["python"]
    from lora_scripts.core.packages import installed, insufficient

    return insufficient(installed())


def _what_to_do(missing: list) -> str:
    if missing == ["python"]:
        have = ".".join(str(part) for part in sys.version_info[:3])
        return say("door.old_python", have=have, command=setup_command(), root=ROOT)
    return say("door.set_up", names=", ".join(missing[:4]), command=setup_command(), root=ROOT)


def _go_on(python: str, script: str) -> int:
    arguments = [python, script, *sys.argv[1:]]
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(python, arguments)  # noqa: S606 - our own Python, the words that the user typed
    child = subprocess.Popen(arguments)  # noqa: S603 - our own Python, the words that the user typed
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child heard it too, and decides how to end
