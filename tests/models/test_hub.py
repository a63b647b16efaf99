"""Retrieval from every source; the hub through its real client against a local server that speaks its protocol."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

import regraft.models.backbones.sources
from regraft.models.backbones.downloads import DownloadError, download_file
from regraft.models.backbones.hub import Backbone, LicenceRefused, MirrorError, list_backbones, retrieve_backbone
from regraft.models.backbones.network import BackboneError
from regraft.models.backbones.sources import read_licence

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "test_resnet.tiny"


class Server:
    """A web folder and a hub in one, over real sockets; ``cuts`` holds after how many bytes to hang up, per request,
    ``status`` what every request is answered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str, str | None]] = []
        self.cuts: list[int] = []
        self.etags = True
        self.status: int | None = None
        self.card: dict[str, str] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                owner.answer(self, body=False)

            def do_GET(self) -> None:
                owner.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.requests.append((handler.command, handler.path, handler.headers.get("Range")))
        if self.status is not None:
            self.send(handler, self.status, b"", {})
        elif found := re.fullmatch(r"/api/models/timm/([^/?]+)(/revision/\w+)?(\?.*)?", handler.path):
            self.describe(handler, found.group(1))
        elif found := re.fullmatch(r"/timm/([^/]+)/resolve/\w+/([^/?]+)", handler.path):
            self.send_file(handler, self.root / found.group(1) / found.group(2), body=body, hub=True)
        elif handler.path == "/":
            links = "".join(f'<a href="{path.name}/">{path.name}/</a>' for path in self.root.iterdir())
            self.send(handler, 200, links.encode(), {"Content-Type": "text/html"})
        else:
            self.send_file(handler, self.root / handler.path.lstrip("/"), body=body, hub=False)

    def describe(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        if not (self.root / name).is_dir():
            self.send(handler, 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": path.name} for path in sorted((self.root / name).iterdir())]
        info = {"id": f"timm/{name}", "sha": COMMIT, "siblings": siblings, "cardData": self.card, "tags": []}
        self.send(handler, 200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def send_file(self, handler: BaseHTTPRequestHandler, path: Path, *, body: bool, hub: bool) -> None:
        if not path.is_file():
            self.send(handler, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{etag}"'} if self.etags else {}
        headers |= {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"} if hub else {}
        begin, wanted = 0, re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if wanted and handler.headers.get("If-Range") in (None, f'"{etag}"'):
            begin = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.send(handler, 206 if begin else 200, data[begin:], headers, body=body)

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        handler.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            handler.send_header(key, value)
        handler.end_headers()
        if not body or handler.command == "HEAD":
            return
        cut = self.cuts.pop(0) if self.cuts and "safetensors" in handler.path else None
        handler.wfile.write(data[:cut])
        if cut is not None:
            handler.close_connection = True

    def ranges(self) -> list[str | None]:
        """Return the Range of each request for the weights' bytes."""
        return [wanted for verb, path, wanted in self.requests if verb == "GET" and path.endswith("safetensors")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "remote").mkdir()
    running = Server(tmp_path / "remote")
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def retrieve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backbone]:
    """Return a function that retrieves into a workspace, with the hub forbidden unless a test allows it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda name=NAME, mirror=None, **more: retrieve_backbone(
        name, store=tmp_path / "w" / "store", lock=tmp_path / "w" / "backbones.lock.json", mirror=mirror, **more
    )


def allow_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", url)


def read_pins(tmp_path: Path) -> dict[str, dict[str, str]]:
    return json.loads((tmp_path / "w" / "backbones.lock.json").read_text())


def test_a_mirror_folder_is_copied_pinned_and_not_needed_again(make_backbone, retrieve, tmp_path):
    made = make_backbone(tmp_path / "mirror")
    first = retrieve(mirror=str(tmp_path / "mirror"))
    assert (first.sha256, first.licence, first.source) == (made.sha256, "Apache-2.0", "mirror:mirror")
    assert first.folder == tmp_path / "w" / "store" / NAME
    assert sorted(path.name for path in first.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_pins(tmp_path)[NAME]["sha256"] == made.sha256
    shutil.rmtree(tmp_path / "mirror")
    assert retrieve(mirror=str(tmp_path / "mirror")) == first


def test_altered_bytes_are_refused_against_the_lock(make_backbone, retrieve, tmp_path):
    make_backbone(tmp_path / "mirror")
    retrieve(mirror=str(tmp_path / "mirror"))
    shutil.rmtree(tmp_path / "w" / "store")
    shutil.rmtree(tmp_path / "mirror")
    make_backbone(tmp_path / "mirror", seed=1)
    with pytest.raises(BackboneError, match=r"not what backbones\.lock\.json pins .*model\.safetensors is"):
        retrieve(mirror=str(tmp_path / "mirror"))
    assert not (tmp_path / "w" / "store" / NAME).exists()


def test_a_damaged_store_is_noticed(make_backbone, retrieve, tmp_path):
    make_backbone(tmp_path / "mirror")
    path = retrieve(mirror=str(tmp_path / "mirror")).folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BackboneError, match="delete its folder"):
        retrieve()


def test_pickled_weights_are_refused_by_name(make_backbone, retrieve, tmp_path):
    folder = make_backbone(tmp_path / "mirror").folder
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        retrieve(mirror=str(tmp_path / "mirror"))


def test_a_pickle_called_safetensors_is_refused(make_backbone, retrieve, tmp_path):
    folder = make_backbone(tmp_path / "mirror").folder
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95" + b"0" * 500)
    with pytest.raises(BackboneError, match="cannot be read as safetensors"):
        retrieve(mirror=str(tmp_path / "mirror"))
    assert not (tmp_path / "w" / "store" / NAME).exists()
    assert not (tmp_path / "w" / "backbones.lock.json").exists()


def test_a_failure_names_every_source_and_near_names(make_backbone, retrieve, tmp_path):
    make_backbone(tmp_path / "mirror")
    with pytest.raises(BackboneError) as failure:
        retrieve("test_resnet.tony", mirror=str(tmp_path / "mirror"))
    text = str(failure.value)
    for part in (str(tmp_path / "w" / "store"), "mirror:mirror: no folder", "embedded", "HF_HUB_OFFLINE", NAME):
        assert part in text, part


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "resnet18.", "/etc"])
def test_names_that_are_paths_are_refused(name, retrieve):
    with pytest.raises(BackboneError, match="no backbone name"):
        retrieve(name)


def test_an_address_of_another_kind_is_refused(retrieve):
    with pytest.raises(BackboneError, match="ftp://x"):
        retrieve(mirror="ftp://x")


def test_a_mirror_address_gives_the_same_bytes_and_is_listed(make_backbone, retrieve, server, tmp_path):
    made = make_backbone(server.root)
    seen: list[tuple[int, int]] = []
    found = retrieve(mirror=server.url, progress=lambda done, total: seen.append((done, total)))
    assert (found.sha256, found.source) == (made.sha256, f"mirror:{server.url}")
    assert seen[-1] == (made.bytes, made.bytes)
    assert NAME in list_backbones(server.url)
    before = len(server.requests)
    retrieve(mirror=server.url)
    assert len(server.requests) == before  # bytes at hand are not asked for


def test_an_interrupted_download_goes_on_where_it_broke_off(make_backbone, retrieve, server, monkeypatch):
    made = make_backbone(server.root)
    monkeypatch.setattr("regraft.models.backbones.downloads.time.sleep", lambda _: None)
    server.cuts = [100_000, 50_000]
    assert retrieve(mirror=server.url).sha256 == made.sha256
    assert server.ranges() == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_process_resumes_what_an_earlier_one_left(make_backbone, server, tmp_path, monkeypatch):
    made = make_backbone(server.root)
    monkeypatch.setattr("regraft.models.backbones.downloads.ATTEMPTS", 1)
    server.cuts = [120_000]
    url, path = f"{server.url}/{NAME}/model.safetensors", tmp_path / "here" / "model.safetensors"
    with pytest.raises(DownloadError, match="call again to go on"):
        download_file(url, path)
    assert not path.exists()
    download_file(url, path)
    assert server.ranges() == [None, "bytes=120000-"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changed_in_between_is_fetched_anew(etags, make_backbone, server, tmp_path, monkeypatch):
    make_backbone(server.root)
    monkeypatch.setattr("regraft.models.backbones.downloads.ATTEMPTS", 1)
    server.cuts, server.etags = [120_000], etags
    url, path = f"{server.url}/{NAME}/model.safetensors", tmp_path / "model.safetensors"
    with pytest.raises(DownloadError):
        download_file(url, path)
    shutil.rmtree(server.root / NAME)
    made = make_backbone(server.root, seed=1)
    download_file(url, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256


def test_the_hub_is_asked_through_its_client(make_backbone, retrieve, server, monkeypatch):
    made = make_backbone(server.root)
    weights = load_file(made.folder / "model.safetensors")
    server.card = {"license": "mit"}
    save_file(weights, made.folder / "model.safetensors")
    allow_hub(monkeypatch, server.url)
    found = retrieve()
    assert (found.sha256, found.source, found.licence) == (made.sha256, "hub", "mit AND Apache-2.0")
    asked = [(verb, path.split("?")[0]) for verb, path, _ in server.requests]
    assert asked[0] == ("GET", f"/api/models/timm/{NAME}")
    assert ("HEAD", f"/timm/{NAME}/resolve/{COMMIT}/model.safetensors") in asked
    assert ("GET", f"/timm/{NAME}/resolve/{COMMIT}/model.safetensors") in asked


def test_an_interrupted_hub_download_is_resumed(make_backbone, retrieve, server, monkeypatch):
    made = make_backbone(server.root)
    allow_hub(monkeypatch, server.url)
    monkeypatch.setattr("regraft.models.backbones.downloads.time.sleep", lambda _: None)
    server.cuts = [200_000]
    assert retrieve().sha256 == made.sha256
    assert server.ranges() == [None, "bytes=200000-"]


def test_a_hub_without_safetensors_or_repository_is_a_reason(make_backbone, retrieve, server, monkeypatch):
    folder = make_backbone(server.root).folder
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    allow_hub(monkeypatch, server.url)
    with pytest.raises(BackboneError, match=rf"hub {server.url}: has only pickled weights"):
        retrieve()
    with pytest.raises(BackboneError, match=r"has no repository timm/test_resnet\.other"):
        retrieve("test_resnet.other")


def test_a_hub_that_cannot_be_reached_is_a_reason(retrieve, monkeypatch):
    allow_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(BackboneError, match=r"hub http://127\.0\.0\.1:9: Connect"):
        retrieve()


def test_bytes_that_differ_from_the_hubs_own_hash_are_refused(make_backbone, retrieve, server, monkeypatch):
    make_backbone(server.root)
    allow_hub(monkeypatch, server.url)
    monkeypatch.setattr(regraft.models.backbones.sources, "hash_file", lambda path: "0" * 64)
    with pytest.raises(BackboneError, match="but the hub states"):
        retrieve()


def test_the_clients_offline_switch_is_honoured_in_a_fresh_process(server):
    code = (
        "import regraft.models.backbones.sources as w, pathlib, sys\n"
        "try: w.fetch_from_hub('test_resnet.tiny', pathlib.Path('.'))\n"
        "except w.SourceMiss as miss: print(miss)"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": server.url}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "HF_HUB_OFFLINE" in answer.stdout
    assert server.requests == []


def test_an_error_of_the_server_is_told(server, tmp_path):
    with pytest.raises(DownloadError, match="HTTP 404"):
        download_file(f"{server.url}/nothing", tmp_path / "x")
    assert httpx.get(server.url + "/").status_code == 200


def test_a_mirror_that_is_no_folder_is_not_an_empty_one(retrieve, tmp_path):
    with pytest.raises(BackboneError, match="is not a folder"):
        list_backbones(str(tmp_path / "absent"))
    with pytest.raises(BackboneError, match="is not a folder"):  # nor a reason to go on to the hub
        retrieve(mirror=str(tmp_path / "absent"))


def test_a_mirror_that_fails_is_an_error_and_no_shorter_list(retrieve, server, monkeypatch):
    monkeypatch.setattr("regraft.models.backbones.downloads.time.sleep", lambda _: None)
    server.status = 500
    with pytest.raises(BackboneError, match=rf"mirror {server.url} cannot be listed: .*failed 4 times .*HTTP 500"):
        list_backbones(server.url)
    assert len(server.requests) == 4  # a server that is busy is asked again
    with pytest.raises(MirrorError, match=rf"mirror {server.url} gave no answer about backbone 'test_resnet\.tiny'"):
        retrieve(mirror=server.url)
    server.status = 404
    with pytest.raises(BackboneError, match=r"select\.candidates"):
        list_backbones(server.url)
    server.status = None
    with pytest.raises(BackboneError, match="offers no backbone"):  # an empty page
        list_backbones(server.url)


def test_a_mirror_that_cannot_be_reached_is_not_passed_over(make_backbone, retrieve, tmp_path, monkeypatch):
    make_backbone(tmp_path / "elsewhere")
    monkeypatch.setattr("regraft.models.backbones.hub.embedded_folder", lambda: tmp_path / "elsewhere")
    with pytest.raises(MirrorError, match="Nothing was taken in its place"):
        retrieve(mirror="http://127.0.0.1:9/weights")


def test_a_server_that_was_busy_for_a_moment_is_asked_again(make_backbone, retrieve, server, monkeypatch):
    made = make_backbone(server.root)
    monkeypatch.setattr("regraft.models.backbones.downloads.time.sleep", lambda _: setattr(server, "status", None))
    server.status = 503
    assert retrieve(mirror=server.url).sha256 == made.sha256


def test_a_mirror_folder_without_a_backbone_is_not_an_empty_offer(tmp_path):
    (tmp_path / "mirror").mkdir()
    with pytest.raises(BackboneError, match="offers no backbone"):
        list_backbones(str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "half.tiny").mkdir()
    (tmp_path / "mirror" / "half.tiny" / "model.safetensors").write_bytes(b"")
    assert "half.tiny" in list_backbones(str(tmp_path / "mirror"))  # to be named when it cannot be used


@pytest.mark.parametrize("source", ["folder", "address", "hub"])
def test_a_licence_is_known_before_any_weights_are_moved(
    source, make_backbone, retrieve, server, tmp_path, monkeypatch
):
    folder = make_backbone(server.root).folder
    if source == "hub":
        allow_hub(monkeypatch, server.url)
        server.card = {"license": "other", "license_name": "house-noncommercial"}
    else:
        card = folder / "config.json"
        card.write_text(card.read_text().replace('"Apache-2.0"', '"CC BY-NC 4.0"'))
    mirror = {"folder": str(server.root), "address": server.url, "hub": None}[source]
    asked: list[str] = []
    with pytest.raises(LicenceRefused, match="no thanks"):
        retrieve(mirror=mirror, object_to=lambda licence: asked.append(licence) or "no thanks")
    assert asked == ["other (house-noncommercial) AND Apache-2.0" if source == "hub" else "CC BY-NC 4.0"]
    assert server.ranges() == []
    assert not (tmp_path / "w" / "store" / NAME).exists()
    assert not (tmp_path / "w" / "backbones.lock.json").exists()


def test_the_card_in_a_folder_is_read_as_yaml(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    (folder / "README.md").write_text("---\nlicense: CC BY-NC 4.0\ntags: [a]\n---\nlicense: mit\n")
    assert read_licence(folder) == "CC BY-NC 4.0 AND Apache-2.0"
    (folder / "README.md").write_text("no front matter\nlicense: mit\n")
    assert read_licence(folder) == "Apache-2.0"
