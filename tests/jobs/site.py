"""A site on this machine that serves files and misbehaves as it is told; what was fetched from it, and what was said."""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from jobs.fetch import Fetcher
from pipeline.methods.datasets.sources import Source

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


@dataclass
class Site:
    """What the server has, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next connections is cut."""
    ranges: bool = True
    etag: str | None = '"one"'
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *arguments):
        """Nothing."""

    def do_GET(self):
        site, span = self.site, self.headers.get("Range")
        site.asked.append(span)
        content = site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        same = self.headers.get("If-Range") in (None, site.etag)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and site.ranges and same else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.etag:
            self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + site.cut_after.pop(0) if site.cut_after else len(content)
        self.wfile.write(content[start:end])
        self.close_connection = True


@contextlib.contextmanager
def serving():
    """A site on this machine."""
    found = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"site": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Here:
    """A root to fetch to, and what was said."""

    fetcher: Fetcher
    said: list[str]
    told: list[tuple[int, int | None]]

    @property
    def files(self):
        return sorted(str(path.relative_to(self.fetcher.root)) for path in self.fetcher.root.rglob("*") if path.is_file())


def source(site, content=CONTENT, *, file="sub/data.bin", md5=True, **options):
    """A file of the server, with its md5 published or not."""
    site.files["/data"] = content
    published = hashlib.md5(content).hexdigest() if md5 else None
    return Source(url=f"{site.url}/data", file=Path(file), md5=published, **options)
