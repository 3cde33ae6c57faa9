"""A WebSocket echo and its client. `server` serves on PORT; `client` calls URL, through PROXY when that is set."""

import os
import sys

from websockets.sync.client import connect
from websockets.sync.server import serve


def echo(socket):
    for message in socket:
        socket.send(message)


def call():
    with connect(os.environ["URL"], proxy=os.environ.get("PROXY") or None) as socket:
        for message in ["text", b"\x00\xff" * 100_000, ""]:
            socket.send(message)
            assert socket.recv(timeout=20) == message
    print("all messages echoed")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        with serve(echo, "127.0.0.1", int(os.environ["PORT"])) as server:
            server.serve_forever()
    else:
        call()
