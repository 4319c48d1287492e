"""The page in a browser: what a person sees and does."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import REALM, running, status
from tests.explore.conftest import Address, existing, serving
from tests.explore.png import Colour, parse
from tests.explore.stage import Stage, accesses, delegations, staged
from tools.page import AXE, install

RAM = "0x80000000"
expect.set_options(timeout=60_000)

LAPTOP, PROJECTOR, ZOOMED = (1366, 768), (1024, 768), (683, 384)
MEASURE = """() => {
    window.costs = [];
    const next = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => next((now) => {
        const start = performance.now();
        draw(now);
        window.costs.push(performance.now() - start);
    });
}"""
#: Stages and levels of a walk of the guest's address of its block.
WALK = ((1, 1), (2, 2), (2, 3))
FOCUSED = "document.activeElement.ariaLabel || document.activeElement.textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start Debian's browser, which a test of the whole module shares."""
    with sync_playwright() as playwright:
        path = "/usr/bin/chromium"
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=180_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(realm: str, counting: str) -> Iterator[Address]:
    """Return the address of a server for both realms."""
    with serving(realm, counting) as address:
        yield address


Open = Callable[[str], Page]


@pytest.fixture
def view(chromium: Browser) -> Iterator[Open]:
    """Return a function that opens an address; an error in the page fails the test."""
    width, height = LAPTOP
    context = chromium.new_context(viewport={"width": width, "height": height})
    errors = list[str]()

    def visit(url: str) -> Page:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type == "error" else None,
        )
        page.goto(url)
        return page

    yield visit
    context.close()
    assert not errors


@pytest.fixture
def sight(view: Open, page: Address) -> Page:
    """Return the page of the realm, complete."""
    opened = view(f"{page.url}#name=watched")
    expect(opened.locator(".legend")).to_contain_text("REALM RTT")
    return opened


def look(*words: str) -> dict[str, object]:
    """Return what `pyvmm inspect` sees."""
    found = json.loads(verb("inspect", "watched", *words, "--json").output)
    assert isinstance(found, dict)
    return found


def legend(opened: Page) -> dict[str, int]:
    """Return the number of granules by GPI and state."""
    items = opened.locator(".legend-item")
    names = items.evaluate_all("all => all.map(each => each.dataset.code)")
    numbers = items.locator("b").all_inner_texts()
    return {name: int(each.replace(",", "")) for name, each in zip(names, numbers, strict=True)}


def shot(part: Locator) -> dict[Colour, int]:
    """Return how often each colour occurs in a screenshot of a part."""
    return parse(part.screenshot()).colours()


def colour_of(opened: Page, name: str) -> Colour:
    """Return the colour of the legend."""
    key = opened.locator(f'[data-code="{name}"] .key')
    text = key.evaluate("key => getComputedStyle(key).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", text))
    return red, green, blue


def test_which_page_holds_the_first_table(sight: Page) -> None:
    """Who owns it, and what maps 0x80000000?  In the explorer alone, with a few clicks."""
    sight.get_by_role("tab", name="Realm", exact=True).click()
    base = sight.locator("dt:text-is('rtt_base') + dd a")
    first_table = base.inner_text()
    base.click()
    inspector = sight.get_by_role("complementary")
    expect(inspector).to_contain_text(f"Granule {first_table}")
    owner = inspector.locator(".owner")
    expect(owner).to_contain_text(re.compile(r"^realm 0x[0-9a-f]+: RTT of level 2 for IPA 0x0$"))
    expect(inspector).to_contain_text("✗ normal world, devices: granule protection fault")
    assert owner.inner_text() == look("granule", first_table)["owner"]
    sight.get_by_role("tab", name="What would this access do?").click()
    sight.get_by_role("textbox", name="address").fill(RAM)
    sight.keyboard.press("Enter")
    walk = look("walk", RAM, "--ipa")
    expect(sight.locator(".walk-result")).to_contain_text(f"PA{walk['pa'] or 'none'}")
    steps = walk["steps"]
    assert isinstance(steps, list)
    for row, step in zip(sight.locator(".walk-result tbody tr").all(), steps, strict=True):
        for part in ("address", "descriptor", "kind"):
            expect(row).to_contain_text(step[part])


