"""A small server of chat completions that misbehaves on order; knows nothing of our code.

`python tests/support/chat_server.py PORT LOG FAULT,FAULT,...` serves until it is killed.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROMPT_TOKENS, TOKENS_EACH = 11, 7


class ChatServer(ThreadingHTTPServer):
    """`faults[i % len]` befalls request i: "", a word of `_misbehave`, or a status code."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, faults: list[str], port: int = 0, **answers: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults, self.answers = faults, answers
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.running = self.most_running = 0
        self.report: Callable[[dict[str, Any]], None] = lambda entry: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "ChatServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class ChatProcess:
    """The same as a process that can be killed and started again on its port."""

    def __init__(self, log: Path, faults: list[str]) -> None:
        with ChatServer([""]) as free:
            self.port = free.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.command = [sys.executable, __file__, str(self.port), str(log), ",".join(faults)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "served"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.requests)
            fault = server.faults[number % len(server.faults)]
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            entry = {"body": body, "time": time.monotonic(), "fault": fault}
            entry["authorization"] = self.headers.get("Authorization", "")
            server.requests.append(entry)
            server.report(entry)
        try:
            time.sleep(server.answers.get("seconds", 0.0))
            self._answer(fault, body)
        finally:
            with server.lock:
                server.running -= 1

    def _answer(self, fault: str, body: dict[str, Any]) -> None:
        question = body["messages"][-1]["content"]
        if question in self.server.answers.get("refused", []):
            self._send(400, '{"error": "context_length_exceeded"}')
        elif fault.isdigit():
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            self._send(int(fault), json.dumps({"error": f"no: {key}"}), {"Retry-After": "0.3"})
        elif fault == "cut":
            text = json.dumps(reply(body, self.server.answers))
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2].encode())
            self.wfile.flush()
            self.close_connection = True
        elif fault == "malformed":
            self._send(200, json.dumps(reply(body, self.server.answers))[:-20])
        elif fault == "no_usage":
            self._send(200, json.dumps({**reply(body, self.server.answers), "usage": None}))
        else:
            self._send(200, json.dumps(reply(body, self.server.answers)))

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def reply(body: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """Completion k says its seed; every second one is in the format asked for."""
    count = min(body["n"], answers.get("most_choices", 1000))
    choices = []
    for k in range(count):
        seed = body["seed"] + k
        text = f"<think>seed {seed}</think>\n<answer>\\boxed{{{seed % 2 + 7}}}</answer>"
        message = {"role": "assistant", "content": text}
        choices.append({"index": k, "message": message, "finish_reason": "stop"})
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS_EACH * count}
    return {"object": "chat.completion", "choices": choices[::-1], "usage": usage}


if __name__ == "__main__":
    log = Path(sys.argv[2])
    with ChatServer(sys.argv[3].split(","), int(sys.argv[1]), seconds=0.1) as chat:

        def write(entry: dict[str, Any]) -> None:
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")

        chat.report = write
        threading.Event().wait()
