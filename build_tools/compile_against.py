"""Recompiles every file of the last build that may include torch's headers, with those of another torch.

    python build_tools/compile_against.py <wheel of torch>    exit status 1 if one fails

A build against a newer torch does not show that the oldest one still has everything that the sources use.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"


def checks(commands, torch, root=ROOT):
    """{source: command that checks it against the headers in `torch`} of CMake's list of compile commands."""
    found = {}
    for entry in commands:
        source = Path(entry["file"])
        if source.suffix != ".cpp" or "/torch/include" not in entry["command"]:
            continue
        arguments = shlex.split(re.sub(r"(?<=-isystem )\S+/torch/include(?=\s)", f"{torch}/include", entry["command"]))
        found[str(source.relative_to(root))] = [*arguments[: arguments.index("-o")], "-fsyntax-only", str(source)]
    return found


def main(wheel):
    with tempfile.TemporaryDirectory() as directory:
        with zipfile.ZipFile(wheel) as archive:  # the libraries, 95% of it, stay packed
            archive.extractall(directory, [name for name in archive.namelist() if name.startswith("torch/include/")])
        torch = Path(directory) / "torch"
        compiled = checks(json.loads((BUILD / "compile_commands.json").read_text()), torch)
        failed = [name for name, command in compiled.items() if subprocess.run(command, cwd=BUILD).returncode]
        header = (torch / "include/torch/headeronly/version.h").read_text()
    version = re.search(r"(?s)define TORCH_VERSION .*?(\d\S*\d)", header)
    print(f"{', '.join(compiled)} with the headers of torch {version[1] if version else '?'}: "
          f"{', '.join(failed) + ' failed' if failed else 'ok'}")  # fmt: skip
    return bool(failed or not compiled)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
