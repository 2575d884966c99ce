"""How the proxy reads the protocol, from hand-made messages."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wire import Conversation, Frames, Relay, Tally, WireProxy

if TYPE_CHECKING:
    from collections.abc import Iterator


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def packet(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", len(body) + 8, code) + body


def query(sql: str) -> bytes:
    return message("Q", sql.encode() + b"\0")


def parse(sql: str) -> bytes:
    return message("P", b"name\0" + sql.encode() + b"\0" + struct.pack("!H", 0))


STARTUP = packet(196608, b"user\0x\0\0")
SSL_REQUEST = packet(80877103)
GSS_REQUEST = packet(80877104)
CANCEL = packet(80877102, b"12345678")
READY = message("Z", b"I")
DONE = message("C", b"SELECT 1\0")
ERROR = message("E", b"\0")
EXTENDED = parse("SELECT 1") + message("B") + message("D") + message("E")
EXTENDED_ANSWER = message("1") + message("2") + message("T") + message("D") + DONE


class Dialogue:
    """A session past its startup whose two sides are played by the test."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.conversation = Conversation(self.tally)
        self.conversation.open(STARTUP)
        self.answer(message("R"), READY)
        self.tally.reset()

    def ask(self, *messages: bytes) -> None:
        for each in messages:
            self.conversation.note_requests(each)

    def answer(self, *messages: bytes) -> None:
        for each in messages:
            self.conversation.note_answers(each)

    @property
    def round_trips(self) -> int:
        return self.tally.round_trips


@pytest.fixture
def dialogue() -> Dialogue:
    return Dialogue()


@given(
    st.lists(st.tuples(st.sampled_from("QPBDEXZ"), st.binary(max_size=40))),
    st.integers(min_value=1, max_value=50),
)
def test_frames_survive_any_segmentation(messages: list[tuple[str, bytes]], size: int) -> None:
    stream = b"".join(message(kind, body) for kind, body in messages)
    frames = Frames()
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [found for chunk in chunks for found in frames.feed(chunk)] == messages


def test_startup_and_password_are_no_round_trips() -> None:
    tally = Tally()
    conversation = Conversation(tally)
    assert conversation.open(STARTUP) == (STARTUP, b"")
    conversation.note_answers(message("R"))
    conversation.note_requests(message("p", b"secret\0"))
    conversation.note_answers(message("R") + READY)
    assert tally.round_trips == 0
    assert tally.connections == 1
    assert tally.messages == {"Startup": 1, "Password": 1}


@pytest.mark.parametrize("request_", [SSL_REQUEST, GSS_REQUEST])
def test_encryption_is_refused_and_the_server_never_asked(request_: bytes) -> None:
    conversation = Conversation(Tally())
    assert conversation.open(request_) == (b"", b"N")
    assert conversation.open(STARTUP) == (STARTUP, b"")


def test_startup_may_come_byte_by_byte() -> None:
    tally = Tally()
    conversation = Conversation(tally)
    stream = SSL_REQUEST + STARTUP
    results = [conversation.open(bytes([byte])) for byte in stream]
    assert b"".join(forwarded for forwarded, _ in results) == STARTUP
    assert b"".join(answered for _, answered in results) == b"N"
    assert tally.bytes_sent == len(stream)


def test_cancel_request_is_no_connection() -> None:
    tally = Tally()
    assert Conversation(tally).open(CANCEL) == (CANCEL, b"")
    assert tally.messages == {"CancelRequest": 1}
    assert tally.connections == 0


def test_each_answered_query_is_a_round_trip(dialogue: Dialogue) -> None:
    for _ in range(3):
        dialogue.ask(query("SELECT 1"))
        dialogue.answer(message("T"), message("D"), DONE, READY)
    assert dialogue.round_trips == 3
    assert dialogue.tally.queries == ["SELECT 1"] * 3


def test_terminate_is_no_round_trip(dialogue: Dialogue) -> None:
    dialogue.ask(message("X"))
    assert dialogue.round_trips == 0
    assert dialogue.tally.messages == {"Terminate": 1}


