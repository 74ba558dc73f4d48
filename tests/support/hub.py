"""A stand-in for the Hugging Face hub that takes uploads: small files in the commit, large ones by
LFS. What it was given can be read afterwards."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # of the one repository, by path
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    created: list[dict] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    puts: int = 0
    token: str = "hf_right"


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Authorization"] != f"Bearer {hub.token}":
                return self.answer(401, {"error": "Invalid credentials"})
            return self.answer(200, posted(hub, self.path, body))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
            hub.stored[self.path.rpartition("/")[2]] = body
            hub.puts += 1
            self.answer(200, {})

        def answer(self, status: int, tree: dict) -> None:
            written = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def posted(hub: Hub, path: str, body: bytes) -> dict:
    if path == "/api/repos/create":
        hub.created.append(json.loads(body))
        made = hub.created[-1]
        name = (
            f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
        )
        return {"url": f"{hub.url}/{name}", "name": name}
    if path == "/api/validate-yaml":
        return {"errors": [], "warnings": []}
    if "/preupload/" in path:
        files = json.loads(body)["files"]
        modes = [
            {"path": one["path"], "uploadMode": "lfs" if is_large(one) else "regular"}
            for one in files
        ]
        return {"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]}
    if path.endswith("/info/lfs/objects/batch"):
        objects = json.loads(body)["objects"]
        return {"transfer": "basic", "objects": [transfer(hub, one) for one in objects]}
    assert "/commit/" in path, path
    for line in body.decode().splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "header":
            hub.commits.append(value["summary"])
        elif entry["key"] == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            hub.files[value["path"]] = hub.stored[value["oid"]]
    repository = path.removeprefix("/api/models").partition("/commit/")[0]
    return {"commitUrl": f"{hub.url}{repository}/commit/1", "commitOid": "1" * 40, "success": True}


def is_large(file: dict) -> bool:
    return file["path"].endswith(".safetensors")


def transfer(hub: Hub, wanted: dict) -> dict:
    if wanted["oid"] in hub.stored:
        return wanted
    href = f"{hub.url}/upload/{wanted['oid']}"
    return {**wanted, "actions": {"upload": {"href": href, "header": {}}}}
