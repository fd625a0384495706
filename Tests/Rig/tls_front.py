"""nginx before a registry: the same over TLS, by a certificate that no machine trusts, and over plain HTTP elsewhere than on loopback."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from pathlib import Path

from Rig.children import dying_with_us
from Rig.database import Database
from Rig.network import free_port
from Rig.waiting import eventually

CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off; client_max_body_size 0; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen {secure} ssl; ssl_certificate {folder}/host.pem; ssl_certificate_key {folder}/host.key;
        location / {{ proxy_pass http://{upstream}; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https; }}
    }}
    server {{
        listen {plain};
        location / {{ proxy_pass http://{upstream}; proxy_set_header Host $http_host; }}
    }}
}}
"""


class TLSFront:
    """On an address of this machine that is not loopback's, which every engine would trust. An operator has opened both ports."""

    def __init__(self, upstream: str, address: str, database: Database) -> None:
        self._database = database
        self._folder = tempfile.TemporaryDirectory(prefix="martlet-test-front-")
        secure, plain = free_port(), free_port()
        while plain == secure:
            plain = free_port()
        self.secure, self.plain = f"{address}:{secure}", f"{address}:{plain}"
        self.authority, self.stranger = self._make_authority("ca"), self._make_authority("stranger")
        self._make_certificate(address)
        folder = Path(self._folder.name)
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(folder=folder, secure=self.secure, plain=self.plain, upstream=upstream)
        )
        self._nginx = subprocess.Popen(dying_with_us("nginx", "-c", folder / "nginx.conf"), stderr=subprocess.DEVNULL)
        for host in (self.secure, self.plain):
            eventually(lambda: self._listens(host), 20, f"nginx to listen on {host}")
            database.execute("INSERT INTO docker_registry (name, host) VALUES (:'host', :'host');", host=host)

    def close(self) -> None:
        for host in (self.secure, self.plain):
            self._database.execute("DELETE FROM docker_registry WHERE organization_id IS NULL AND host = :'host';", host=host)
        self._nginx.terminate()
        self._nginx.wait(20)
        self._folder.cleanup()

    @staticmethod
    def _listens(host: str) -> bool:
        address, _, port = host.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((address, int(port))) == 0

    def _make_authority(self, name: str) -> str:
        """Its certificate."""
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN=test {name}")  # fmt: skip
        return (Path(self._folder.name) / f"{name}.pem").read_text()

    def _make_certificate(self, address: str) -> None:
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "host.key",
                      "-out", "host.csr", "-subj", f"/CN={address}")  # fmt: skip
        (Path(self._folder.name) / "host.ext").write_text(f"subjectAltName=IP:{address}\n")
        self._openssl("x509", "-req", "-in", "host.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                      "-extfile", "host.ext", "-out", "host.pem")  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder.name, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