def test_the_map_is_what_the_machine_says(sight: Page) -> None:
    """Counts by colour, in the legend and on the screen."""
    gpt = look("gpt")
    counts, states = gpt["granules"], gpt["states"]
    assert isinstance(counts, dict)
    assert isinstance(states, dict)
    shown = legend(sight)
    for world in ("NS", "REALM", "ROOT"):
        total = sum(number for name, number in shown.items() if name.split()[0] == world)
        assert total == counts[world], world
    for state in ("RD", "REC", "RTT", "DATA"):
        assert shown[f"REALM {state}"] == states[state]
    drawn = shot(sight.locator(".memory canvas"))
    assert drawn[colour_of(sight, "REALM RTT")] == states["RTT"]
    assert drawn[colour_of(sight, "REALM DATA")] == states["DATA"]
    assert drawn[colour_of(sight, "NS UNDELEGATED")] > sum(drawn.values()) / 2


def test_time_goes_back_to_before_the_realm(sight: Page) -> None:
    """The map and the worlds follow the slider; Live returns."""
    before = legend(sight)
    slider = sight.get_by_role("slider", name="time")
    slider.focus()
    sight.keyboard.press("Home")
    expect(sight.locator(".legend")).not_to_contain_text("REALM RD")
    assert legend(sight)["NS UNDELEGATED"] > before["NS UNDELEGATED"]
    expect(sight).to_have_url(re.compile("at=0"))
    sight.get_by_role("button", name="Live").click()
    expect(sight.locator(".legend")).to_contain_text("REALM RD")
    assert legend(sight) == before


def test_events_are_filtered_and_linked(sight: Page) -> None:
    """A filter leaves what matches; an address in an event selects its granule everywhere."""
    sight.get_by_role("searchbox").fill("RMI_REC_CREATE")
    rows = sight.locator(".events .row")
    expect(rows).to_have_count(1)
    link = rows.first.locator("a.pa").first
    rd = link.inner_text()
    link.click()
    expect(sight.get_by_role("complementary")).to_contain_text(f"Granule {rd}")
    expect(sight.locator(".inspector .owner")).to_contain_text("its RD")
    rows.first.get_by_role("button").click()
    expect(sight.locator(".row.current")).to_contain_text("RMI_REC_CREATE")
    sight.reload()  # the address has it all
    expect(sight.get_by_role("searchbox")).to_have_value("RMI_REC_CREATE")
    expect(rows).to_have_count(1)
    expect(sight.get_by_role("complementary")).to_contain_text(f"Granule {rd}")
    expect(sight.locator(".row.current")).to_contain_text("RMI_REC_CREATE")
    sight.get_by_label("RMI", exact=True).uncheck()
    expect(sight.locator(".row[data-kind=RMI]")).to_have_count(0)


def test_the_tables_unfold(sight: Page) -> None:
    """From the start tables to the granule of the guest's first page."""
    sight.get_by_role("tab", name="Tables").click()
    table = sight.locator(".tree > .node > details", has_text="IPA 0x80000000")
    nested = table.locator("details").first
    nested.locator("> summary").click()
    entry = nested.locator(".entry.ASSIGNED").first
    pa = entry.locator("a.pa").inner_text()
    assert look("granule", pa)["ipas"] == [entry.locator("a.ipa").inner_text()]


def test_stage_1_unfolds_beside_them(view: Open, page: Address, counting: str) -> None:
    """The guest's own table; a link from it leads to the whole walk, through both stages."""
    opened = view(f"{page.url}#name={counting}&tab=tables")
    expect(opened.locator(".side").first).to_contain_text("Realm translation tables")
    stage1 = opened.locator(".stage1")
    expect(stage1).to_contain_text("is in no half of the address space")
    entry = stage1.locator(".entry.block")
    expect(entry).to_contain_text("[2] 0x80000000 1 GiB block → 0x80000000 ATTR_INDEX=0")
    entry.locator("a.va").click()
    stages = opened.locator(".walk-result tbody td:first-child")
    expect(stages).to_have_text([f"stage {n} level {level}" for n, level in WALK])
    expect(opened.get_by_label("kind of address")).to_have_value("el1")


