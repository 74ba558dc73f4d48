"""Real HTTP servers of chat completions that misbehave on order; they know nothing of our code."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import Any

PROMPT_TOKENS, TOKENS_EACH = 11, 7
TESTS = Path(__file__).parents[1]


class Server(ThreadingHTTPServer):
    """Counts what it is asked; a subclass says what comes back.

    With `hold` no answer leaves before that many were asked at once, whatever the machine does
    meanwhile.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, hold: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.hold = hold
        self.asked = threading.Condition()
        self.requests: list[dict[str, Any]] = []
        self.running = self.most_running = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def note(self, entry: dict[str, Any]) -> None:
        """Called with each request in turn, before it is answered."""

    def respond(self, handler: "Handler", entry: dict[str, Any]) -> None:
        raise NotImplementedError


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    is_running = False

    def do_GET(self) -> None:
        is_there = self.path.startswith("/v1/")
        self.send(*((200, {"data": [{"id": "served"}]}) if is_there else (404, {})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "")
        entry = {"path": self.path, "body": body, "authorization": key, "time": time.monotonic()}
        server = self.server
        with server.asked:
            server.note(entry)
            server.requests.append(entry)
            self.is_running = True
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            server.asked.notify_all()
            server.asked.wait_for(lambda: server.most_running >= server.hold)
        try:
            server.respond(self, entry)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up
        finally:
            self._leave()

    def _leave(self) -> None:
        with self.server.asked:
            self.server.running -= self.is_running
            self.is_running = False

    def send(
        self, status: int, reply: str | dict[str, Any], length: int | None = None, **headers: str
    ) -> None:
        """The whole reply, or its first `length` characters of all that were promised."""
        text = reply if isinstance(reply, str) else json.dumps(reply)
        self._leave()  # the client may ask the next as soon as it has read this
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text[:length].encode())
        self.wfile.flush()

    def send_stream(self, events: Iterable[str], pause: float = 0.0) -> None:
        """Lines as they are written; the connection ends with the last."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in events:
            self.wfile.write(f"{event}\n\n".encode())
            self.wfile.flush()
            time.sleep(pause)
        self._leave()

    def log_message(self, *_: object) -> None:
        pass


class ChatServer(Server):
    """A teacher. `faults[i]` befalls request i, the last all that follow: "", a word of `respond`
    or a status code."""

    def __init__(self, faults: list[str], port: int = 0, hold: int = 0, **answers: Any) -> None:
        super().__init__(port, hold)
        self.faults, self.answers = faults, answers

    def note(self, entry: dict[str, Any]) -> None:
        entry["fault"] = self.faults[min(len(self.requests), len(self.faults) - 1)]

    def respond(self, handler: Handler, entry: dict[str, Any]) -> None:
        fault, body = entry["fault"], entry["body"]
        time.sleep(self.answers.get("seconds", 0.0))
        reply = json.dumps(self._reply(body))
        question = body["messages"][-1]["content"]
        fault = self.answers.get("failing", {}).get(question, fault)
        if question in self.answers.get("refused", []):
            handler.send(400, {"error": "context_length_exceeded"})
        elif fault.isdigit():
            key = entry["authorization"].removeprefix("Bearer ")
            said = self.answers.get("says", "no")
            handler.send(
                int(fault), {"error": f"{said}: {key}"}, Retry_After=self.answers.get("wait", "0.3")
            )
        elif fault == "cut":
            handler.send(200, reply, length=len(reply) // 2)
            handler.close_connection = True
        elif fault == "hang":
            threading.Event().wait()  # until the process is killed
        elif fault == "malformed":
            handler.send(200, reply[:-20])
        elif fault == "no_usage":
            handler.send(200, {**json.loads(reply), "usage": None})
        elif body.get("stream"):
            events = self._events(json.loads(reply))
            pause = self.answers.get("pause", 0.0)
            if fault == "comments":  # until the client goes
                handler.send_stream(chain(events[:1], repeat(": still here")), 0.05)
            else:
                handler.send_stream(
                    events[: len(events) // 2] if fault == "torn" else events, pause
                )
        else:
            handler.send(200, reply)

    def _events(self, reply: dict[str, Any]) -> list[str]:
        """Pieces of 5 characters, choices by turns; then how each ended, the usage, the end."""
        events, texts = [], {}
        for choice in reply["choices"]:
            texts[choice["index"]] = choice["message"]["content"]
        for start in range(0, max(map(len, texts.values())), 5):
            for index, text in texts.items():
                delta = {"index": index, "delta": {"content": text[start : start + 5]}}
                events.append({"choices": [delta]})
        ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in texts]
        events += [{"choices": ends}, {"choices": [], "usage": reply["usage"]}]
        return [f"data: {json.dumps(event)}" for event in events] + ["data: [DONE]"]

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Completion k says its seed; every second one is in the format asked for."""
        count = min(body["n"], self.answers.get("most_choices", 1000))
        choices = []
        for k in range(count):
            seed = body.get("seed", 0) + k  # greedy requests have none
            text = f"<think>seed {seed}</think>\n<answer>\\boxed{{{seed % 2 + 7}}}</answer>"
            message = {"role": "assistant", "content": text}
            choices.append({"index": k, "message": message, "finish_reason": "stop"})
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS_EACH * count}
        return {"object": "chat.completion", "choices": choices[::-1], "usage": usage}


class ChatProcess:
    """A ChatServer as a process that can be killed and started again on its port."""

    def __init__(self, log: Path, faults: list[str]) -> None:
        with ChatServer([""]) as free:
            self.port, self.url = free.server_port, free.url
        self.log = log
        self.start(faults)

    def start(self, faults: list[str]) -> None:
        """Returns when it listens."""
        script = TESTS / "support" / "processes" / "chat_server.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.port), str(self.log), ",".join(faults)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        while True:
            assert self.process.poll() is None
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Grader(Server):
    """The first word of a solution decides what comes back; counts how often each is graded."""

    def __init__(self, hold: int = 0) -> None:
        super().__init__(hold=hold)
        self.tries: Counter[str] = Counter()

    def note(self, entry: dict[str, Any]) -> None:
        prompt = entry["body"]["messages"][-1]["content"]
        solution = re.findall(r"<solution>\n(.*?)\n</solution>", prompt, re.DOTALL)[-1]
        self.tries[solution] += 1
        entry |= {"solution": solution, "try": self.tries[solution]}

    def respond(self, handler: Handler, entry: dict[str, Any]) -> None:
        say, _, rest = entry["solution"].partition(" ")
        if say == "status" or (say == "once" and entry["try"] == 1):
            handler.send(int(rest.split()[0]), "{}", Retry_After="0")
        elif say == "malformed":
            handler.send(200, '{"choices": [{"mess')
        elif say == "empty":
            handler.send(200, {"choices": []})
        elif say == "trickle":
            handler.send(200, " " * 10**6, length=1)
            while True:  # until the client goes
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        elif say == "hangup":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            time.sleep(0.05)
            reply = rest if say == "reply" else "It is fine.\nScore: 7"
            told = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS_EACH}
            usage = {"usage": told} if say == "usage" else {}
            choice = {"message": {"role": "assistant", "content": reply}}
            handler.send(200, {"choices": [choice], **usage})
