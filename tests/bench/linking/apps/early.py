"""A thread for each connection, which answers before it has read the whole request, and calls after that."""

import socket
import threading
import time

from truth import BACKEND_PORT, HOST, PORT, Request


def call(path):
    with socket.create_connection((HOST, BACKEND_PORT)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        while connection.recv(65536):
            pass


def read_until(connection, end):
    text = b""
    while not text.endswith(end):
        byte = connection.recv(1)
        if not byte:
            raise EOFError
        text += byte
    return text


def serve(connection):
    with connection:
        try:
            while True:
                target = read_until(connection, b"\r\n").split()[1].decode()
                is_late = target.startswith("/late/")
                if not is_late:
                    read_until(connection, b"\r\n\r\n")
                    if not target.startswith("/jobs/"):
                        for path in Request(target).paths():
                            call(path)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                if is_late:
                    read_until(connection, b"\r\n\r\n")
                    time.sleep(0.002)
                    call(Request(target).path(0))
        except (EOFError, ConnectionError):
            pass


listener = socket.create_server(("127.0.0.1", PORT), backlog=512)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
