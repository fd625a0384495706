"""A git server over HTTP with basic authentication: `git http-backend` behind Python's own HTTP server.

    GIT_SERVER_USER=... GIT_SERVER_PASSWORD=... git_server.py ROOT

serves the repositories below ROOT on a free loopback port, prints `port N`, and ends with its standard input. The first part
of a path says how a repository is served: `/open/R.git` to anyone, `/private/R.git` to the user, `/denied/R.git` to nobody
(403), `/broken/R.git` with 503, `/stalled/R.git` never, `/away/PORT/...` redirects to that port. Each request leaves a line
`PATH AUTHORIZATION` in ROOT/seen. It needs no package, so that it also runs in a sandbox.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = user = password = ""
    writing = threading.Lock()

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.body())

    def serve(self, body: bytes) -> None:
        given = self.headers.get("Authorization")
        with self.writing, open(os.path.join(self.root, "seen"), "a") as seen:
            seen.write(f"{self.path} {given or '-'}\n")
        kind, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        if kind == "open":
            self.backend(rest, "anyone", body)
        elif kind == "private":
            expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if given == expected:
                self.backend(rest, self.user, body)
            else:
                self.answer(401, [("WWW-Authenticate", 'Basic realm="git"')])
        elif kind == "away":
            port, _, path = rest.partition("/")
            query = urlsplit(self.path).query
            self.answer(302, [("Location", f"http://127.0.0.1:{port}/{path}{'?' + query if query else ''}")])
        elif kind == "stalled":
            self.rfile.read(1)
        else:
            self.answer({"denied": 403, "broken": 503}.get(kind, 404), [])

    def backend(self, path: str, user: str, body: bytes) -> None:
        """Answers by `git http-backend`, a CGI program."""
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": self.root, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": f"/{path}", "REMOTE_USER": user,
            "REMOTE_ADDR": "127.0.0.1", "REQUEST_METHOD": self.command, "QUERY_STRING": urlsplit(self.path).query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.decode().split(": ", 1)) for line in head.split(b"\r\n") if b": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self.answer(status, [(name, value) for name, value in fields if name != "Status"], content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def answer(self, status: int, fields: list[tuple[str, str]], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Handler.root = os.path.realpath(sys.argv[1])
    Handler.user, Handler.password = os.environ["GIT_SERVER_USER"], os.environ["GIT_SERVER_PASSWORD"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"port {server.server_port}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