def test_query_in_many_segments_is_one_round_trip(dialogue: Dialogue) -> None:
    stream = query("SELECT 1")
    dialogue.ask(*(bytes([byte]) for byte in stream))
    assert dialogue.round_trips == 1
    assert dialogue.tally.bytes_sent == len(stream)


def test_several_syncs_in_one_flush_are_one_round_trip(dialogue: Dialogue) -> None:
    burst = EXTENDED + message("S")
    dialogue.ask(burst, burst, burst)
    dialogue.answer(*[EXTENDED_ANSWER + READY] * 3)
    dialogue.ask(burst)
    assert dialogue.round_trips == 2


def test_pipeline_over_early_answers_is_one_round_trip(dialogue: Dialogue) -> None:
    dialogue.ask(EXTENDED)
    dialogue.answer(EXTENDED_ANSWER)
    dialogue.ask(EXTENDED, message("S"))
    dialogue.answer(message("1"))
    dialogue.ask(EXTENDED, message("S"))
    dialogue.answer(EXTENDED_ANSWER, READY, EXTENDED_ANSWER, READY)
    assert dialogue.round_trips == 1


def test_flush_that_is_waited_on_is_a_round_trip(dialogue: Dialogue) -> None:
    dialogue.ask(parse("SELECT 1"), message("D"), message("H"))
    dialogue.answer(message("1"), message("t"), message("n"))
    dialogue.ask(message("B"), message("E"), message("S"))
    assert dialogue.round_trips == 2


def test_flush_that_is_not_waited_on_is_no_round_trip(dialogue: Dialogue) -> None:
    dialogue.ask(EXTENDED, message("H"))
    dialogue.answer(message("1"), message("2"))
    dialogue.ask(EXTENDED, message("S"))
    assert dialogue.round_trips == 1


def test_an_error_settles_the_messages_up_to_the_sync(dialogue: Dialogue) -> None:
    dialogue.ask(EXTENDED, EXTENDED, message("S"), query("ROLLBACK"))
    dialogue.answer(message("1"), ERROR, READY)
    dialogue.ask(query("SELECT 1"))
    assert dialogue.round_trips == 1
    dialogue.answer(DONE, READY, DONE, READY)
    dialogue.ask(query("SELECT 1"))
    assert dialogue.round_trips == 2


def test_notices_settle_nothing(dialogue: Dialogue) -> None:
    dialogue.ask(query("SELECT 1"))
    dialogue.answer(message("N"), message("A"), message("S"))
    dialogue.ask(query("SELECT 2"))
    assert dialogue.round_trips == 1


@pytest.mark.parametrize(
    ("command", "end"),
    [(query("COPY"), message("c")), (EXTENDED + message("S"), message("c") + message("S"))],
    ids=["simple", "extended"],
)
def test_copy_in_is_two_round_trips(dialogue: Dialogue, command: bytes, end: bytes) -> None:
    dialogue.ask(command)
    dialogue.answer(message("1"), message("2"), message("n"), message("G"))
    dialogue.ask(message("d", b"1\n"), message("d", b"2\n"), end)
    dialogue.answer(DONE, READY)
    assert dialogue.round_trips == 2
    dialogue.ask(query("SELECT 1"))
    assert dialogue.round_trips == 3


def test_rest_of_a_failed_copy_is_no_round_trip(dialogue: Dialogue) -> None:
    dialogue.ask(query("COPY"))
    dialogue.answer(message("G"))
    dialogue.ask(message("d", b"wrong\n"))
    dialogue.answer(ERROR, READY)
    dialogue.ask(message("d", b"late\n"), message("c"))
    assert dialogue.round_trips == 2
    dialogue.ask(query("SELECT 1"))
    assert dialogue.round_trips == 3


def test_sql_is_read_from_query_and_parse(dialogue: Dialogue) -> None:
    dialogue.ask(query("SELECT 1"), parse("SELECT $1"))
    assert dialogue.tally.queries == ["SELECT 1", "SELECT $1"]
    assert dialogue.tally.messages == {"Query": 1, "Parse": 1}


