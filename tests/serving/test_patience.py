"""Clients that are slow with headers, bodies or reading take nobody else's place, and not their own for ever."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn

from regraft.serving.http.bodies import Arrivals
from regraft.serving.http.deadlines import PatientProtocol, be_patient_no_longer
from regraft.serving.http.problems import ProblemError
from regraft.serving.process.process import start_service, stop_service, wait_ready
from regraft.serving.registry.registry import Registry

HALF = b"GET / HTTP/1.1\r\nhost: a\r\n"
WHOLE = HALF + b"\r\n"


def wait_until(claim: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


async def answer(scope, receive, send) -> None:
    """Answer at once, or with 30 MB on /large."""
    body = b"x" * 30_000_000 if scope.get("path") == "/large" else b"fine"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(monkeypatch) -> Iterator[uvicorn.Server]:
    """Serve ``answer`` in this process with the protocol that the service installs."""
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "")
    be_patient_no_longer(0.4)
    PatientProtocol.waiting.clear()
    server = uvicorn.Server(uvicorn.Config(answer, port=0, log_config=None, lifespan="off", timeout_keep_alive=1))
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield server
    server.should_exit = True
    thread.join()


@pytest.fixture
def port(server) -> int:
    return server.servers[0].sockets[0].getsockname()[1]


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(10)
    return client


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answer(client: socket.socket) -> bool:
    said = b""
    while not said.endswith(b"fine"):
        part = client.recv(65536)
        if not part:
            return False
        said += part
    return True


def test_half_sent_headers_get_408_and_silence_gets_a_closed_door(port):
    with connect(port) as half, connect(port) as silent:
        half.sendall(HALF)
        assert read_all(half).startswith(b"HTTP/1.1 408 ")
        assert read_all(silent) == b""


def test_dripping_headers_do_not_move_the_deadline(port):
    with connect(port) as client:
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 10:
                client.sendall(b"a")
                time.sleep(0.02)
        assert time.monotonic() - started < 5


def test_requests_in_pieces_one_after_the_other_and_pipelined_are_answered(port):
    with connect(port) as client:
        for _ in range(3):
            client.sendall(HALF)
            time.sleep(0.02)
            client.sendall(b"\r\n")
            assert read_answer(client)
            time.sleep(0.3)  # together they take longer than the deadline of one
        client.sendall(WHOLE * 3 + HALF)
        said = read_all(client)
        assert said.count(b"200 OK") == 3


def test_over_the_limit_the_connection_longest_without_a_request_leaves(port, monkeypatch):
    monkeypatch.setattr(PatientProtocol, "max_connections", 5)
    monkeypatch.setattr(PatientProtocol, "headers_s", 60.0)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(8)]
        for client in clients[:3]:
            assert read_all(client) == b""
        for client in clients[3:]:
            client.sendall(WHOLE)
            assert read_answer(client)


def test_an_answer_that_nobody_reads_is_given_up(server, port, monkeypatch):
    monkeypatch.setattr("regraft.serving.http.deadlines.WRITE_S", 0.3)
    with connect(port) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        wait_until(lambda: server.server_state.connections)
        wait_until(lambda: not server.server_state.connections)


def test_over_their_limits_the_body_longest_on_its_way_is_cut():
    async def send(arrivals: Arrivals, size: int, gone: list[int], number: int) -> None:
        try:
            async with arrivals.take_in(5) as arrival:
                arrivals.grow(arrival, size)
                await asyncio.sleep(0.05 + 0.001 * number)
        except ProblemError as exc:
            assert (exc.status, exc.code) == (503, "overloaded")
            gone.append(number)

    async def run(arrivals: Arrivals, sizes: list[int]) -> list[int]:
        gone: list[int] = []
        await asyncio.gather(*(send(arrivals, size, gone, number) for number, size in enumerate(sizes)))
        return gone

    many, large = Arrivals(3, 10**9), Arrivals(100, 1000)
    assert asyncio.run(run(many, [1] * 5)) == [0, 1]
    assert asyncio.run(run(large, [400, 500, 300, 300, 100])) == [0, 1]
    assert asyncio.run(run(large, [400, 500])) == []  # what is gone no longer counts


@pytest.fixture(scope="module")
def url(tmp_path_factory, make_bundle) -> Iterator[str]:
    """Start a service of four places and two seconds of patience."""
    folder = tmp_path_factory.mktemp("patience")
    registry = Registry(folder / "workspace" / "models" / "store")
    registry.promote(registry.register(make_bundle(folder / "bundle")), "test", "first")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"REGRAFT_MAX_IN_FLIGHT": "4", "REGRAFT_BODY_TIMEOUT_S": "6"}
    process = start_service(folder / "workspace", port, log=folder / "log", settings=settings)
    try:
        wait_ready(f"http://127.0.0.1:{port}", 90, process=process, log=folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_service(process)


@pytest.mark.slow
def test_slow_bodies_and_half_sent_headers_take_no_place_and_are_ended(url, colour_image):
    port = int(url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        slow = [stack.enter_context(connect(port)) for _ in range(40)]
        for number, client in enumerate(slow):
            path = b"/feedback" if number % 2 else b"/predict"
            head = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\n" % path
            client.sendall(head + b"x" * 10)
        half = [stack.enter_context(connect(port)) for _ in range(100)]
        for client in half:
            client.sendall(HALF)
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(5):
                files = {"image": ("a.jpg", colour_image("green"))}
                said = client.post("/predict", files=files)
                assert said.status_code == 200, said.text
                kept = client.post("/feedback", json={"id": said.json()["id"], "label": "green"})
                assert kept.status_code == 200
        assert time.monotonic() - started < 6, "the machine was too slow to tell"
        assert all(b" 408 " in read_all(client) for client in (*slow, *half))
