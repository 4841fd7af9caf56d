#!/usr/bin/env python3
"""A scripted engine: an OpenAI-compatible server that behaves as it is told, for campaign tests."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN_S = 0.0005


def compact(value):
    return json.dumps(value, separators=(",", ":"))


class Engine:
    def __init__(self, args):
        self.args = args
        self.num_requests = 0
        self.lock = threading.Lock()

    def next_number(self):
        with self.lock:
            self.num_requests += 1
            return self.num_requests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        is_ready = self.server.engine.args.behaviour != "never-ready"
        body = json.dumps({"data": [{"id": "tiny"}]}).encode() if self.path == "/v1/models" else b""
        self.send_response(200 if is_ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, text):
        self.wfile.write(f"{len(text):x}\r\n".encode() + text.encode() + b"\r\n")
        self.wfile.flush()

    def do_POST(self):
        engine = self.server.engine
        number = engine.next_number()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(engine.args.seen, "a", encoding="utf-8") as seen:
            seen.write(json.dumps([len(body["prompt"]), body["max_tokens"], body["prompt"]]) + "\n")
        late = number > engine.args.after
        if engine.args.behaviour == "refuse":
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for idx in range(body["max_tokens"]):
            if late and engine.args.behaviour == "hang":
                time.sleep(3600)
            if late and engine.args.behaviour == "crash" and idx == 1:
                print("fatal: the scripted end", flush=True)
                os._exit(7)
            time.sleep(engine.args.token_s)
            event = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
            self.chunk(f"data: {compact(event)}\n\n")
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        self.chunk(f"data: {compact({'choices': [], 'usage': usage})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        if engine.args.behaviour == "exit" and number == engine.args.after:
            os._exit(0)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--behaviour", default="healthy")
    parser.add_argument("--after", type=int, default=0, help="requests until it misbehaves")
    parser.add_argument("--token-s", type=float, default=TOKEN_S)
    parser.add_argument("--start-s", type=float, default=0.0)
    parser.add_argument("--seen", default="/dev/null", help="gets the length of each prompt")
    parser.add_argument("--pids", default="/dev/null", help="gets the engine's process ids")
    parser.add_argument("--version", action="store_true")
    args = parser.parse_args()
    if args.version:
        print("fake engine 1.2.3 (abcdef0)")
        return
    if args.behaviour == "crash-at-start":
        print("fatal: no such device", flush=True)
        sys.exit(3)
    if args.behaviour == "ignore-term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Engines have workers; they must not outlive their engine either.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(args.pids, "a", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()}\n{worker.pid}\n")
    time.sleep(args.start_s)
    server = Server((args.host, args.port), Handler)
    server.engine = Engine(args)
    server.serve_forever()


if __name__ == "__main__":
    main()