@given(st.lists(st.integers(min_value=1, max_value=30), min_size=1), st.integers(1, 5))
def test_segmentation_never_changes_the_count(sizes: list[int], repetitions: int) -> None:
    dialogue = Dialogue()
    for _ in range(repetitions):
        stream = (EXTENDED + message("S")) * 2 + query("SELECT 1")
        for size in sizes:
            dialogue.ask(stream[:size])
            stream = stream[size:]
        dialogue.ask(stream)
        dialogue.answer(*[EXTENDED_ANSWER + READY] * 2, DONE + READY)
    assert dialogue.round_trips == repetitions


class Stage:
    """A relay that the test steps through, with a client and a server of plain sockets."""

    def __init__(self) -> None:
        control, self._commands = os.pipe()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.relay = Relay("127.0.0.1", self._listener.getsockname()[1], 0.0, control)
        self.client = socket.create_connection(("127.0.0.1", self.relay.port))
        self.relay.step()
        self.server, _ = self._listener.accept()
        self._control = control
        for each in (self.client, self.server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.client.close()
        self.relay.close()
        self.server.close()
        self._listener.close()
        os.close(self._control)
        os.close(self._commands)

    def ask(self, data: bytes) -> None:
        before = self.relay.tally.bytes_sent
        self.client.sendall(data)
        while self.relay.tally.bytes_sent < before + len(data):
            self.relay.step()

    def answer(self, data: bytes) -> None:
        before = self.relay.tally.bytes_received
        self.server.sendall(data)
        while self.relay.tally.bytes_received < before + len(data):
            self.relay.step()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def test_what_was_sent_before_an_answer_was_seen_is_no_round_trip(stage: Stage) -> None:
    stage.ask(STARTUP)
    stage.answer(READY)
    stage.ask(query("SELECT 1"))
    # Both have arrived before the relay looks, and the last to speak is served first.
    stage.answer(message("N"))
    stage.server.sendall(DONE + READY)
    stage.client.sendall(query("SELECT 2"))
    stage.relay.step()
    assert stage.relay.tally.round_trips == 1
    stage.answer(DONE + READY)
    stage.ask(query("SELECT 3"))
    assert stage.relay.tally.round_trips == 2


def test_end_of_the_client_reaches_the_server(stage: Stage) -> None:
    stage.ask(STARTUP)
    assert stage.server.recv(1000) == STARTUP
    stage.client.close()
    stage.relay.step()
    assert stage.server.recv(1000) == b""


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p%40ss@db:1/x", "postgresql://u:p%40ss@127.0.0.1:7/x"),
        ("postgres://db/x", "postgres://127.0.0.1:7/x"),
        ("postgresql+psycopg://u@[::1]:5/x", "postgresql+psycopg://u@127.0.0.1:7/x"),
        ("postgresql:///x?host=db&port=5", "postgresql://127.0.0.1:7/x"),
    ],
)
def test_dsn_leads_through_the_proxy(dsn: str, expected: str) -> None:
    proxy = WireProxy("db", 5432)
    proxy.port = 7
    assert proxy.dsn(dsn) == f"{expected}?sslmode=disable&gssencmode=disable"


def test_dsn_keeps_other_options_as_libpq_reads_them() -> None:
    options = "?options=-c%20search_path%3Dx&sslmode=require"
    url = urlsplit(WireProxy("db", 5432).dsn(f"postgresql://db/x{options}"))
    assert "options=-c%20search_path%3Dx" in url.query
    assert parse_qs(url.query)["sslmode"] == ["disable"]


def test_dsn_speaks_the_language_of_asyncpg() -> None:
    dsn = WireProxy("db", 5432).dsn("postgresql+asyncpg://u@db/x")
    assert urlsplit(dsn).query == "ssl=disable"


def test_proxy_that_is_not_running_says_so() -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        WireProxy("db", 5432).snapshot()
