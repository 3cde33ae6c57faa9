"""What every Python program of the benchmark shares: where it listens, whom it calls, which URL stands for which call."""

import hashlib
import os
from urllib.parse import parse_qs, urlsplit

PORT = int(os.environ["PORT"])
BACKEND = os.environ["BACKEND"]
HOST, BACKEND_PORT = urlsplit(BACKEND).hostname, urlsplit(BACKEND).port
OUT = os.environ.get("OUT", "pooled")
POOLED = OUT != "fresh"
CALLS = {"one": 1, "seq2": 2, "par2": 2, "fan8": 8, "sleep": 2, "executor": 1, "saturated": 2, "retry": 1, "late": 1}


class Request:
    """`/{pattern}/{id}`; with `?ids=kept` calls carry the id itself, otherwise a digest that only the judge can read."""

    def __init__(self, target):
        url = urlsplit(target)
        self.pattern, self.id = url.path.strip("/").split("/")
        self.kept = parse_qs(url.query).get("ids") == ["kept"]

    def path(self, index):
        if self.kept:
            return f"/call/{self.id}/{index}"
        if self.pattern == "retry":
            return "/flaky/" + self.digest(index)
        return "/call/" + self.digest(index)

    def digest(self, index):
        return hashlib.sha256(f"{self.id}:{index}".encode()).hexdigest()[:32]

    def paths(self):
        return [self.path(index) for index in range(CALLS[self.pattern])]
