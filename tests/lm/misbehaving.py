"""A real HTTP server on loopback that answers by a script: errors, delays, resets and broken JSON included."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(*texts: str, **fields: Any) -> dict[str, Any]:
    """A well-formed chat reply."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": "stop"}
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage} | fields


class Server:
    """``script`` items, one per request: a dict (sent as JSON), bytes (sent as is), ("status", code, headers) with or
    without a text, ("raw", bytes, headers), "broken", "hang", "reset", "drip" and "drip headers" (byte by
    byte), or a callable from the request's body to one of these. When it is exhausted, the last item is repeated.
    """

    def __init__(self, script: list[Any]) -> None:
        self.script, self.bodies, self.headers, self.paths = script, [], [], []
        self.lock, self.release = threading.Lock(), threading.Event()
        self.in_flight = self.most_in_flight = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    place = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append(self.headers)
                    outer.paths.append(self.path)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                try:
                    item = outer.script[min(place, len(outer.script) - 1)]
                    if item == "hang":
                        outer.release.wait()
                    elif callable(item):
                        item = item(body)
                finally:
                    with outer.lock:  # before the reply is sent, upon which the client may send its next request
                        outer.in_flight -= 1
                outer.send(self, item)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def send(self, handler: BaseHTTPRequestHandler, item: Any) -> None:
        status, headers, data = 200, {}, b""
        if item == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        if item == "hang":
            handler.close_connection = True
            return
        if item in ("drip", "drip headers"):
            self.drip(handler, item)
            return
        if item == "broken":
            data = b'{"choices": [{"message": '
        elif isinstance(item, bytes):
            data = item
        elif isinstance(item, tuple) and item[0] == "raw":
            _, data, headers = item
        elif isinstance(item, tuple):
            _, status, headers, *text = item
            data = (text or ['{"error": {"message": "on purpose"}}'])[0].encode()
        else:
            data = json.dumps(item).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        try:
            handler.wfile.write(data)
        except OSError:  # the client has gone
            handler.close_connection = True

    def drip(self, handler: BaseHTTPRequestHandler, what: str) -> None:
        """Send so slowly that no single read times out, and bounded: at most a minute, or until the server stops."""
        handler.close_connection = True
        start = b"HTTP/1.1 200 OK\r\n" + (b"" if what == "drip headers" else b"Content-Length: 100000\r\n\r\n")
        try:
            handler.connection.sendall(start)
            for _ in range(600):
                if self.release.wait(0.1):
                    return
                handler.connection.sendall(b"X")
        except OSError:
            return


@contextmanager
def serving(*script: Any | Callable[[dict[str, Any]], Any]) -> Iterator[Server]:
    server = Server(list(script))
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
