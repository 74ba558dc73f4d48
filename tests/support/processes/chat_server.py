"""Serves until it is killed; each request is a line of LOG before it is answered.

PYTHONPATH=tests python tests/support/processes/chat_server.py PORT LOG FAULT,FAULT,...
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from support.servers import ChatServer


class LoggedServer(ChatServer):
    def note(self, entry: dict[str, Any]) -> None:
        super().note(entry)
        with Path(sys.argv[2]).open("a") as file:
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    with LoggedServer(sys.argv[3].split(","), int(sys.argv[1]), seconds=0.1):
        threading.Event().wait()
