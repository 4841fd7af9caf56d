"""What the rows are tested with: raw HTTP, streams whose frame is checked, and victims.

Owns the client's side of a row and the checks that follow each (`unharmed`); a server's process is
live_server's. The victims are streams that run beside a row, whose ids, text and log-probabilities
must be those of a run without company.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sqlite3
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import live_server
from live_server import LiveServer

KEY = "sk-rows-0123456789abcdef"
WAIT_S = 60  # whoever takes longer hangs

# Sampled and greedy, with and without log-probabilities: (prompt, parameters).
VICTIMS = (
    ("Once upon a time", {"temperature": 0, "logprobs": 3}),
    ("Lily and Tom", {"temperature": 0.9, "top_p": 0.9, "seed": 7}),
    ("The little dog", {"temperature": 0, "frequency_penalty": 0.5}),
)
CANARY = {"prompt": "One day", "max_tokens": 8, "temperature": 0, "return_token_ids": True}


class RowServer(LiveServer):
    """A server that is told its keys here sends them with its own questions as well."""

    key = None

    def __init__(self, model, folder, *flags, key=None):
        self.key = key
        if key is not None:
            flags += ("--api-key", key)
        super().__init__(model, folder, *flags)

    @property
    def address(self):
        parts = urlsplit(self.url)
        return parts.hostname, parts.port

    @property
    def key_headers(self):
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def get(self, path, headers=None):
        return super().get(path, {**self.key_headers, **(headers or {})})

    def rss_bytes(self):
        status = open(f"/proc/{self.process.pid}/status", encoding="ascii").read()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


class Refused(AssertionError):
    """A stream that was answered with an error instead."""

    def __init__(self, status, body):
        super().__init__(status, body)
        self.status = status


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return error


def connect(server, receive_buffer=None, timeout=WAIT_S):
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(timeout)
    sock.connect(server.address)
    return sock


def reset(sock):
    """Ends a connection with RST, not with FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def encoded(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def request_bytes(server, method, path, body=None, headers=None):
    """A request as bytes. `headers` replace those that would be sent; None leaves one out."""
    lines = {"host": "localhost", **server.key_headers}
    if body is not None:
        body = encoded(body)
        lines |= {"content-type": "application/json", "content-length": str(len(body))}
    lines |= headers or {}
    head = f"{method} {path} HTTP/1.1\r\n".encode()
    for name, value in lines.items():
        if value is not None:
            value = value if isinstance(value, bytes) else str(value).encode("utf-8")
            head += name.encode() + b": " + value + b"\r\n"
    return head + b"\r\n" + (body or b"")


class Reader:
    """Reads answers from one connection, one after the other."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def fill(self):
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.fill():
                raise EOFError(self.buffer[:200])
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def exactly(self, count):
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError(self.buffer[:200])
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def head(self):
        """(status, headers) of the next answer that is not an interim one."""
        while True:
            lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, status = lines[0].split(" ")[:2]
            assert version == "HTTP/1.1", lines[0]
            headers = {}
            for line in lines[1:]:
                name, value = line.split(": ", 1)
                assert name not in headers, f"{name} comes twice"
                headers[name] = value
            if int(status) >= 200:
                return int(status), headers

    def chunks(self):
        """The chunks of a chunked body; ends with the last chunk."""
        while size := int(self.until(b"\r\n"), 16):
            yield self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        assert self.exactly(2) == b"\r\n"

    def answer(self, method="POST"):
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        else:
            has_body = method != "HEAD" and status not in (204, 304)
            body = self.exactly(int(headers["content-length"])) if has_body else b""
        return Answer(status, headers, body)

    def is_closed(self):
        """Whether the server closes, without another byte."""
        try:
            return not self.buffer and not self.fill()
        except ConnectionResetError:
            return True


def exchange(server, data, method="POST"):
    """Sends raw bytes, which need not be a request; the answer, and whether it closed."""
    with connect(server) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        reader = Reader(sock)
        answer = reader.answer(method)
        closes = answer.headers.get("connection") == "close"
        return answer, closes and reader.is_closed()


class Client:
    """One kept connection; it is opened again when the server has closed it."""

    def __init__(self, server):
        self.server = server
        self.reader = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.reader is not None:
            self.reader.sock.close()
            self.reader = None

    def send(self, method, path, body=None, headers=None):
        if self.reader is None:
            self.reader = Reader(connect(self.server))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end
            self.reader.sock.sendall(request_bytes(self.server, method, path, body, headers))
        return self.reader

    def ask(self, method, path, body=None, headers=None):
        answer = self.send(method, path, body, headers).answer(method)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def post(self, path, body, headers=None):
        return self.ask("POST", path, body, headers)

    def events(self, path, body, headers=None):
        """The events of a stream, as they come."""
        reader = self.send("POST", path, {**body, "stream": True}, headers)
        status, answer_headers = reader.head()
        if status != 200:
            size = int(answer_headers["content-length"])
            raise Refused(status, reader.exactly(size))
        return events_of(reader)

    def stream(self, path, body, headers=None):
        return Stream(self.events(path, body, headers))


def events_of(reader):
    """Yields the data of each event; checks that exactly one [DONE] comes, as the last."""
    is_done = False
    rest = b""
    for chunk in reader.chunks():
        rest += chunk
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            text = event.decode("utf-8")  # raises when a code point is cut or invalid
            if text.startswith(":"):
                continue
            assert not is_done, f"after [DONE]: {text}"
            assert text.startswith("data: ") and "\n" not in text, text
            data = text.removeprefix("data: ")
            is_done = data == "[DONE]"
            yield data if is_done else json.loads(data)
    assert is_done and not rest, f"no [DONE] but {rest}"


class Stream:
    """All of a stream, with exactly one terminal: a finish reason per choice, or one error."""

    def __init__(self, events, num_choices=1):
        self.text, self.ids, self.logprobs = "", [], []
        self.error, self.usage = None, None
        finishes = []
        for event in events:
            if event == "[DONE]":
                continue
            assert self.error is None, f"after the error: {event}"
            if "error" in event:
                self.error = event["error"]
                continue
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                self.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
                self.ids += choice.get("token_ids") or []
                if choice.get("logprobs"):
                    self.logprobs.append(choice["logprobs"])
                if choice["finish_reason"] is not None:
                    finishes.append((choice["index"], choice["finish_reason"]))
        if self.error is None:
            assert sorted(index for index, _ in finishes) == list(range(num_choices)), finishes
        else:
            assert len(finishes) < num_choices, finishes
        self.finish = finishes[0][1] if finishes else None

    @property
    def tokens(self):
        return self.ids, self.text, self.logprobs


def open_streams(server, count, body):
    """Streams of /v1/completions that have begun: their readers."""
    data = request_bytes(server, "POST", "/v1/completions", body)
    readers = [Reader(connect(server)) for _ in range(count)]
    for reader in readers:
        reader.sock.sendall(data)
    for reader in readers:
        assert reader.head()[0] == 200
    return readers


def victim_body(idx, max_tokens):
    prompt, extra = VICTIMS[idx]
    return {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True,
            "return_token_ids": True, **extra}


class Victims:
    """Streams, one after the other on each of three connections, until they are told to end."""

    def __init__(self, server, solo, max_tokens, reconnects=False):
        self.server, self.solo, self.max_tokens = server, solo, max_tokens
        self.reconnects = reconnects
        self.failures, self.num_streams = [], 0
        self.stopping = threading.Event()
        self.running = [threading.Event() for _ in VICTIMS]
        self.threads = [threading.Thread(target=self.run, args=(idx,), daemon=True)
                        for idx in range(len(VICTIMS))]
        for thread in self.threads:
            thread.start()
        for running in self.running:
            assert running.wait(WAIT_S), f"no victim began: {self.failures}"

    def read(self, events, idx):
        first = next(events)
        self.running[idx].set()
        found = Stream(iter([first, *events])).tokens
        assert found == self.solo[idx], (
            f"a victim got other tokens: {found} instead of {self.solo[idx]}")
        self.num_streams += 1

    def streams(self, idx):
        """Until told to end: True. False when the connection was closed between two answers."""
        with Client(self.server) as client:
            while True:
                try:
                    events = client.events("/v1/completions", victim_body(idx, self.max_tokens))
                except Refused as refused:
                    if refused.status != 429:
                        raise
                    self.stopping.wait(0.02)  # a full queue is the row's right; then again
                    continue
                except EOFError:
                    if not self.reconnects:
                        raise
                    return False
                self.read(events, idx)
                if self.stopping.is_set():
                    return True

    def run(self, idx):
        try:
            while not self.streams(idx):
                pass
        except Exception as error:  # pylint: disable=broad-except
            self.failures.append(f"victim {idx}: {error!r}"[:2000])
            self.running[idx].set()

    def finish(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a victim hangs"
        assert not self.failures, self.failures
        assert self.num_streams >= len(VICTIMS)


class Row:
    """One server whose rows run one by one; knows what victims and canary get alone."""

    def __init__(self, server, victim_tokens):
        self.server, self.victim_tokens = server, victim_tokens
        with Client(server) as client:
            self.solo = [client.stream("/v1/completions", victim_body(idx, victim_tokens)).tokens
                         for idx in range(len(VICTIMS))]
            self.canary = client.post("/v1/completions", CANARY).json()["choices"]
        assert all(len(ids) == victim_tokens for ids, _, _ in self.solo)

    @contextlib.contextmanager
    def unharmed(self, reconnects=False):
        """I1, I2, I3, I5 and I7 of whatever happens within. With `reconnects` the victims do as stock
        clients when a connection that idled between two answers turns out to be closed."""
        victims = Victims(self.server, self.solo, self.victim_tokens, reconnects)
        try:
            yield self.server
        finally:
            victims.stopping.set()
        victims.finish()
        assert self.server.process.poll() is None, self.server.log()[-2000:]
        self.server.wait_until_idle()
        with Client(self.server) as client:
            load = client.ask("GET", "/load").json()
            assert load == {"server_load": 0}
            canary = client.post("/v1/completions", CANARY)
            assert canary.json()["choices"] == self.canary


FINISHED = re.compile(r" info request id=(\S+) .*? finish=(\S+)")


def end_of_server(server):
    """Ends a server in order; every accepted request has exactly one row and one line."""
    assert server.stop() == 0, server.log()[-2000:]
    log = server.log()
    lines = Counter(FINISHED.findall(log))
    with contextlib.closing(sqlite3.connect(server.usage_db)) as database:
        rows = Counter(database.execute("SELECT request_id, finish FROM requests"))
    assert lines == rows, (lines - rows, rows - lines)
    for wrong in (" error ", "CHECK", "Sanitizer"):
        assert wrong not in log, [line for line in log.splitlines() if wrong in line][:5]


@contextlib.contextmanager
def started_by(script, folder, monkeypatch):
    """Servers start through a shell script: `script` may limit or redirect what `$BINARY` gets."""
    binary = live_server.find_binary()
    folder.mkdir()
    wrapper = folder / "slipstream"
    wrapper.write_text(f"#!/bin/sh\nBINARY={binary}\n{script}\n")
    wrapper.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("SLIPSTREAM_BUILD_DIR", str(folder))
        yield


def wait_until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def raise_file_limit(wanted):
    """As many files for this process as `wanted`, if that is allowed."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft >= wanted


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
