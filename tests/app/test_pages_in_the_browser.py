"""The pages as a person uses them. `open_page` fails a test on any console error and on any request to another host."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from toy_problem import Toy

from anytask import catalogue
from anytask.bench import RunStore, compare
from anytask.problems.base import Entrant
from anytask.tuning.record import TuningRecord
from sample_evidence import sample

ENTRY = "toy_problem:Guess"
EVIL = "<img src=x onerror=alert(1)>"

FOCUS_IS_SEEN = """() => {
  const here = document.activeElement, style = getComputedStyle(here);
  const own = here.closest('label, .dash-input-container');
  return style.outlineStyle !== 'none' || style.boxShadow !== 'none'
    || (own && getComputedStyle(own).outlineStyle !== 'none');
}"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "runs.sqlite"
    system = Entrant("ours", ENTRY, {"level": 0.8})
    bold, bad = Entrant("<b>bold</b>", ENTRY, {"level": 0.7}), Entrant("bad", ENTRY, {"do": "fail"})
    compare(Toy(), "plain", [system], seeds=3, backend="sequential", store=path)
    compare(Toy(), EVIL, [system, bold, bad], seeds=2, backend="sequential", store=path)
    return path


@pytest.fixture(scope="module")
def address(server, store):
    return server(store)


def these_are_shown(names):
    """JavaScript that holds once the cards of these names are shown, in this order."""
    names = json.dumps(json.dumps(names, separators=(",", ":"), ensure_ascii=False))
    return f"JSON.stringify([...document.querySelectorAll('#cards .name')].map(e => e.innerText)) === {names}"


def test_search_filter_and_sort(open_page, address, until):
    page = open_page(address)
    page.wait_for_selector("#cards .system")
    until(page, "document.querySelectorAll('#cards .system').length === 77")
    page.fill("#search", "shorten long prompts")
    until(page, "document.querySelector('#cards .name').innerText === 'LLMLingua-2'")
    assert "Searched by words" in page.inner_text("#how")
    page.fill("#search", "")
    until(page, "document.querySelectorAll('#cards .system').length === 77")
    page.click("#timeline button >> nth=0")
    until(page, "document.querySelector('#timeline button').getAttribute('aria-pressed') === 'true'")
    until(page, "document.querySelectorAll('#cards .system').length === 1")
    page.click("#timeline button >> nth=0")
    until(page, "document.querySelectorAll('#cards .system').length === 77")
    page.click("#family")
    page.click("[role=option]:has-text('continual')")
    page.get_by_label("available").check()
    available = [
        card.name for card in catalogue.SYSTEMS if card.family == "continual" and catalogue.state(card) == "available"
    ]
    until(page, these_are_shown(available))
    page.click("#order")
    page.click("[role=option]:has-text('name')")
    until(page, these_are_shown(sorted(available, key=str.lower)))


