"""The service as a real process over HTTP: answers, refusals, swaps under load, and a stop that loses nothing."""

import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict

import httpx
import numpy as np
import pytest
from PIL import Image

from regraft.serving.bundle.format import open_bundle, seal_bundle
from regraft.serving.files.durable import write_json
from regraft.serving.log.writer import PredictionLog
from regraft.serving.process.process import ServiceStartError, start_service, stop_service, wait_ready
from regraft.serving.registry.registry import Pointer, Registry
from regraft.serving.silence import SILENT

IMAGE_LIMIT, BODY_LIMIT = 25_000_000, 8 * 1024 * 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("service") / "workspace"


@pytest.fixture(scope="session")
def bundles(tmp_path_factory, make_bundle) -> list:
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder / str(number), bias=number / 10) for number in range(3)]


@pytest.fixture(scope="session")
def registry(workspace) -> Registry:
    return Registry(workspace / "models" / "store")


@pytest.fixture(scope="session")
def service(workspace):
    """Start one service without a champion for the whole file; yield (process, url)."""
    port, log = free_port(), workspace / "service.log"
    process = start_service(workspace, port, log=log, settings={"REGRAFT_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(url, 90, process=process, log=log, path="/livez")
        yield process, url
    finally:
        stop_service(process)


@pytest.fixture(scope="session")
def empty_answers(service) -> dict[str, httpx.Response]:
    """Ask the service before there is a champion; others build on the service with one."""
    with httpx.Client(base_url=service[1]) as client:
        files = {"image": ("a.png", b"x")}
        return {
            "ready": client.get("/readyz"),
            "version": client.get("/version"),
            "page": client.get("/"),
            "predict": client.post("/predict", files=files),
        }


@pytest.fixture(scope="session")
def client(service, empty_answers, registry, bundles):
    """Return a client of the service with the first bundle as champion."""
    registry.promote(registry.register(bundles[0]), "test", "first")
    wait_ready(service[1], 5)
    with httpx.Client(base_url=service[1], timeout=30) as client:
        yield client


def predict(client: httpx.Client, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> httpx.Response:
    return client.post("/predict", files={"image": (name, data, kind)})


def wait_until(claim: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Return the seconds until ``claim`` holds."""
    started = time.monotonic()
    while not claim():
        assert time.monotonic() - started < timeout_s, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - started


def test_without_a_champion_it_is_up_but_not_ready_and_says_why(empty_answers):
    assert empty_answers["ready"].status_code == 503 and "no champion yet" in empty_answers["ready"].text
    assert empty_answers["version"].json()["version"] is None and empty_answers["version"].json()["ready"] is False
    assert empty_answers["page"].status_code == 200
    refused = empty_answers["predict"]
    assert refused.status_code == 503 and refused.json()["code"] == "not_ready" and refused.headers["retry-after"]


def test_an_image_is_named_with_probabilities_and_version(client, registry, colour_image):
    for label in ("red", "green", "blue"):
        answer = predict(client, colour_image(label)).json()
        assert set(answer) == {"id", "label", "probability", "probabilities", "version"}
        assert answer["label"] == label and answer["version"] == registry.pointer().champion
        assert answer["probability"] == answer["probabilities"][label] == max(answer["probabilities"].values())
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_the_answer_is_what_the_golden_answers_say(client, bundles):
    for golden in json.loads((bundles[0] / "golden" / "answers.json").read_text()):
        answer = predict(client, (bundles[0] / "golden" / golden["file"]).read_bytes()).json()
        assert list(answer["probabilities"].values()) == pytest.approx(golden["probabilities"], abs=1e-5)


BENTO_CLIENT = """
import json, pathlib, sys
import bentoml
with bentoml.SyncHTTPClient(sys.argv[1]) as client:
    answer = client.predict(image=pathlib.Path(sys.argv[2]))
    print(json.dumps([answer, client.feedback(id=answer["id"], label=answer["label"])]))
"""


def test_bentomls_own_client_works(client, service, tmp_path, colour_image):
    path = tmp_path / "green.jpg"
    path.write_bytes(colour_image("green"))
    command = [sys.executable, "-c", BENTO_CLIENT, service[1], str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=SILENT | os.environ).stdout
    answer, receipt = json.loads(output)
    assert answer["label"] == receipt["predicted"] == "green"


def test_a_bare_image_body_is_answered_too(client, colour_image):
    answer = client.post("/predict", content=colour_image("blue"), headers={"content-type": "image/jpeg"})
    assert answer.json()["label"] == "blue"


def test_the_page_is_self_contained_and_loads_no_tracker(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    namespace = "http://www.w3.org/2000/svg"
    assert not re.search(r"https?:|//[a-z]", page.text.replace(namespace, ""))
    assert 'name="image"' in page.text or '"image"' in page.text


def test_every_answer_is_logged_with_its_figures_and_its_image(client, workspace, colour_image):
    data = colour_image("red", shade=3)
    answer = predict(client, data).json()
    window = PredictionLog(workspace / ".regraft" / "predictions.db").read_window()
    row = window.ids.index(answer["id"])
    assert window.labels[row] == "red" and window.versions[row] == answer["version"]
    assert dict(zip(window.label_names, window.probabilities[row], strict=True)) == pytest.approx(
        answer["probabilities"]
    )
    assert window.quality[row].shape == (10,) and window.embeddings[row].shape == (2,)
    kept = workspace / ".regraft" / "images" / window.image_sha256[row][:2] / window.image_sha256[row]
    assert kept.read_bytes() == data


def test_feedback_is_kept_and_the_rest_refused(client, workspace, colour_image):
    answer = predict(client, colour_image("red")).json()
    kept = client.post("/feedback", json={"id": answer["id"], "label": "blue"})
    assert kept.status_code == 200
    assert kept.json() == {
        "id": answer["id"],
        "label": "blue",
        "version": answer["version"],
        "predicted": "red",
        "trainable": True,
    }
    assert PredictionLog(workspace / ".regraft" / "predictions.db").feedback()[-1].label == "blue"
    unknown = client.post("/feedback", json={"id": "nobody", "label": "blue"})
    assert unknown.status_code == 404 and unknown.json()["code"] == "unknown_id"
    wrong = client.post("/feedback", json={"id": answer["id"], "label": "violet"})
    assert wrong.status_code == 422 and wrong.json()["allowed"] == ["red", "green", "blue"]
    assert client.post("/feedback", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert client.post("/feedback", data={"id": "x", "label": "y"}).status_code == 415
    assert client.post("/feedback", json={"id": "x" * 20_000, "label": "y"}).status_code == 413


def test_a_label_is_not_called_trainable_once_its_image_is_damaged_or_gone(client, workspace, colour_image):
    data = colour_image("green", shade=7)
    answer = predict(client, data).json()
    label = {"id": answer["id"], "label": "green"}
    sha256 = hashlib.sha256(data).hexdigest()
    kept = workspace / ".regraft" / "images" / sha256[:2] / sha256
    assert client.post("/feedback", json=label).json()["trainable"] is True
    kept.write_bytes(data[:-1])
    assert client.post("/feedback", json=label).json()["trainable"] is False
    predict(client, data)  # repairs it
    assert kept.read_bytes() == data and client.post("/feedback", json=label).json()["trainable"] is True
    kept.unlink()
    assert client.post("/feedback", json=label).json()["trainable"] is False


def test_version_says_what_answers(client, registry, bundles):
    said, info = client.get("/version").json(), json.loads((bundles[0] / "bundle.json").read_text())
    assert said["version"] == info["version"] and said["name"] == "colours" and said["labels"] == info["labels"]
    assert said["preprocess_sha256"] == info["preprocess_sha256"] and said["seq"] == registry.pointer().seq
    assert said["ready"] is True and "refused" not in said


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"", *extra: tuple[bytes, bytes]) -> bytes:
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    chunks = (head, *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def malformed_files() -> list[tuple[str, bytes, int]]:
    """Return (what, bytes, expected status) of files that are no readable image."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    files = {kind: encode(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}
    cases = [(f"{kind} cut at {share}", data[: int(len(data) * share)], 422) for kind, data in files.items()
             for share in (0.5, 0.9)]  # fmt: skip
    cases += [(f"JPEG cut at {share}", files["JPEG"][: int(len(files["JPEG"]) * share)], 422) for share in (0.1, 0.99)]
    cases += [
        ("zero bytes", b"", 422),
        ("text", b"hello", 415),
        ("HTML", b"<!doctype html><html></html>", 415),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        ("SVG with entity", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///x'>]><svg>&b;</svg>", 415),
        ("PDF", b"%PDF-1.7\n", 415),
        ("zip", b"PK\x03\x04" + bytes(60), 415),
        ("pickle", b"\x80\x05\x95" + bytes(30), 415),
        ("HEIC", b"\x00\x00\x00\x18ftypheic" + bytes(40), 415),
        ("AVIF", encode(noise, "AVIF"), 415),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
        ("PPM", b"P6 2 2 255 " + bytes(12), 415),
        ("ICO", b"\x00\x00\x01\x00" + bytes(40), 415),
        ("zeros", bytes(5000), 415),
        ("only a JPEG signature", b"\xff\xd8\xff", 422),
        ("only a PNG signature", b"\x89PNG\r\n\x1a\n", 422),
        ("only a TIFF signature", b"II*\x00", 422),
        ("only a GIF signature", b"GIF89a", 422),
        ("30000 x 30000 PNG", png(30000, 30000), 413),
        ("12000 x 12000 PNG of 1 bit", encode(Image.new("1", (12000, 12000))), 413),
        ("65500 x 65500 GIF", files["GIF"][:6] + struct.pack("<HH", 65500, 65500) + files["GIF"][10:], 413),
        ("16383 x 16383 WEBP", b"RIFF@\0\0\0WEBPVP8X\n\0\0\0" + bytes(4) + b"\xfe?\0" * 12, 413),
        ("0 x 0 PNG", png(0, 0), 422),
        ("2 Gpx BMP", b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0), 413),
        ("wrong PNG checksum", files["PNG"][:20] + b"\xff" + files["PNG"][21:], 422),
        ("zTXt bomb", png(1, 1, bytes(4), (b"zTXt", b"k\x00\x00" + zlib.compress(bytes(8_000_000)))), 422),
        ("iCCP bomb", png(1, 1, b"", (b"iCCP", b"k\x00\x00" + zlib.compress(bytes(8_000_000)))), 422),
        ("NaN TIFF", encode(np.full((4, 4), np.nan, np.float32), "TIFF"), 422),
        ("32 bit TIFF", encode(np.full((4, 4), 1 << 30, np.int32), "TIFF"), 422),
        ("flipped TIFF directory", files["TIFF"][:8] + b"\xff" * 60 + files["TIFF"][68:], 422),
        ("9 MB", bytes(9_000_000), 413),
    ]  # fmt: skip
    return cases


def malformed_requests() -> list[tuple[str, dict, int]]:
    """Return (what, request options, expected status) of requests that carry no file as they should."""
    form = "multipart/form-data; boundary=xx"
    bare = b'--xx\r\nContent-Disposition: form-data; name="image"\r\n\r\nhttp://127.0.0.1:9/\r\n--xx--\r\n'

    def chunks():
        for _ in range(100):
            yield bytes(100_000)

    return [
        ("no body", {}, 415),
        ("JSON", {"json": {"image": "http://127.0.0.1:9/"}}, 415),
        ("urlencoded", {"data": {"image": "http://127.0.0.1:9/"}}, 415),
        ("pickle type", {"content": b"x", "headers": {"content-type": "application/vnd.bentoml+pickle"}}, 415),
        ("URL as text", {"content": bare, "headers": {"content-type": form}}, 422),
        ("other field", {"files": {"photo": ("a.jpg", b"x")}}, 422),
        ("two images", {"files": [("image", ("a.jpg", b"x")), ("image", ("b.jpg", b"x"))]}, 422),
        ("1000 parts", {"files": [(f"f{n}", ("a", b"x")) for n in range(1000)]}, 422),
        ("no boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422),
        ("garbage form", {"content": bytes(99), "headers": {"content-type": form}}, 422),
        ("chunked without length", {"content": chunks(), "headers": {"content-type": "image/png"}}, 413),
        ("file of a strange name", {"files": {"image": ("../\u202e\U0001f600-rf\n" + "x" * 255, b"")}}, 422),
    ]


def test_over_fifty_malformed_uploads_are_refused_with_a_reason_and_never_500(client, workspace, count_answers):
    before = count_answers(workspace / ".regraft" / "predictions.db")
    cases = [(what, {"files": {"image": ("a.jpg", data)}}, status) for what, data, status in malformed_files()]
    cases += malformed_requests()
    assert len(cases) >= 50
    wrong = []
    for what, options, expected in cases:
        answer = client.post("/predict", **options)
        body = answer.json()
        said = isinstance(body, dict) and body.get("error") and body.get("code") and body.get("advice")
        if answer.status_code != expected or not said:
            wrong.append((what, answer.status_code, expected, body))
    assert wrong == []
    assert count_answers(workspace / ".regraft" / "predictions.db") == before
    assert not [path for path in (workspace / ".regraft" / "bentoml" / "tmp").rglob("*") if path.is_file()]


def test_a_wrong_path_or_method_is_refused_in_the_same_form(client):
    for method, path, status, advice in (
        ("GET", "/nope", 404, "/predict"),
        ("POST", "/nope", 404, "/predict"),
        ("GET", "/predict", 405, "use POST"),
        ("PUT", "/feedback", 405, "use POST"),
        ("POST", "/version", 405, "use GET, HEAD"),
        ("DELETE", "/livez", 405, "use GET, HEAD"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status and set(answer.json()) == {"error", "code", "advice"}
        assert advice in answer.json()["advice"] and ("allow" in answer.headers) == (status == 405)


def test_a_slow_image_is_refused_in_under_a_second_and_keeps_nobody_waiting(client, service, colour_image):
    plain = encode(np.full((4800, 4800, 3), 90, np.uint8), "JPEG", progressive=True)
    slow = plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * 1000 + b"\xff\xd9"
    answers = []

    def ask() -> None:
        with httpx.Client(base_url=service[1], timeout=30) as own:
            answers.append(predict(own, slow))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert predict(client, colour_image("green")).status_code == 200
    for thread in threads:
        thread.join()
    assert [answer.json()["code"] for answer in answers] == ["too_costly"] * 4
    assert max(answer.elapsed.total_seconds() for answer in answers) < 1


def test_odd_but_sound_images_are_answered(client, colour_image):
    red = Image.new("RGB", (20, 30), (220, 30, 30))
    hidden = Image.new("RGBA", (20, 30), (220, 30, 30, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        encode(red, "GIF"),
        encode(red, "TIFF"),
        encode(red, "BMP"),
        encode(red.convert("CMYK"), "JPEG"),
        encode(hidden),
        encode(red.convert("P")),
        encode(red, "JPEG", exif=exif.tobytes()) + b"PK\x03\x04 trailing",
        encode(red.resize((1, 1))),
        encode(red.resize((1, 65500)), "JPEG"),
        encode(red, "WEBP", save_all=True, append_images=[Image.new("RGB", (20, 30), (0, 0, 255))]),
    ):
        answer = predict(client, data, name="wrong.extension", kind="image/jpg")
        assert answer.status_code == 200 and answer.json()["label"] == "red"


def test_swaps_under_load_lose_no_request_and_take_under_two_seconds(client, service, registry, bundles, colour_image):
    first, second = registry.pointer().champion, registry.register(bundles[1])
    stop, failures, seen, seconds = threading.Event(), [], [], []

    def ask() -> None:
        data = colour_image("green")
        with httpx.Client(base_url=service[1], timeout=30) as own:
            while not stop.is_set():
                try:
                    answer = predict(own, data)
                    failures.extend([answer.text] if answer.status_code != 200 else [])
                    seen.append(answer.json()["version"])
                except Exception as exc:
                    failures.append(repr(exc))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for expected in (second, first, second, first):
            if expected not in seen:
                registry.promote(expected, "test", "swap")
            else:
                registry.rollback("test", "back")
            seconds.append(wait_until(lambda: client.get("/version").json()["version"] == expected))  # noqa: B023
            count = len(seen)
            wait_until(lambda: len(seen) > count + 12, 60)  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(seen) == {first, second} and len(seen) > 50
    assert max(seconds) < 2


def expect_refusal(client: httpx.Client, registry: Registry, bad: str, data: bytes) -> str:
    """Wait until ``bad`` is refused while the old version answers; go back, and return the reason given."""
    good = registry.pointer().previous
    wait_until(lambda: client.get("/version").json().get("refused", {}).get("version") == bad)
    said = client.get("/version").json()
    assert said["version"] == good and said["ready"] is True
    assert predict(client, data).json()["version"] == good
    metrics = client.get("/metrics").text
    assert "regraft_refusing 1.0" in metrics and f'regraft_refused_bundles_total{{version="{bad}"}} 1.0' in metrics
    write_json(registry.store / "pointer.json", asdict(Pointer(champion=good, seq=registry.pointer().seq + 1)))
    wait_until(lambda: "refused" not in client.get("/version").json())
    return said["refused"]["reason"]


def test_a_corrupted_bundle_is_refused_named_and_the_old_one_keeps_answering(client, registry, bundles, colour_image):
    bad = registry.register(bundles[2])
    (registry.path(bad) / "model.onnx").write_bytes(b"damaged")
    now = registry.pointer()  # Registry.promote would have refused it: it was damaged afterwards
    write_json(registry.store / "pointer.json", asdict(Pointer(bad, None, now.champion, now.seq + 1)))
    assert "model.onnx was changed" in expect_refusal(client, registry, bad, colour_image("green"))


def test_a_bundle_that_does_not_give_its_golden_answers_is_refused(
    client, registry, make_bundle, tmp_path, colour_image
):
    folder = make_bundle(tmp_path / "b", name="liar")
    answers = json.loads((folder / "golden" / "answers.json").read_text())
    answers[1]["probabilities"] = answers[0]["probabilities"]
    (folder / "golden" / "answers.json").write_text(json.dumps(answers))
    info = open_bundle(folder, verify=False).info
    seal_bundle(folder, info.model_dump(exclude={"version", "files", "labels_sha256", "preprocess_sha256"}))
    bad = registry.register(folder)
    registry.promote(bad, "test", "its hashes are right")
    assert "golden" in expect_refusal(client, registry, bad, colour_image("green"))


def test_metrics_count_answers_feedback_and_refusals(client, colour_image):
    predict(client, colour_image("blue"))
    text = client.get("/metrics").text
    for name in (
        "regraft_answers_total",
        "regraft_feedback_total",
        "regraft_refused_requests_total",
        "regraft_swaps_total",
    ):
        assert re.search(rf"^{name}{{.*}} [1-9]", text, re.MULTILINE), name
    assert "bentoml_service_request_total" in text


def test_nothing_is_written_outside_the_workspace(client, workspace):
    assert (workspace / ".regraft" / "bentoml").is_dir()
    made = {path.name for path in workspace.iterdir()}
    assert made == {".regraft", "models", "service.log"}


def test_a_stop_under_load_loses_no_acknowledged_answer(client, service, workspace, colour_image):
    """Comes last in this file: it ends the service."""
    process, url = service
    acknowledged, lock = [], threading.Lock()

    def ask() -> None:
        data = colour_image("red")
        with httpx.Client(base_url=url, timeout=30) as own:
            while True:
                try:
                    answer = predict(own, data)
                except httpx.HTTPError:
                    return  # the listener is gone
                if answer.status_code != 200:
                    return
                with lock:
                    acknowledged.append(answer.json()["id"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 20, 60)
    assert stop_service(process) == 0
    for thread in threads:
        thread.join()
    kept = set(PredictionLog(workspace / ".regraft" / "predictions.db").read_window().ids)
    assert len(acknowledged) > 10 and set(acknowledged) <= kept
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_service_that_cannot_start_says_why(tmp_path):
    log = tmp_path / "service.log"
    process = start_service(tmp_path / "w", free_port(), log=log, settings={"REGRAFT_MAX_BODY_BYTES": "nonsense"})
    try:
        with pytest.raises(ServiceStartError, match=r"(?s)ended with code.*max_body_bytes"):
            wait_ready("http://127.0.0.1:9", 60, process=process, log=log)
    finally:
        stop_service(process)
