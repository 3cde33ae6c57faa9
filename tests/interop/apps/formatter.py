"""Makes greetings. Knows nothing of tracing."""

import os
import time

from flask import Flask, request

app = Flask(__name__)


@app.route("/format")
def format():
    time.sleep(0.002)
    return "Hello, %s!" % request.args["helloTo"]


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
