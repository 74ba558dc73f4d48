"""Answers like a dashboard of Ray that is well, that knows another token, or that hangs.

python <somewhere>/ray/dashboard/dashboard.py well|token|hangs FILE   # FILE appears when it listens
"""

import contextlib
import http.server
import os
import socket
import sys
import time
from pathlib import Path

KIND, FILE = sys.argv[1:]
ANSWERS = {"/api/version": b'{"ray_version": "2.60.0", "version": "4"}', "/api/jobs/": b"[]"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if KIND == "hangs":
            time.sleep(1000)
        answer = ANSWERS[self.path]
        self.send_response(403 if KIND == "token" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


metrics = socket.socket()  # Ray's listens on a second port for them
with contextlib.suppress(OSError):  # another's, who was first
    metrics.bind(("127.0.0.1", int(os.environ["DASHBOARD_METRIC_PORT"])))
    metrics.listen()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
part = Path(f"{FILE}.part")
part.write_text(f"http://127.0.0.1:{server.server_port}")
part.rename(FILE)
server.serve_forever()