def test_the_keyboard_alone_opens_a_card_and_closes_it(open_page, address, until):
    page = open_page(address)
    page.wait_for_selector("#card-tame")
    met = []
    for _ in range(60):
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert page.evaluate(FOCUS_IS_SEEN), f"the focus cannot be seen on {met[-1]}"
        if met[-1].startswith("card-"):
            break
    assert met[0] == "skip" and met.index("search") < met.index("family") < met.index("problem") < met.index("order")
    first = met[-1]
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] #sheet-title")
    until(page, "document.activeElement.id === 'sheet-title'")
    for _ in range(3):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog').open && location.hash === ''")
    until(page, f"document.activeElement.id === '{first}'")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] #sheet-title")
    page.click("#sheet-close")
    until(page, "!document.querySelector('dialog').open")


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Evidence for TAME."""
    (tmp_path / "tame.json").write_text(json.dumps(sample()))
    monkeypatch.setattr("anytask.claims.evidence.evidence_folder", lambda: tmp_path)


def test_a_card_shows_code_claim_cost_and_paper_and_leaves_only_on_click(open_page, address, recorded):
    page = open_page(f"{address}/#tame", wait="dialog[open] .graph .main-svg")
    told = page.inner_text("dialog")
    for words in (
        "from anytask.continual import TAME",
        "Does it do what its paper says?",
        "What it costs",
        "arXiv:2210.03869",
    ):
        assert words in told
    link = page.locator("dialog a[href^='https://arxiv.org']")
    assert link.get_attribute("rel") == "noopener noreferrer" and link.get_attribute("target") == "_blank"
    with page.expect_download() as saved:
        page.click("dialog .save-picture")
    assert saved.value.suggested_filename == "tame-evidence.png"


def test_every_control_has_a_name(open_page, address):
    nameless = """() => [...document.querySelectorAll('main button, main input, main select, main a')]
      .filter(e => e.offsetParent && !e.closest('[aria-hidden=true]') && !(e.labels && e.labels.length)
        && !e.getAttribute('aria-label') && !e.textContent.trim() && !e.getAttribute('aria-labelledby')
        && !e.closest('[role=group][aria-labelledby]'))
      .map(e => e.outerHTML.slice(0, 120))"""
    for path, ready in (("/", "#card-tame"), ("/results", "#detail table")):
        page = open_page(address + path, wait=ready)
        assert page.evaluate(nameless) == []
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() == f"{'Catalogue' if path == '/' else 'Results'} · anytask"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(open_page, address, dark, recorded):
    page = open_page(address, width=390, dark=dark, wait="#card-tame")
    wide = "document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(wide)
    page.goto(f"{address}/#tame")
    page.wait_for_selector("dialog[open] .graph .main-svg")
    assert page.locator("dialog").bounding_box()["width"] <= 390
    page.goto(f"{address}/results")
    page.wait_for_selector("#detail .graph .main-svg")
    assert not page.evaluate(wide)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(21, 24, 28)") == dark


def test_results_are_shown_as_text_and_beside_each_other(open_page, address, until):
    page = open_page(f"{address}/results", wait="#detail .graph .main-svg")
    told = page.inner_text("main")
    assert EVIL in told and "<b>bold</b>" in told and "4 entrants" in told
    assert page.locator("main img").count() == 0
    page.get_by_text("Failures (2)").click()
    page.wait_for_selector("#detail details summary")
    page.locator("#detail details summary").first.click()
    page.wait_for_selector("#detail details pre:has-text('<b>broken</b> at seed')")
    page.get_by_text("Runs (12)").click()
    page.wait_for_selector("[aria-label=Runs] tbody tr")
    assert page.locator("[aria-label=Runs] tbody tr").count() == 12
    page.locator(".comparison >> text=plain").click()
    until(page, "document.querySelector('#detail h2').innerText.includes('on plain')")
    page.click("#results-with")
    page.locator("[role=option]").first.click()
    page.wait_for_selector(".columns .column >> nth=1")
    assert "In both" in page.inner_text("#detail") and "with=" in page.url


def test_files_are_downloaded(open_page, address):
    page = open_page(f"{address}/results", wait="#detail .downloads")
    names = []
    for words in ("Ranking (CSV)", "Runs (CSV)", "Report (HTML)"):
        with page.expect_download() as saved:
            page.get_by_text(words).click()
        names.append(saved.value.suggested_filename)
        content = saved.value.path().read_text(encoding="utf-8")
        assert "ours" in content and "<img src=x" not in content.split("<body>")[-1]
    assert names == [f"toy-img-src-x-onerror-alert-1-{n}" for n in ("ranking.csv", "runs.csv", "report.html")]


def test_a_running_comparison_is_followed_and_stopped(open_page, server, tmp_path, until):
    path = tmp_path / "live.sqlite"
    page = open_page(f"{server(path)}/results", wait=".notice")
    assert "There is no store" in page.inner_text("#results-message")
    slow = Entrant("slow", ENTRY, {"level": 0.8, "do": "sleep 0.4"})
    found = []

    def work():
        settings = {"seeds": 400, "baselines": False, "backend": "sequential", "store": path}
        found.append(compare(Toy(), "live", [slow], **settings))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        page.wait_for_selector("button.stop")
        before = int(page.get_attribute("progress", "value"))
        until(page, f"Number(document.querySelector('progress').value) > {before}")
        page.click("button.stop")
        until(page, "document.querySelector('#detail .badge').innerText === 'stopped'")
    finally:
        with RunStore(path) as store:
            for record in store.comparisons():
                store.request_stop(record.id)
        thread.join()
    (comparison,) = found
    assert comparison.stopped and 1 < len(comparison.runs) < 400
    assert "because it was stopped" in page.inner_text("#detail")


def test_a_tuning_is_shown_and_followed_and_a_click_on_a_point_shows_its_prompt(open_page, server, tmp_path, until):
    path = tmp_path / "answers.sqlite"
    rows = [
        {"prompt": name, "tokens": tokens, "smoothed": height, "accuracy": height, "asked": 8, "role": role,
         "example": f"{EVIL} {name}\nLabel:"}
        for name, tokens, height, role in (("short", 9.0, 0.5, "tried"), ("good", 40.0, 0.9, "best"),
                                           ("long", 200.0, 0.2, "tried"))
    ]  # fmt: skip
    state = {"data": "mine", "labels": 16, "lm": "some", "command": "anytask tune-prompt mine", "prompts": rows}
    with TuningRecord(path) as record:
        record.put("k", state | {"plain": {}, "sentences": [], "warnings": [], "share": 0.25})
    page = open_page(f"{server(tmp_path / 'none.sqlite', answers=path)}/tuning", wait="#tuning-curve .points path")
    assert "running, 25%" in page.inner_text("#tuning-view")
    with TuningRecord(path) as record:
        record.put("k", state | {"plain": {"zero-shot": 0.4}, "sentences": ["Ask good."], "warnings": [], "share": 1.0})
    page.wait_for_selector("#tuning-view >> text=Ask good.")
    until(page, "document.querySelectorAll('#tuning-curve .points path').length === 4")  # three, and the choice
    for place, name in ((2, "long"), (0, "short")):
        box = page.locator("#tuning-curve .points path").nth(place).bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(f"#tuning-prompt >> text={EVIL} {name}")
        assert page.inner_text("#tuning-prompt h3") == name


def test_only_this_machine_is_answered(address):
    asked = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked)
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/download/unknown/ranking.csv")


def test_a_missing_dash_names_the_extra():
    code = "import sys; sys.modules['dash'] = None\nimport anytask.app"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'anytask[app]'" in done.stderr
