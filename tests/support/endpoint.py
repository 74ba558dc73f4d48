"""A real HTTP server with the chat endpoint of OpenAI that behaves as each request's text says."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """`say` in a solution decides the answer: see `_respond`. Counts what it is asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.tries: Counter[str] = Counter()
        self.running = self.most_at_once = 0
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.answer(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "Endpoint":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append({"path": handler.path, **body})
            self.headers.append(dict(handler.headers))
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            self._respond(handler, body["messages"][-1]["content"])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up
        finally:
            with self.lock:
                self.running -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, prompt: str) -> None:
        solution = re.findall(r"<solution>\n(.*?)\n</solution>", prompt, re.DOTALL)[-1]
        with self.lock:
            self.tries[solution] += 1
            tries = self.tries[solution]
        say, _, rest = solution.partition(" ")
        if say == "status" or (say == "once" and tries == 1):
            self._send(handler, int(rest.split()[0]), b"{}")
        elif say == "malformed":
            self._send(handler, 200, b'{"choices": [{"mess')
        elif say == "empty":
            self._send(handler, 200, b'{"choices": []}')
        elif say == "trickle":
            handler.send_response(200)
            handler.end_headers()
            for _ in range(100):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        elif say == "hangup":
            handler.connection.close()
        else:
            time.sleep(0.05)
            reply = rest if say == "reply" else "It is fine.\nScore: 7"
            message = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
            self._send(handler, 200, json.dumps(message).encode())

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status != 200:
            handler.send_header("Retry-After", "0")
        handler.end_headers()
        handler.wfile.write(body)