def test_step_and_continue(view: Open, page: Address, counting: str) -> None:
    """A PE of a paused guest executes one instruction at a time, and then the rest."""
    opened = view(f"{page.url}#name={counting}&tab=pes")
    step = opened.get_by_role("button", name="Step")
    here = opened.locator("tr:has(.here)")
    for _ in range(2):
        before = here.inner_text()
        assert re.search("add x5|b #?0x", before)
        step.click()
        expect(here).not_to_have_text(before, use_inner_text=True)
    assert step.evaluate("step => step === document.activeElement")
    opened.get_by_role("button", name="Continue").click()
    expect(opened.locator(".state")).to_contain_text("running")
    step.click()
    expect(opened.locator(".pane")).to_contain_text("counting is running: pause it first")
    opened.get_by_role("button", name="Pause the guest").click()
    expect(opened.locator(".state")).to_contain_text("paused")


def test_the_timeline_shows_who_ran(sight: Page) -> None:
    """The lanes of PE 0: the RMM's has the time of building the realm; a click goes there."""
    sight.get_by_role("tab", name="Timeline").click()
    canvas = sight.locator(".timeline canvas")
    expect(canvas).to_be_visible()
    everything = shot(canvas)
    rmm, normal = everything[0, 158, 115], everything[139, 146, 154]
    assert rmm > 100
    assert normal > 100
    canvas.focus()
    for _ in range(6):
        sight.keyboard.press("+")
    assert shot(canvas) != everything
    sight.keyboard.press("Enter")
    expect(sight).to_have_url(re.compile(r"at=\d+"))
    canvas.hover(position={"x": 400, "y": 20})
    expect(sight.locator("#timeline-hint")).to_contain_text(re.compile(r"PE 0 (RMM|normal) for"))


def test_registers_and_pause(view: Open, page: Address) -> None:
    """The registers of a PE; a realm that is not started cannot be paused."""
    opened = view(f"{page.url}#name=watched&tab=pes")
    expect(opened.locator(".pe-registers")).to_contain_text("VTTBR_EL2")
    expect(opened.locator(".code")).to_contain_text("No code: a realm hides its registers")
    opened.get_by_role("button", name="Pause the guest").click()
    expect(opened.locator(".pane")).to_contain_text("watched is new: start it first")


def test_keyboard_alone(sight: Page) -> None:
    """Every control can be reached; the map has a cursor."""
    sight.locator("body").press("Tab")
    reached = set[str]()
    for _ in range(40):
        reached.add(sight.evaluate(FOCUSED))
        sight.keyboard.press("Tab")
    for name in (
        "instance",
        "time",
        "Live",
        "filter events",
        "events",
        "Timeline",
        "Tables",
        "PEs",
    ):
        assert any(name in each for each in reached), (name, reached)
    sight.locator(".memory canvas").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        sight.keyboard.press(key)
    expect(sight.locator(".inspector h2")).to_have_text(re.compile(r"Granule 0x40[0-9a-f]+1000"))
    sight.keyboard.press("+")
    sight.keyboard.press("-")
    sight.keyboard.press(",")
    expect(sight).to_have_url(re.compile(r"at=\d+"))
    sight.keyboard.press("l")
    expect(sight).not_to_have_url(re.compile("at="))


@pytest.mark.parametrize("size", [LAPTOP, PROJECTOR, ZOOMED])
def test_everything_fits(sight: Page, size: tuple[int, int]) -> None:
    """On a laptop, on a projector, and at 200 %: nothing is cut off at the side."""
    sight.set_viewport_size({"width": size[0], "height": size[1]})
    for part in ("header", ".worlds", ".memory", ".lower", ".inspector"):
        box = sight.locator(part).first.bounding_box()
        assert box is not None
        assert box["width"] > 100, part
        assert box["x"] >= 0, part
        assert box["x"] + box["width"] <= size[0] + 0.5, part
        assert box["height"] >= 20, part
    assert sight.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_contrast_and_names(sight: Page) -> None:
    """The rules of axe-core in each pane; those for contrast in the other themes, too."""
    install()
    sight.evaluate(AXE.read_text())

    def violations(part: str, *rules: str) -> list[tuple[str, str]]:
        only = json.dumps({"runOnly": rules} if rules else {})
        found = sight.evaluate(f"axe.run('{part}', {only}).then(result => result.violations)")
        return [(each["id"], each["nodes"][0]["html"]) for each in found]

    for pane in ("rim", "token", "tables", "walk", "realms", "pes", "events"):
        sight.locator(f"[data-tab={pane}]").click()
        expect(sight.locator(".pane")).not_to_have_text("…")
        assert violations(".pane") == [], pane
    assert violations("html") == []
    for theme in ("dark", "lecture"):
        sight.evaluate(f"document.documentElement.classList.toggle('{theme}')")
        assert violations("html", "color-contrast") == [], theme


