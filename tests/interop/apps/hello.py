"""The front of the hello-world of distributed tracing: asks formatter, then tells publisher. Knows nothing of tracing."""

import os

import requests
from flask import Flask, request

app = Flask(__name__)


@app.route("/")
def hello():
    name = request.args["name"]
    greeting = call("FORMATTER_URL", "/format", helloTo=name)
    call("PUBLISHER_URL", "/publish", helloStr=greeting)
    return greeting


def call(service, path, **params):
    answer = requests.get(os.environ[service] + path, params=params, timeout=30)
    answer.raise_for_status()
    return answer.text


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
