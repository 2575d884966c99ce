"""Count the round trips between a client and PostgreSQL, and delay them like a slower network.

`WireProxy` listens on the loopback interface and forwards to the real server from a process of
its own, so that it never competes for the interpreter lock of the program being measured::

    with WireProxy('127.0.0.1', 5432, delay_seconds=0.001) as proxy:
        engine = create_engine(proxy.dsn(url))
        ...
        proxy.reset()
        run_one_request(engine)
        assert proxy.snapshot().round_trips == 4

A round trip is a client's flush that the client waits on. One begins with a message sent while
the server owes nothing: every message before it has been answered, and the last one asked for an
answer (Query, Sync, Flush, ...). A flush in several TCP segments, or with several Syncs, is one.

The delay acts in full on the way to the server; answers pass at once. It is a line and not a
limit: a chunk leaves a fixed time after it came, however many are under way.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 256 * 1024
CONNECT_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0
# The kernel wakes a sleeper up to 50 µs late, plus scheduling: the rest of a wait is spun.
SPIN_SECONDS = 0.00015

LOOPBACK = "127.0.0.1"

ENCRYPTION_REQUESTS = {80877103: "SSLRequest", 80877104: "GSSENCRequest"}
CANCEL_REQUEST = 80877102
ENCRYPTION_REFUSED = b"N"

FRONTEND_NAMES = {
    "B": "Bind",
    "C": "Close",
    "D": "Describe",
    "E": "Execute",
    "F": "FunctionCall",
    "H": "Flush",
    "P": "Parse",
    "Q": "Query",
    "S": "Sync",
    "X": "Terminate",
    "c": "CopyDone",
    "d": "CopyData",
    "f": "CopyFail",
    "p": "Password",
}

# What a frontend message is answered with; the others wait for ReadyForQuery.
COMPLETES = {"1": "P", "2": "B", "3": "C", "T": "D", "n": "D", "C": "E", "I": "E", "s": "E"}
ANSWERED_BY_READY = frozenset("QFS")
ASKING = frozenset("QFSH")
COPYING = frozenset("dcf")


@dataclass(frozen=True)
class WireCount:
    """What went over the wire since the start or the last reset.

    `messages` counts the client's messages by protocol name, `queries` holds the SQL of Query and
    Parse in order, `connections` is the number of sessions begun. Bytes include the startup.
    """

    round_trips: int
    messages: dict[str, int]
    queries: list[str]
    bytes_sent: int
    bytes_received: int
    connections: int


@dataclass
class Tally:
    """The running counters behind a `WireCount`, shared by all connections of a proxy."""

    round_trips: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    connections: int = 0

    def reset(self) -> None:
        """Start again from nothing."""
        vars(self).update(vars(Tally()))


class Frames:
    """Cut a stream of bytes into protocol messages, however TCP has segmented it."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield type and body of each message that the chunk completes."""
        self._pending += chunk
        start, available = 0, len(self._pending)
        while available - start >= 5:
            (length,) = struct.unpack_from("!I", self._pending, start + 1)
            end = start + 1 + length
            if end > available:
                break
            yield chr(self._pending[start]), bytes(self._pending[start + 5 : end])
            start = end
        del self._pending[:start]


