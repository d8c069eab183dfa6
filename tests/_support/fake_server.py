"""A local server with OpenAI's chat interface whose replies a test decides."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

from PIL import Image


def tokens(**shares: float) -> dict:
    """A reply that tells the first token's log-probabilities; the first share is the chosen token's."""
    top = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    logprobs = {"content": [top[0] | {"top_logprobs": top}]}
    return {"choices": [{"message": {"content": top[0]["token"]}, "logprobs": logprobs}]}


def text(content: str) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


class Reply:
    """A reply of another ``status`` with a ``body``."""

    status, body = 500, b""


def picture(request: dict, format: str = "png") -> Image.Image:
    """The image of a request."""
    address = request["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix(f"data:image/{format};base64,"))))


def question(request: dict) -> str:
    return request["messages"][0]["content"][1]["text"]


KINDS = (dict, int, tuple)


class Asked(list):
    """The requests so far, their ``headers``, and the most that were under way ``at_once``."""

    def __init__(self):
        super().__init__()
        self.headers, self.at_once, self._now, self._lock = [], 0, 0, threading.Lock()

    @contextmanager
    def under_way(self, request, headers):
        with self._lock:
            self.append(request)
            self.headers.append(headers)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        yield
        with self._lock:
            self._now -= 1


@contextmanager
def serving(answer):
    """(base url, the requests) of a server that replies ``answer(request)``: a dict as JSON, bytes as they are, a
    number as that HTTP status, (status, headers) with them, a ``Reply`` as it says."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with asked.under_way(request, dict(self.headers) | {"path": self.path}):
                reply = answer(request)
            status, headers = reply if isinstance(reply, tuple) else (reply if isinstance(reply, int) else 200, {})
            body = json.dumps(reply if status == 200 else {"no": status}).encode() if type(reply) in KINDS else reply
            if isinstance(reply, type):
                status, body = reply.status, reply.body
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client is gone
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    direct = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    try:
        with patch.dict(os.environ, direct):
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
