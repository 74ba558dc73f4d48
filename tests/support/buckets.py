"""Servers of buckets on loopback, for the time of a test: a real S3 server, one of
Google's and, where it is installed, one of Azure's."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gcp_storage_emulator.server import create_server

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_REGION": "us-east-1",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Environment of its clients; it holds the bucket `runs`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **KEYS},
    )
    try:
        while True:
            assert server.poll() is None, "the S3 server ended"
            with contextlib.suppress(OSError):
                request = urllib.request.Request(f"{url}/runs", method="PUT")
                urllib.request.urlopen(request).close()
                break
            time.sleep(0.1)
        yield {**KEYS, "AWS_ENDPOINT_URL": url}
    finally:
        server.kill()
        server.wait()


class Tokens(http.server.BaseHTTPRequestHandler):
    """Gives a token to everyone: Google's client asks for one before it says a word."""

    def do_POST(self) -> None:
        body = json.dumps({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def google_server(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Query of the addresses of its bucket `runs`, and the environment of its clients; their
    credentials lie in the folder."""
    tokens = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    credentials = folder / "credentials.json"
    names = ("client_id", "client_secret", "refresh_token")
    uri = f"http://127.0.0.1:{tokens.server_port}/token"
    user = {"type": "authorized_user", "token_uri": uri, **dict.fromkeys(names, "testing")}
    credentials.write_text(json.dumps(user))
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="runs")
    server.start()
    assert server._api._httpd
    port = server._api._httpd.server_port
    try:
        yield (
            f"?endpoint_override=127.0.0.1:{port}&scheme=http&retry_limit_seconds=5",
            {"GOOGLE_APPLICATION_CREDENTIALS": str(credentials)},
        )
    finally:
        server.stop()
        tokens.shutdown()


@contextlib.contextmanager
def azure_server() -> Iterator[tuple[str, dict[str, str]]]:
    """What its addresses begin with, container included, and the environment of its clients.

    Azurite, npm's package; the account and its key are those that every Azurite has.
    """
    port, account = free_port(), "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    options = ["--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    server = subprocess.Popen(["azurite-blob", *options, "--blobPort", str(port)])
    try:
        while True:
            assert server.poll() is None, "the server of blobs ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"abfs://{account}@127.0.0.1:{port}/runs", {"AZURE_STORAGE_KEY": key}
    finally:
        server.kill()
        server.wait()
