"""What volumes hold: written in one sandbox, compared in another, on this host, and in S3."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

from Rig.environment import Environment
from Rig.waiting import eventually

FILES, LARGE_MIB = (1000, 1024) if os.environ.get("MARTLET_LONG") else (250, 32)
# A resync, and on a slow machine the start of rclone; a patience, not a measure.
HEALING_SECONDS = 100
# Some folders of many files, and a large one.
NAMES = ("many", "large")


def a_name() -> str:
    return f"test {secrets.token_hex(4)}"


def run(box: Any, command: str, timeout: int = 60) -> str:
    answer = box.process.exec(command, timeout=timeout)
    assert answer.exit_code == 0, f"{command}: {answer.exit_code} {answer.result}"
    return answer.result.strip()


def reads(box: Any, command: str, expected: str, within: float = HEALING_SECONDS) -> None:
    """What one view of a volume wrote, another sees; at once as a rule, and after some seconds for certain."""
    eventually(lambda: box.process.exec(command).result.strip() == expected, within, f"{command}: {expected}")


def fill(box: Any, folder: str) -> str:
    """Writes many files and a large one; their `checksum`."""
    run(box, f"mkdir {folder}/many && cd {folder}/many && for n in $(seq {FILES}); do echo $n > f$n; done", 120)
    run(box, f"head -c {LARGE_MIB << 20} /dev/urandom > {folder}/large", 600)
    return checksum(box, folder)


def checksum(box: Any, folder: str) -> str:
    """Of all that `fill` wrote, by name and content."""
    return run(box, f"cd {folder} && find {' '.join(NAMES)} -type f | LC_ALL=C sort | xargs sha256sum | sha256sum", 300)


def checksum_here(folder: Path) -> str:
    """The same of a folder of this host."""
    found = [each for name in NAMES for each in (folder / name, *folder.glob(f"{name}/**/*")) if each.is_file()]
    lines = [f"{digest(each)}  {each.relative_to(folder)}\n" for each in sorted(found)]
    return hashlib.sha256("".join(lines).encode()).hexdigest() + "  -"


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Mounts:
    """A host's side of volumes."""

    def __init__(self, environment: Environment) -> None:
        self._state = environment.state

    def server(self, volume: str) -> int | None:
        """The process of rclone that serves it."""
        point = str(self._state / "runner" / "volumes" / volume / "mnt").encode()
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if point in file.read_bytes().split(b"\0"):
                    return int(file.parent.name)
            except OSError:
                pass
        return None

    def stored(self, volume: str) -> Path:
        """Where its files are in the embedded S3."""
        return self._state / "s3" / "data" / "martlet-volumes" / volume

    def write_elsewhere(self, volume: str, name: str, text: str) -> None:
        """A file of the volume, written as another host would."""
        rclone = [self._state / "bin" / "rclone", "--config", self._state / "runner" / "volumes" / "rclone.conf"]
        target = f"volumes:martlet-volumes/{volume}/{name}"
        subprocess.run([*rclone, "rcat", target], input=text.encode(), check=True, timeout=60)