class Conversation:
    """Follow one connection's messages and know when the client begins a round trip."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.is_opening = True
        self._opening = bytearray()
        self._requests = Frames()
        self._answers = Frames()
        self._is_ready = False
        self._has_asked = True
        self._is_copying = False
        self._owed: deque[str] = deque()

    def open(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Read the client's untyped first packets.

        Return what to forward to the server and what to answer at once: encryption is refused
        here, as nobody could count what is encrypted.
        """
        self._opening += chunk
        answer = b""
        while self.is_opening and len(self._opening) >= 8:
            _, code = struct.unpack_from("!II", self._opening)
            if code not in ENCRYPTION_REQUESTS:
                return self._begin(code), answer
            self.tally.messages[ENCRYPTION_REQUESTS[code]] += 1
            self.tally.bytes_sent += 8
            answer += ENCRYPTION_REFUSED
            del self._opening[:8]
        return b"", answer

    def _begin(self, code: int) -> bytes:
        (length,) = struct.unpack_from("!I", self._opening)
        if len(self._opening) < length:
            return b""
        self.is_opening = False
        is_cancel = code == CANCEL_REQUEST
        self.tally.messages["CancelRequest" if is_cancel else "Startup"] += 1
        self.tally.connections += not is_cancel
        self.tally.bytes_sent += length
        packet = bytes(self._opening)
        self.note_requests(packet[length:])
        return packet

    def note_requests(self, chunk: bytes) -> None:
        """Count what the client sent, before its answer is noted."""
        self.tally.bytes_sent += len(chunk)
        for kind, body in self._requests.feed(chunk):
            self.tally.messages[FRONTEND_NAMES.get(kind, kind)] += 1
            if kind in "QP":
                self.tally.queries.append(_sql(kind, body))
            if self._is_ready and kind != "X":
                self._request(kind)

    def _request(self, kind: str) -> None:
        # The rest of a COPY that the server has already ended with an error is thrown away there.
        if kind in COPYING and not self._is_copying:
            return
        # A Flush with nothing to be flushed is not answered, and nobody waits for it: psycopg
        # sends one after the Sync of a pipeline, before or after the answer has come.
        if kind == "H" and not self._owed:
            return
        if self._has_asked and not self._owed:
            self.tally.round_trips += 1
        self._owe(kind)

    def _owe(self, kind: str) -> None:
        if not self._is_copying:
            self._owed.extend(kind * (kind != "H"))
            self._has_asked = kind in ASKING
        elif not self._owed:
            # One ReadyForQuery ends a COPY, whether a Sync follows its data or not.
            self._owed.append("S")

    def note_answers(self, chunk: bytes) -> None:
        """Strike off what the server has answered."""
        self.tally.bytes_received += len(chunk)
        for kind, _ in self._answers.feed(chunk):
            self._answer(kind)

    def _answer(self, kind: str) -> None:
        if kind == "Z":
            self._settle(through_ready=True)
            self._is_ready, self._is_copying = True, False
        elif kind == "E":
            self._settle(through_ready=False)
        elif kind in "GW":
            # CopyInResponse, CopyBothResponse: it is the client's turn, in the same command.
            self._owed.clear()
            self._is_copying = self._has_asked = True
        elif self._owed and COMPLETES.get(kind) == self._owed[0]:
            self._owed.popleft()

    def _settle(self, *, through_ready: bool) -> None:
        while self._owed and self._owed[0] not in ANSWERED_BY_READY:
            self._owed.popleft()
        if self._owed and through_ready:
            self._owed.popleft()


def _sql(kind: str, body: bytes) -> str:
    # Parse: name of the statement, SQL, parameter types; Query: SQL alone.
    return body.split(b"\0", 2)[1 if kind == "P" else 0].decode(errors="replace")


class End:
    """One socket of a link, with what could not be written to it yet."""

    def __init__(self, link: Link, sock: socket.socket) -> None:
        self.link = link
        self.socket = sock
        self.backlog = bytearray()
        self.watched = 0
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> bytes | None:
        """Return what has come, nothing at the end of the stream, None if nothing came yet."""
        try:
            return self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """Write what the socket takes now and keep the rest."""
        self.backlog += data
        try:
            del self.backlog[: self.socket.send(self.backlog)]
        except BlockingIOError:
            pass
        except OSError:
            # The reading side notices the loss.
            self.backlog.clear()


class Link:
    """A client's connection and its twin to the server."""

    def __init__(self, tally: Tally, client: socket.socket, server: socket.socket) -> None:
        self.conversation = Conversation(tally)
        self.client = End(self, client)
        self.server = End(self, server)
        self.is_open = True

    def other(self, end: End) -> End:
        """Return where the data of one end goes to."""
        return self.server if end is self.client else self.client