def test_themes_differ_where_they_should(sight: Page) -> None:
    """Dark is dark; the colours of granules stay."""
    light = shot(sight.locator("header"))
    granules = shot(sight.locator(".memory canvas"))
    sight.get_by_role("button", name="◐").click()
    dark = shot(sight.locator("header"))
    brightness = [max(colours, key=colours.__getitem__)[0] for colours in (light, dark)]
    assert brightness[0] > 200
    assert brightness[1] < 60
    rtt = colour_of(sight, "REALM RTT")
    assert shot(sight.locator(".memory canvas"))[rtt] == granules[rtt]


def test_lecture_is_large(sight: Page) -> None:
    """Larger type, and the choice is remembered."""
    row = sight.locator(".world").first
    before = row.evaluate("row => parseFloat(getComputedStyle(row).fontSize)")
    sight.get_by_role("button", name="Aa").click()
    assert row.evaluate("row => parseFloat(getComputedStyle(row).fontSize)") > before * 1.2
    sight.reload()
    assert row.evaluate("row => parseFloat(getComputedStyle(row).fontSize)") > before * 1.2


def test_the_measurement_is_a_chain(sight: Page) -> None:
    """Each step follows from the one before, and the last one is the realm's RIM."""
    sight.get_by_role("tab", name="RIM").click()
    expect(sight.locator("p.rim .digest")).to_have_text(str(status("watched")["rim"]))
    again = sight.get_by_text("steps were computed again in this browser")
    (count,) = re.findall(r"^(\d+) ", again.inner_text())
    rows = sight.locator(".pane tbody tr")
    names = [row.locator("td").nth(1).inner_text() for row in rows.all()]
    assert names[0] == "REALM_CREATE"
    assert names[-1] == "REC"
    assert int(count) == names.count("DATA") + names.count("RIPAS") == len(names) - 2


def test_a_run_is_seen_and_exported(view: Open, tmp_path: Path) -> None:
    """Two browsers watch a realm up to its end; the file of its run shows the same."""
    file = tmp_path / "run.html"
    with (
        existing("short", *REALM, "--observe"),
        serving("short") as address,
        running("explore", "short", "--export", str(file)) as recorder,
    ):
        assert recorder.stderr is not None
        assert b"recording short" in recorder.stderr.readline()
        pages = [view(address.url) for _ in range(2)]
        for opened in pages:
            expect(opened.locator(".legend")).to_contain_text("REALM RD")
        assert pyvmm("start", "short").code == ExitCode.OK
        assert recorder.wait(60) == ExitCode.OK
        pages.append(view(file.as_uri()))
        for opened in pages:
            expect(opened.locator(".state")).to_contain_text("shut off")
            expect(opened.locator(".legend")).not_to_contain_text("REALM RD")
            opened.get_by_role("searchbox").fill("RMI_REALM_DESTROY")
            expect(opened.locator(".events .row")).to_have_count(1)
    recorded = pages[-1]
    recorded.get_by_role("slider", name="time").fill("300")
    expect(recorded.locator(".legend")).to_contain_text("REALM RD")
    recorded.get_by_role("tab", name="Tables").click()
    expect(recorded.locator(".tree").first).to_contain_text("Realm translation tables")
    recorded.get_by_role("tab", name="What would this access do?").click()
    recorded.get_by_role("textbox", name="address").fill(RAM)
    recorded.keyboard.press("Enter")
    expect(recorded.locator(".pane .error")).to_contain_text("not in this record")


def test_it_is_fluid(view: Open, tmp_path: Path) -> None:
    """With 10^5 granules and 10^4 events a second, the page draws in time and misses nothing."""
    stage = Stage(tmp_path / "place")
    with staged(stage) as address:
        opened = view(address.url)
        expect(opened.locator(".legend")).to_contain_text("NS UNDELEGATED")
        opened.evaluate(MEASURE)
        for n in range(30):
            stage.emit(*delegations(200 * n, 200), *accesses(400))
            opened.wait_for_timeout(100)
        expect(opened.locator('[data-code="REALM DATA"]')).to_contain_text("6,000")
        assert "skipped" not in opened.locator(".state").inner_text()
        costs = opened.evaluate("window.costs")
    assert len(costs) > 30
    assert quantiles(costs, n=10)[0] < 1000 / 30  # other work of this machine delays the others
