"""Takes greetings. Knows nothing of tracing."""

import os
import time

from flask import Flask, request

app = Flask(__name__)


@app.route("/publish")
def publish():
    assert request.args["helloStr"]
    time.sleep(0.003)
    return "published"


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