class Relay:
    """The forwarding loop: one thread, so that a count always precedes its answer."""

    def __init__(
        self, host: str, port: int, delay_seconds: float, control_fileno: int = 0
    ) -> None:
        self._target = (host, port)
        self._delay_seconds = delay_seconds
        self._control_fileno = control_fileno
        self._line: deque[tuple[float, End, bytes]] = deque()
        self._links: set[Link] = set()
        self.tally = Tally()
        self._is_paused = False
        self._is_running = True
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._control_fileno, selectors.EVENT_READ)
        self.port: int = self._listener.getsockname()[1]
        self._reply(self.port)

    def run(self) -> None:
        """Forward until the control channel closes."""
        while self._is_running:
            self.step()

    def close(self) -> None:
        """Close all sockets."""
        self._kill()
        self._selector.close()
        self._listener.close()

    def step(self) -> None:
        """Wait until something happens or is due, and serve it."""
        self._handle(self._ready())
        self._deliver_due()

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._line:
            return self._selector.select()
        rest = self._line[0][0] - perf_counter() - SPIN_SECONDS
        if rest > 0:
            # epoll_wait() counts in milliseconds, select() on the epoll object in microseconds.
            select.select([self._selector], [], [], rest)
        return self._selector.select(0)

    def _handle(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        is_controlled = False
        for key, mask in events:
            if key.data is not None:
                self._serve(key.data, mask)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                is_controlled = True
        if is_controlled:
            self._control()

    def _serve(self, end: End, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and end.link.is_open:
            self._send(end, b"")
        if mask & selectors.EVENT_READ and end.link.is_open:
            self._pull(end)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(self._target, CONNECT_TIMEOUT_SECONDS)
        except OSError:
            client.close()
            return
        link = Link(self.tally, client, server)
        self._links.add(link)
        self._watch(link)

    def _watch(self, link: Link) -> None:
        """Wait for what can be used: no reading while the other side cannot take more."""
        for end in (link.client, link.server):
            is_held = bool(link.other(end).backlog) or (self._is_paused and end is link.server)
            wanted = selectors.EVENT_READ * (not is_held)
            wanted |= selectors.EVENT_WRITE * bool(end.backlog)
            if wanted and end.watched:
                self._selector.modify(end.socket, wanted, end)
            elif wanted:
                self._selector.register(end.socket, wanted, end)
            elif end.watched:
                self._selector.unregister(end.socket)
            end.watched = wanted

    def _pull(self, end: End) -> None:
        chunk = end.receive()
        if chunk is None:
            return
        if end is end.link.client:
            self._pull_requests(end.link, chunk)
        else:
            self._pull_answers(end.link, chunk)

    def _pull_requests(self, link: Link, chunk: bytes) -> None:
        conversation = link.conversation
        if conversation.is_opening and chunk:
            chunk, answer = conversation.open(chunk)
            if answer:
                self._delay(link.client, answer)
            if chunk:
                self._delay(link.server, chunk)
            return
        self._delay(link.server, chunk)
        conversation.note_requests(chunk)

    def _pull_answers(self, link: Link, chunk: bytes) -> None:
        # What the client sent before it could see this answer belongs to the same round trip.
        early = None if link.server.backlog else link.client.receive()
        if early:
            self._pull_requests(link, early)
        self._deliver(link.client, chunk)
        link.conversation.note_answers(chunk)

    def _delay(self, end: End, chunk: bytes) -> None:
        if self._delay_seconds:
            self._line.append((perf_counter() + self._delay_seconds, end, chunk))
        else:
            self._deliver(end, chunk)

    def _deliver_due(self) -> None:
        while self._line and self._line[0][0] <= perf_counter():
            _, end, chunk = self._line.popleft()
            self._deliver(end, chunk)

    def _deliver(self, end: End, chunk: bytes) -> None:
        """Hand a chunk on; the empty one, the end of the stream, closes both sides."""
        if not end.link.is_open:
            return
        if chunk:
            self._send(end, chunk)
        else:
            self._close(end.link)

    def _send(self, end: End, chunk: bytes) -> None:
        end.send(chunk)
        if bool(end.backlog) != bool(end.watched & selectors.EVENT_WRITE):
            self._watch(end.link)

    def _close(self, link: Link) -> None:
        link.is_open = False
        self._links.discard(link)
        for end in (link.client, link.server):
            if end.watched:
                self._selector.unregister(end.socket)
            end.socket.close()

    def _control(self) -> None:
        # Served last of its batch: whatever the client did before its command is counted.
        commands = os.read(self._control_fileno, CHUNK_BYTES).decode().split()
        self._is_running = bool(commands)
        for command in commands:
            self._reply(self._execute(command))

    def _reply(self, value: object) -> None:
        print(json.dumps(value), flush=True)

    def _execute(self, command: str) -> object:
        match command:
            case "snapshot":
                return vars(self.tally)
            case "reset":
                self.tally.reset()
            case "kill":
                self._kill()
            case "pause" | "resume":
                self._pause(is_paused=command == "pause")
            case _:
                return f"unknown command: {command}"
        return None

    def _kill(self) -> None:
        for link in list(self._links):
            self._close(link)

    def _pause(self, *, is_paused: bool) -> None:
        self._is_paused = is_paused
        for link in self._links:
            self._watch(link)


class WireProxy:
    """A proxy in front of a PostgreSQL server that counts, delays and severs.

    Its process lives from `__enter__` to `__exit__`. Everything answered to the client before
    `snapshot()` or `reset()` is called is part of what they see.
    """

    def __init__(self, host: str, port: int, delay_seconds: float = 0.0) -> None:
        self._arguments = [host, str(port), str(delay_seconds)]
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.host = LOOPBACK
        self.port = 0

    def __enter__(self) -> Self:
        # Isolated: the directory of this file holds modules that must not shadow the library's.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = self._receive()
        return self

    def __exit__(self, *exc_info: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def dsn(self, dsn: str) -> str:
        """Return the URL with the proxy's address in place of the server's, unencrypted.

        Takes libpq's URLs and SQLAlchemy's. asyncpg knows no `gssencmode`: give it a
        `postgresql+asyncpg://` URL through SQLAlchemy, or `host` and `port` as arguments.
        """
        url = urlsplit(dsn)
        credentials, at_sign, _ = url.netloc.rpartition("@")
        options = dict(parse_qsl(url.query, keep_blank_values=True))
        for name in ("host", "hostaddr", "port", "ssl", "sslmode", "gssencmode"):
            options.pop(name, None)
        options |= _unencrypted(url.scheme)
        return url._replace(
            netloc=f"{credentials}{at_sign}{self.host}:{self.port}",
            query=urlencode(options, quote_via=quote),
        ).geturl()

    def snapshot(self) -> WireCount:
        """Return the counts since the start or the last reset."""
        return WireCount(**self._ask("snapshot"))

    def reset(self) -> None:
        """Begin to count from nothing; open connections stay open."""
        self._ask("reset")

    def kill_connections(self) -> None:
        """Sever every connection on both sides, dropping what is under way."""
        self._ask("kill")

    def pause(self) -> None:
        """Hold the server's answers back; requests still reach it."""
        self._ask("pause")

    def resume(self) -> None:
        """Let the answers through again."""
        self._ask("resume")

    def _ask(self, command: str) -> Any:
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise RuntimeError("The proxy is not running: use it in a with statement.")
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
            return self._receive()

    def _receive(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The process of the proxy has died; its last words are on stderr.")
        return json.loads(answer)


def _unencrypted(scheme: str) -> dict[str, str]:
    if scheme.endswith("+asyncpg"):
        return {"ssl": "disable"}
    return {"sslmode": "disable", "gssencmode": "disable"}


def main() -> None:
    """Run a proxy: `python -m benchmarks.wire HOST PORT DELAY_SECONDS`, commands on stdin."""
    # An interrupt at the terminal is for the program measured; this one ends with its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host, port, delay_seconds = sys.argv[1:]
    relay = Relay(host, int(port), float(delay_seconds))
    relay.run()
    relay.close()


if __name__ == "__main__":
    main()
