"""One thread for all connections, with blocking reads and writes: takes up whatever has come, then works on it in turn."""

import collections
import http.client
import select
import socket
import time

from truth import BACKEND_PORT, HOST, PORT, Request

backend = http.client.HTTPConnection(HOST, BACKEND_PORT)


def call(path):
    backend.request("GET", path)
    response = backend.getresponse()
    response.read()
    return response.status


def work(request):
    paths = request.paths()
    if request.pattern == "retry":
        while call(paths[0]) == 503:
            pass
    else:
        for path in paths:
            if request.pattern == "sleep":
                time.sleep(0.001)
            call(path)


def answer(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


listener = socket.create_server(("127.0.0.1", PORT), backlog=512)
connections, waiting = {listener}, collections.deque()
while True:
    for ready in select.select(connections, [], [], 0 if waiting else None)[0]:
        if ready is listener:
            connections.add(listener.accept()[0])
            continue
        head = ready.recv(65536)
        if head:
            waiting.append((ready, head.split()[1].decode()))
        else:
            connections.discard(ready)
            ready.close()
    if not waiting:
        continue
    connection, target = waiting.popleft()
    if target.startswith("/jobs/"):
        answer(connection)
        continue
    request = Request(target)
    if request.pattern != "late":
        work(request)
    answer(connection)
    if request.pattern == "late":
        work(request)
