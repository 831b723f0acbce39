"""A docker-registry on loopback with its own data directory, and the few requests the bench makes to it."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from layout import blob_path, first_image

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}
http: {{addr: "{address}", secret: bench}}
"""
INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
BLOB_TYPE = "application/vnd.oci.image.layer.nydus.blob.v1"
REQUEST = re.compile(r'"([A-Z]+) (/v2/\S*) HTTP/[\d.]+" \d{3} ')
READY_SECONDS = 10


@dataclass(frozen=True)
class Registry:
    """A running registry; ``address`` is ``host:port``, ``log`` its access log."""

    address: str
    pid: int
    log: Path

    def push_layout(self, layout: Path, repository: str) -> str:
        """Copy the first image of an OCI layout directory as ``repository:latest``; return the reference."""
        descriptor, image = first_image(layout)
        for blob in (image["config"], *image["layers"]):
            with blob_path(layout, blob["digest"]).open("rb") as content:
                self._push_blob(repository, blob, content)
        headers = {"Content-Type": descriptor["mediaType"]}
        manifest = blob_path(layout, descriptor["digest"]).read_bytes()
        self._request("PUT", f"/v2/{repository}/manifests/latest", manifest, headers).close()
        return f"{self.address}/{repository}:latest"

    def _push_blob(self, repository: str, blob: Mapping[str, Any], content: BinaryIO) -> None:
        with self._request("POST", f"/v2/{repository}/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        joint = "&" if "?" in location else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob["size"])}
        self._request("PUT", f"{location}{joint}digest={blob['digest']}", content, headers).close()

    def target_sizes(self, repository: str) -> tuple[int, int]:
        """Bytes of the data blobs and of the bootstrap layers of ``repository:latest``, all platforms together."""
        blobs = bootstraps = 0
        for manifest in self._manifests(repository, "latest"):
            for layer in manifest["layers"]:
                if layer["mediaType"] == BLOB_TYPE:
                    blobs += layer["size"]
                else:
                    bootstraps += layer["size"]
        return blobs, bootstraps

    def _manifests(self, repository: str, reference: str) -> Iterator[dict[str, Any]]:
        headers = {"Accept": ", ".join(INDEX_TYPES + MANIFEST_TYPES)}
        with self._request("GET", f"/v2/{repository}/manifests/{reference}", headers=headers) as answer:
            document = json.load(answer)
        for child in document.get("manifests", ()):
            yield from self._manifests(repository, child["digest"])
        if "layers" in document:
            yield document

    def _request(
        self, method: str, where: str, body: bytes | BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        url = where if where.startswith("http://") else f"http://{self.address}{where}"
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=60)

    def requests_since(self, offset: int) -> Counter[str]:
        """Requests of the access log after ``offset``, counted as ``METHOD kind`` (kind: blobs, manifests, …)."""
        with self.log.open("rb") as log:
            log.seek(offset)
            text = log.read().decode(errors="replace")
        found: Counter[str] = Counter()
        for method, path in REQUEST.findall(text):
            kind = next((kind for kind in ("blobs", "manifests", "referrers") if f"/{kind}/" in path), "other")
            found[f"{method} {kind}"] += 1
        return found


@contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    """Start Debian's docker-registry on a free port with its data in ``directory``; stop it at the end."""
    program = shutil.which("docker-registry")
    if program is None:
        raise SystemExit("docker-registry is not installed (Debian package docker-registry)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = directory / "registry.yml"
    config.write_text(CONFIG.format(data=json.dumps(str(directory / "data")), address=address))
    log = directory / "registry.log"
    with log.open("wb") as output:
        server = subprocess.Popen([program, "serve", str(config)], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(address, log)
        yield Registry(address, server.pid, log)
    finally:
        server.terminate()
        server.wait(timeout=10)


def wait_until_ready(address: str, log: Path) -> None:
    """Return when ``GET /v2/`` answers; end the program with the log's tail when it does not in time."""
    deadline = time.monotonic() + READY_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        try:
            opener.open(f"http://{address}/v2/", timeout=2).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise SystemExit(f"docker-registry did not start:\n{log.read_text(errors='replace')[-2000:]}")
