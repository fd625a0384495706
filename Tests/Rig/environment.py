"""What `ops/test` (or `.martlet/env`) tells the suites about the Martlet under test."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

VARIABLES = {
    "DAYTONA_API_URL": "the API, such as http://127.0.0.1:3986/api",
    "DAYTONA_API_KEY": "an API key (mrt_…)",
    "DAYTONA_TARGET": "the region that sandboxes go to",
    "MARTLET_DATABASE_URL": "a superuser's login to Martlet's Postgres",
    "MARTLET_DOCKER_HOST": "the engine's socket, unix:///…/docker.sock",
    "MARTLET_STATE": "the folder with run/*.pid and log/",
    "MARTLET_STACK_CTL": "a command that takes `start|stop|kill9|restart api|runner|proxy|ssh-gateway|postgres|docker`",
    "MARTLET_BIN": "the martlet executable",
}


@dataclass(frozen=True)
class Environment:
    """One running Martlet."""

    api_url: str
    api_key: str
    target: str
    database_url: str
    docker_host: str
    state: Path
    stack_ctl: tuple[str, ...]
    binary: Path


def read_environment() -> Environment:
    """Reads every variable; raises `LookupError` that names all that are missing and what to run."""
    missing = [f"  {name}: {what}" for name, what in VARIABLES.items() if not os.environ.get(name)]
    if missing:
        raise LookupError(
            "these suites run against a real Martlet, and its environment is not set:\n"
            + "\n".join(missing)
            + "\nRun `ops/test`, which starts one, runs every suite and removes it again."
        )
    return Environment(
        api_url=os.environ["DAYTONA_API_URL"].rstrip("/"),
        api_key=os.environ["DAYTONA_API_KEY"],
        target=os.environ["DAYTONA_TARGET"],
        database_url=os.environ["MARTLET_DATABASE_URL"],
        docker_host=os.environ["MARTLET_DOCKER_HOST"],
        state=Path(os.environ["MARTLET_STATE"]),
        stack_ctl=tuple(shlex.split(os.environ["MARTLET_STACK_CTL"])),
        binary=Path(os.environ["MARTLET_BIN"]),
    )
