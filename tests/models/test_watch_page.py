"""The page of a watched version: every window a mark, its threshold a line, its state a headline."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from regraft.models.report.watch_page import LISTED, SHOWN, say_state, say_time, weigh_evidence, write_watch_page

CLOSED = {"opened_at": None, "began_at": None, "reason": "", "harm": False}


@dataclass(frozen=True)
class Window:
    """One line of the journal."""

    begin: float
    until: float
    p_value: float
    alarm: str = "quiet"
    decision: str = "quiet"
    kind: str = "none"
    reason: str = "As before."
    n: int = 200
    told: float = 180.4
    alpha: float = 0.001
    estimated_accuracy: float | None = 0.95


def make_windows(count: int) -> list[dict]:
    return [asdict(Window(1.7e9 + 3600 * hour, 1.7e9 + 3600 * (hour + 1), 0.3)) for hour in range(count)]


def write(tmp_path: Path, windows: list[dict], alarm: dict = CLOSED) -> str:
    write_watch_page(tmp_path / "watch.html", "abc123def456789", windows, alarm, 1.0)
    return (tmp_path / "watch.html").read_text()


def test_every_window_is_a_mark_in_the_colour_of_its_alarm(tmp_path) -> None:
    windows = make_windows(5)
    windows[2] |= {
        "p_value": 1e-9,
        "alarm": "opened",
        "decision": "drift",
        "kind": "image",
        "reason": "It is <darker>.",
    }
    windows[3] |= {"alarm": "closed", "estimated_accuracy": None}
    page = write(tmp_path, windows)
    evidence, accuracies = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [evidence.count(f'<g class="{kind}">') for kind in ("s0", "s1", "s2")] == [3 + 1, 1 + 1, 1 + 1]
    assert accuracies.count("<title>") == 4
    assert 'class="ideal"' in evidence and 'class="ideal"' not in accuracies
    assert "It is &lt;darker&gt;." in page and "<darker>" not in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
    assert "about\n1 false alarm." in page


def test_stronger_evidence_lies_higher_and_beyond_the_line_where_it_is_beyond_chance(tmp_path) -> None:
    windows = make_windows(3)
    windows[1]["p_value"], windows[2]["p_value"] = 1e-2, 1e-5
    evidence = re.findall(r"<svg.*?</svg>", write(tmp_path, windows), re.DOTALL)[0]
    heights = [float(y) for y in re.findall(r'cy="([0-9.]+)" r="[46]"><title>', evidence)]
    line = float(re.findall(r'class="ideal" points="[0-9.]+,([0-9.]+)', evidence)[0])
    assert heights[0] > heights[1] > line > heights[2]
    assert weigh_evidence(0.0) == weigh_evidence(1e-300) == 12


def test_an_audit_is_a_mark_at_the_foot_and_no_window(tmp_path) -> None:
    windows = make_windows(3)
    windows[0] |= {"decision": "audit", "p_value": 1.0, "alpha": 0.0, "alarm": "closed", "estimated_accuracy": None}
    page = write(tmp_path, windows)
    evidence = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    limits = re.findall(r'class="ideal" points="([^"]*)"', evidence)[0].split()
    assert len({point.split(",")[1] for point in limits}) == 1  # the limit is that of the windows
    heights = [float(y) for y in re.findall(r'cy="([0-9.]+)" r="[46]"><title>', evidence)]
    assert heights[0] > heights[1] == heights[2]


def test_the_headline_says_since_when() -> None:
    opened = {"opened_at": 1.7e9, "began_at": 1.7e9 - 60, "reason": "Darker.", "harm": False}
    assert say_state(opened) == f"Something changed, since {say_time(1.7e9 - 60)}"
    assert say_state(opened | {"harm": True}).startswith("Answers became worse, since ")
    assert say_state(CLOSED) == "No alarm is open"
    assert re.fullmatch(r"[A-Z][a-z]{2} \d{1,2} [A-Z][a-z]{2} \d\d:\d\d", say_time(1.7e9))


@pytest.mark.parametrize("count", [1, LISTED + 10, SHOWN + 30])
def test_a_long_journal_is_shown_from_its_end(tmp_path, count) -> None:
    page = write(tmp_path, make_windows(count))
    assert page.count("<tr><td class=") == min(count, LISTED)
    assert len(re.findall(r"r=\"4\"><title>", page)) == min(count, SHOWN) * (2 if count > 1 else 1)
