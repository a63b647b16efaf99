"""The report is one file that asks for nothing, runs nothing, and shows what it was given."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions
from regraft.models.evaluation.judging import say_judged
from regraft.models.report.formats import format_share
from regraft.models.report.pictures import Picture, choose_examples, choose_mistakes, encode_thumbnail
from regraft.models.report.plots import choose_ticks, draw_curves
from regraft.models.report.report import ReportContent, choose_facts, render_report
from regraft.models.report.tradeoff import draw_tradeoff
from regraft.models.statistics.metrics import soften_logits

NASTY = '<script>alert("x")</script>'
ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "formaction", "background", "ping", "xlink:href")


def gather_pictures(rows, pixels, labels, names, probabilities=None) -> tuple[Picture, ...]:
    def answer(row: int) -> tuple[str | None, float | None]:
        if probabilities is None:
            return None, None
        guess = int(probabilities[row].argmax())
        return names[guess], float(probabilities[row, guess])

    return tuple(Picture(pixels[row], names[int(labels[row])], *answer(row)) for row in rows)


class Page(HTMLParser):
    """Collects tags, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.handlers, self.words, self.headings = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Keep the tag, where it points, and any script in its attributes."""
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ADDRESSES]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]

    def handle_data(self, data):
        """Keep the text; that of a section heading apart."""
        self.words.append(data)
        if self.tags[-1:] == ["h2"] and data.strip():
            self.headings.append(data)


def make_content(classes=3, n=60, names=None) -> ReportContent:
    """Return a report with every section."""
    rng = np.random.default_rng(0)
    names = names or [f"class {k}" for k in range(classes)]
    labels = np.arange(n) % classes
    logits = rng.normal(0, 1, (n, classes))
    logits[np.arange(n), labels] += 2
    p = soften_logits(logits, 1.2)
    pixels = rng.integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)
    part = dict.fromkeys(names, 7)
    row = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95}
    row |= {"plain": 0.8, "plain_low": 0.7, "plain_high": 0.9, "gain": 0.1, "gain_low": 0.05, "gain_high": 0.15}
    shifts = [row | {"name": name, "describes": "in figures"} for name in ("as they are", "half the light")]
    metrics = evaluate_predictions(p, labels, names, EvaluateConfig(bootstrap=100), logits=logits)
    return ReportContent(
        name="strip",
        metrics=metrics | {"shifts": {"n": 40, "of": n, "confidence": 0.95, "rows": shifts}},
        backbone={"name": "test_resnet.r160_in1k", "sha256": "a" * 64, "licence": "apache-2.0", "source": "mirror"},
        verdict="exported",
        reason="the probe was kept",
        checked=("parity holds",),
        summary={"images": 60, "formats": {"PNG": 60}},
        samples=gather_pictures(range(classes), pixels, labels, names),
        validation={
            "success": False,
            "expectations": [
                {"name": "decodable", "success": True, "observed": 1.0, "count": 0},
                {"name": "two labels", "success": False, "count": 1, "first_offenders": ["a.png"], "advice": "choose"},
            ],
        },
        quarantine=({"path": "broken.png", "reason": "undecodable", "detail": "ends early"},),
        split={"train": part, "validation": part, "test": part},
        selection=({"name": "net.a", "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "chosen": True},),
        history=[{"epoch": str(e), "train_loss": str(1 / (e + 1)), "validation_accuracy": "0.5"} for e in range(4)],
        training={"kept": "probe"},
        examples=gather_pictures(choose_examples(p, labels), pixels, labels, names, probabilities=p),
        mistakes=gather_pictures(choose_mistakes(p, labels), pixels, labels, names, probabilities=p),
        shifted=gather_pictures([0], pixels, [0], ["half the light"]),
        parity={"n": n, "max_abs_diff": 1e-7, "argmax_equal": True, "threshold": 1e-3},
        certificate={"decision": "helps", "reason": "better than scratch"},
        lineage={"dataset": "b" * 64},
    )


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return make_content()


@pytest.fixture(scope="module")
def page(content, tmp_path_factory) -> str:
    return render_report(tmp_path_factory.mktemp("report"), content).read_text()


def find_requests(page: str) -> list[str]:
    """Return everything in a page that would load something from outside it or run."""
    parsed = Page(page)
    outside = [address for address in parsed.addresses if not address.startswith("data:image/")]
    outside += [tag for tag in parsed.tags if tag in ("script", "link", "iframe", "object", "embed", "base", "form")]
    return outside + parsed.handlers + re.findall(r"url\(|@import|https?://|javascript:", page)


def test_the_page_loads_and_runs_nothing(page):
    assert find_requests(page) == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "planted",
    [
        "<script>1</script>",
        '<img src="x.png">',
        '<a href="//a.b">',
        "<style>b{background:url(x)}</style>",
        "<b onclick=x>",
    ],
)
def test_the_search_for_requests_finds_a_planted_one(page, planted):
    assert find_requests(page.replace("</main>", planted + "</main>"))


def test_every_section_is_there_and_leaves_with_its_data(page, content, tmp_path):
    full = Page(page).headings
    assert len(full) == 15
    metrics = {name: value for name, value in content.metrics.items() if name != "shifts"}
    bare = Page(render_report(tmp_path, ReportContent(name="bare", metrics=metrics)).read_text()).headings
    assert bare == ["Scores", "Per class", "Confusion", "Does it mean what it says?"]
    for name, heading in (("quarantine", "Quarantine"), ("mistakes", "The worst mistakes"), ("history", None)):
        less = dataclasses.replace(content, **{name: ()})
        headings = Page(render_report(tmp_path, less).read_text()).headings
        assert [gone for gone in full if gone not in headings] == ([heading] if heading else [])


def test_what_it_keeps_under_another_lamp_stands_before_the_certificate(page):
    text = " ".join(" ".join(Page(page).words).split())
    assert "With half the light 90.0 % of the answers are right (80.0 – 95.0 %), without views 80.0 % would be." in text
    assert "40 of the 60 held-out images, changed at the size" in text
    headings = Page(page).headings
    assert headings.index("Under another lamp or camera") + 1 == headings.index("Did transfer help?")


def test_the_headline_says_accuracy_interval_and_what_was_checked(page, content):
    text = " ".join(" ".join(Page(page).words).split())
    test = content.metrics["test"]
    assert f"{100 * test['accuracy']:.1f} %" in text
    assert f"{100 * test['accuracy_low']:.1f} – {100 * test['accuracy_high']:.1f} %" in text
    assert "parity holds" in text
    assert "apache-2.0" in text


def test_what_is_said_of_the_test_part_is_true_after_any_number_of_gates(page, content, tmp_path):
    for judged, words in (
        (None, "The gate judges versions by them."),
        (0, "no version had been judged"),
        (1, "1 version by"),
    ):
        text = render_report(tmp_path, dataclasses.replace(content, judged=judged)).read_text()
        assert words in text and "any choice" not in text
    assert "had judged 7 versions by them" in say_judged(7)
    assert "each class weighs alike" in page


def test_what_earlier_stages_noted_stands_above_the_figures(content, tmp_path):
    noted = dataclasses.replace(content, notes=("without the class reel, as allowed", NASTY))
    page = render_report(tmp_path, noted).read_text()
    assert find_requests(page) == []
    assert 0 < page.index("without the class reel, as allowed") < page.index("<h2>Scores")


def test_images_and_groups_are_counted_in_the_headline_and_per_class(content, tmp_path):
    metrics = evaluate_grouped()
    page = render_report(tmp_path, ReportContent(name="coils", metrics=metrics)).read_text()
    assert "accuracy on 60 held-out images in 12 groups" in page
    assert page.count('<th class="n">groups</th>') == 1
    assert (
        "groups"
        not in render_report(tmp_path, ReportContent(name="x", metrics=content.metrics))
        .read_text()
        .replace('class="groups"', "")
        .split("</style>")[1]
    )


def evaluate_grouped():
    """Return the scores of 60 images in 12 groups of three classes."""
    labels = np.repeat(np.arange(12), 5) % 3
    p = np.eye(3)[labels] * 0.7 + 0.1
    p[::7] = p[::7, ::-1]
    names = ["class 0", "class 1", "class 2"]
    return evaluate_predictions(p, labels, names, EvaluateConfig(bootstrap=100), groups=np.repeat(np.arange(12), 5))


def test_text_of_users_is_shown_and_never_run(tmp_path):
    content = make_content(names=[NASTY, "b", 'c" onload="x'])
    content = dataclasses.replace(
        content,
        name=NASTY,
        reason=NASTY,
        checked=(NASTY,),
        quarantine=({"path": NASTY, "reason": NASTY},),
        selection=({"name": NASTY, "accuracy": 0.5},),
        history=[{"epoch": e, f"{NASTY} loss": e} for e in range(3)],
        lineage={NASTY: NASTY},
        samples=tuple(dataclasses.replace(picture, source=NASTY) for picture in content.samples),
    )
    page = render_report(tmp_path, content).read_text()
    assert find_requests(page) == []
    assert Page(page).words.count(NASTY) >= 8


def test_equal_content_gives_equal_bytes(page, tmp_path):
    assert render_report(tmp_path, make_content()).read_text() == page


def test_many_classes_and_many_pictures_stay_below_3_mb(tmp_path):
    content = make_content(classes=60, n=300)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    crowd = tuple(Picture(noise, f"class {i % 60}", "class 1", 0.5) for i in range(500))
    page = render_report(tmp_path, dataclasses.replace(content, samples=crowd, examples=crowd, mistakes=crowd))
    assert page.stat().st_size < 3_000_000
    text = page.read_text()
    assert "too many for a matrix" in text
    assert text.count("<h3>class 59</h3>") == 2


def test_a_thumbnail_is_the_picture_made_small():
    pixels = np.zeros((200, 400, 3), dtype=np.uint8)
    pixels[:, 200:] = (250, 10, 10)
    uri = encode_thumbnail(pixels)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (112, 56)
    assert image.getpixel((10, 28))[0] < 20 < 200 < image.getpixel((100, 28))[0]


def test_mistakes_come_the_most_confident_first_and_examples_from_sure_to_unsure():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45], [0.8, 0.2]])
    labels = np.array([0, 1, 0, 1, 0, 1])
    assert choose_mistakes(p, labels) == [2, 5, 1]
    assert choose_mistakes(p, labels, limit=1) == [2]
    assert choose_examples(p, labels, per_class=2) == [0, 2, 3, 5]
    pictures = gather_pictures([2], np.zeros((6, 4, 4, 3), dtype=np.uint8), labels, ["a", "b"], probabilities=p)
    assert (pictures[0].label, pictures[0].predicted, pictures[0].probability) == ("a", "b", 0.8)


def test_a_share_just_below_one_is_not_rounded_to_all():
    assert [format_share(x) for x in (1.0, 0.99972, 0.984, 0.0, None)] == [
        "100.0\u00a0%",
        "99.97\u00a0%",
        "98.4\u00a0%",
        "0.0\u00a0%",
        "–",
    ]


def test_only_short_facts_of_the_data_are_listed():
    summary = {
        "images": 3,
        "labels": {"a": 3},
        "modes": {"L": 3},
        "sources": {"s": {"a": 3}},
        "duplicates": [["a", "b"]],
    }
    assert choose_facts(summary) == {"images": 3, "modes": {"L": 3}}


def test_ticks_are_round_and_within_the_bounds():
    assert choose_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert choose_ticks(0.13, 0.94)[0] == 0.2
    assert choose_ticks(3, 3) == [3]


def test_a_flat_curve_and_a_single_point_are_drawn():
    assert "NaN" not in draw_curves({"loss": [(0, 0.5), (1, 0.5)]}, "epoch", "loss")
    assert "<circle" in draw_curves({"loss": [(0, 0.5)]}, "epoch", "loss")
    level = draw_curves({"accuracy": [(0, 1.0), (1, 1.0)]}, "epoch", "accuracy", most=1.0)
    assert ">1</text>" in level
    assert ">1.2</text>" not in level


def test_candidates_are_plotted_by_accuracy_and_cost_with_the_chosen_one_marked():
    rows = [
        {"name": f"net.{i}", "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "ms": ms, "chosen": i == 1}
        for i, ms in enumerate((2.0, 20.0, 20.0))
    ]
    drawn = str(draw_tradeoff(rows))
    assert all(f">net.{i}<" in drawn for i in range(3))
    assert drawn.count('<g class="s0">') == 1
    heights = re.findall(r'y="([\d.]+)" text-anchor="start">net\.', drawn)
    assert len(set(heights)) == 2  # the two at one place are moved apart, the third stands elsewhere


def test_the_choice_says_what_others_would_have_taken(tmp_path):
    choice = {
        "reason": "net.a wins successive halving",
        "aspects": "all square",
        "fits": [{"fit": "squash", "loss": 0.1, "accuracy": 0.9, "n": 20}],
        "rivals": [
            {
                "chooser": "static prior",
                "chosen": "net.b",
                "regret": 0.031,
                "low": -0.01,
                "high": 0.07,
                "basis": "halving",
            }
        ],
        "refused": {"net.c": "its licence is ruled out"},
        "n": 120,
    }
    candidate = {"name": "net.a", "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "chosen": True}
    candidate |= {"ms": 2.0, "rank": 1.5, "parc": 0.4, "loss": 0.25, "chance": 0.7, "prior": None, "last_round": 0.92}
    rows = [candidate] * 2
    page = render_report(tmp_path, dataclasses.replace(make_content(), selection=rows, choice=choice)).read_text()
    said = (
        "net.a wins successive halving",
        "static prior",
        "+3.1",
        "-1.0 to +7.0",
        "net.c did not compete",
        "0.250",
        "92.0",
    )
    for words in said:
        assert words in page, words
    assert ">fine-tuned</th>" in page
    rows = [row | {"last_round": None} for row in rows]
    page = render_report(tmp_path, dataclasses.replace(make_content(), selection=rows, choice=choice)).read_text()
    assert ">fine-tuned</th>" not in page
