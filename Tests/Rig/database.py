"""Martlet's Postgres by `psql`, as an operator uses it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any
from urllib.parse import unquote, urlsplit

STATEMENT_SECONDS = 60


class DatabaseError(Exception):
    """What psql said on stderr."""


class Database:
    """Runs SQL; parameters are psql variables, written `:'name'` in the text, so nothing is pasted into it."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._environment = {
            **os.environ,
            "PGHOST": parts.hostname or "127.0.0.1",
            "PGPORT": str(parts.port or 5432),
            "PGUSER": unquote(parts.username or "postgres"),
            "PGPASSWORD": unquote(parts.password or ""),
            "PGDATABASE": parts.path.lstrip("/") or "postgres",
            "PGCONNECT_TIMEOUT": "10",
        }

    def execute(self, text: str, **parameters: object) -> str:
        """Runs the text in one session and returns what it printed, unaligned."""
        command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
        for name, value in parameters.items():
            command += ["--set", f"{name}={value}"]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=self._environment, timeout=STATEMENT_SECONDS
        )
        if done.returncode != 0:
            raise DatabaseError(done.stderr.strip())
        return done.stdout.strip()

    def rows(self, query: str, role: str | None = None, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a SELECT, as `role` sees them."""
        enter = f"SET ROLE {role};\n" if role else ""
        text = self.execute(
            f"{enter}SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ({query}) AS q;", **parameters
        )
        return json.loads(text)

    def row(self, query: str, role: str | None = None, **parameters: object) -> dict[str, Any]:
        """The one row of a SELECT."""
        found = self.rows(query, role, **parameters)
        assert len(found) == 1, f"{len(found)} rows instead of one: {query}"
        return found[0]

    def value(self, query: str, role: str | None = None, **parameters: object) -> Any:
        """The one column of the one row of a SELECT."""
        (value,) = self.row(query, role, **parameters).values()
        return value
