"""A real retraining from end to end: an endpoint over HTTP, a line that changes, labels, two sources, gate and swap."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import regraft
from regraft.client import Answer
from regraft.data.sources.sources import read_intake
from regraft.data.split.split import read_split
from regraft.data.synthetic.steel import DRIFTED, LABELS, encode_image, render_image
from regraft.flows.demo import plant as demo
from regraft.flows.server.stack import endpoint_settings, free_port
from regraft.serving.log.reader import read_window
from regraft.serving.process.process import start_service, stop_service, wait_ready
from regraft.tasks.steps.samples import gather_sample
from regraft.tasks.workspace.judgements import read_judgements
from regraft.tasks.workspace.workspace import Workspace

PER_CLASS = 20
"""Images of each class that the changed line makes: together one window of the watch."""
SWAP_S = 900.0
"""What ends a test that hangs: a champion is loaded in well under a second, a busy machine takes longer."""

pytestmark = pytest.mark.slow


@dataclass
class Plant:
    """The line, its inspector and the endpoint that looks at the strip; ``truth`` has the label of each answer."""

    client: regraft.Client
    truth: dict[str, str]
    seed: int = 40_000

    def send(self) -> Answer:
        """Send one image of the next class and return what the endpoint answered."""
        label = LABELS[self.seed % len(LABELS)]
        answer = self.client.predict(encode_image(render_image(DRIFTED, label, self.seed), DRIFTED))
        self.truth[answer.id] = label
        self.seed += 1
        return answer

    def await_version(self, version: str) -> None:
        """Ask and send until ``version`` answers; every request on the way must be answered."""
        deadline = time.monotonic() + SWAP_S
        while (said := self.client.version())["version"] != version:
            assert "refused" not in said and time.monotonic() < deadline, said
            self.send()
        assert self.send().version == version


@pytest.fixture
def endpoint(copied) -> Iterator[str]:
    home, port = copied.home, free_port()
    address, log = f"http://127.0.0.1:{port}", home.logs / "endpoint.log"
    process = start_service(home.root, port, log=log, settings=endpoint_settings(home))
    try:
        wait_ready(address, 120, process=process, log=log)
        yield address
        assert process.poll() is None
    finally:
        stop_service(process)


@pytest.fixture
def plant(endpoint: str) -> Iterator[Plant]:
    with regraft.Client(endpoint) as client:
        yield Plant(client, {})


def read_parts(home: Workspace) -> dict[str, str]:
    split = read_split(home.split)
    return dict(zip(split["sha256"], split["part"], strict=True))


def read_swaps(client: regraft.Client) -> set[str]:
    """Return the versions that the one process of the endpoint has put to work, by its own count."""
    lines = httpx.get(f"{client.url}/metrics", trust_env=False).text.splitlines()
    return {line.split('"')[1] for line in lines if line.startswith("regraft_swaps_total{")}


def test_a_changed_line_is_labelled_learned_judged_and_answered_without_a_restart(copied, plant: Plant) -> None:
    home, before = copied.home, read_parts(copied.home)
    champion = copied.answer["version"]
    for _ in range(PER_CLASS * len(LABELS)):
        assert plant.send().version == champion

    report, wanted = regraft.watch(home.root), []
    assert (report.verdict["decision"], report.action) == ("drift", "audit")
    actions = [report.action]
    while report.action in ("audit", "label"):
        for row in report.queue:
            assert plant.client.feedback(row["id"], plant.truth[row["id"]]).trainable
        wanted += report.queue
        report = regraft.watch(home.root)
        actions.append(report.action)
    assert actions[-2:] == ["label", "retrain"]
    run = regraft.retrain(home.root)

    check_sources(home, run, images=len(wanted))
    check_parts(home, before, drawn=sum(row["why"] == "random" for row in wanted))
    check_verdict(home, run, champion)
    if not run.promoted:  # the gate may say so of a few seconds of training; a person may overrule it
        assert regraft.promote(str(run.version), home.root, reason="seen at the line").champion == run.version
    plant.await_version(str(run.version))
    assert read_swaps(plant.client) == {champion, run.version}


def check_sources(home: Workspace, run: regraft.Run, images: int) -> None:
    """The labelled images are a second source beside the folder that the workspace was trained on."""
    batch = run.details["batch"]
    assert (batch["fresh"], batch["sufficient"]) == (images, True)
    assert [source.name for source in read_intake(home.intake)] == ["origin", Path(batch["path"]).name]


def check_parts(home: Workspace, before: dict[str, str], drawn: int) -> None:
    """No image of the old parts has moved, and of the new ones only such as were drawn at random judge."""
    after = read_parts(home)
    assert {sha256: after[sha256] for sha256 in before} == before
    split = read_split(home.split)
    fresh = split[~split["sha256"].isin(before.keys())]
    assert sum(fresh["sampling"] == "random") == drawn < len(fresh)
    assert set(fresh.loc[fresh["part"] != "train", "sampling"]) == {"random"}
    assert sum(fresh["part"] == "test") >= drawn // 3


def check_verdict(home: Workspace, run: regraft.Run, champion: str) -> None:
    """The verdict is on both questions, each asked of its own images, and it is written down."""
    sample, test = gather_sample(home, champion), read_split(home.split).set_index("sha256")
    asked = {question["asked"]: question["n"] for question in run.details["gate"]["questions"]}
    assert asked == {"present line": sum(sample.present), "old line": sum(sample.old)}
    judges = [sha256 for sha256, present in zip(sample.sha256s, sample.present, strict=True) if present]
    assert set(test.loc[judges, "sampling"]) == {"random"}
    written = read_judgements(home)[-1]
    assert (written.version, written.champion) == (run.version, champion)
    assert (written.decision, written.reason) == (run.details["gate"]["decision"], run.reason)


def test_whatever_the_demo_has_sent_can_be_labelled_its_background_traffic_too(copied, endpoint: str) -> None:
    plant = demo.Plant(endpoint)
    with plant.traffic(pause_s=0) as counts:
        plant.await_traffic(counts, 2 * len(LABELS))
        plant.send(1)
    logged = read_window(copied.home.predictions, copied.answer["version"], limit=1_000)
    sent = counts["requests"] + len(LABELS)
    assert counts["failed"] == 0 and len(logged) == sent > 3 * len(LABELS) - 1
    assert len(logged.drop_repeated(sent)) == sent, "the background traffic shows one image again and again"
    assert plant.inspect([{"id": name} for name in logged.ids]) == sent
