"""The page in a real browser: nothing from outside, by mouse and by keys, on a phone and on a desk."""

import json
import re
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from src.service import app
from src.service.app import create_app
from src.service.settings import Access
from tests.helpers.chromium import CHROMIUM, Chromium
from tests.service.conftest import Conditioned, make_service

PAGE = Path(app.__file__).with_name("page")


def test_the_page_names_nothing_outside():
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w+|@import|url\(", re.sub(r"^\s*//.*$", "", text, flags=re.M)), file
        assert not re.search(r"<script(?! type=\"module\" src=\"/page/)|style=|onclick=", text), file


def test_the_page_comes_with_its_policy(serve):
    client = serve().client
    for path in ("/", "/api", "/page/main.js", "/page/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.fixture
def address(tmp_path, request):
    """A service in this process, with the access that a test asks for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    param = getattr(request, "param", Access())
    access, model = (param, None) if isinstance(param, Access) else (Access(), param())
    service = make_service(tmp_path, model=model, access=access)
    net = service.model.pipeline.denoiser.net
    net.register_forward_hook(lambda *_: time.sleep(0.1))  # so that there is something to watch
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def browser_test(function):
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")(function))


WATCH = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector("[role=status]")?.textContent))
  .observe(document.querySelector("main"), {subtree: true, childList: true, characterData: true})
"""
BOX = (
    "(() => { const b = document.querySelector('#editor').getBoundingClientRect(); return [b.left, b.top, b.width] })()"
)
RED = """((canvas) => Array.from(
  canvas.getContext("2d").getImageData(0, 0, 4, 4).data.filter((_, i) => i % 4 == 0)
))"""
PIXELS = f"{RED}(document.querySelector('#editor'))"
RESULTS = f"[...document.querySelectorAll('.samples canvas')].map({RED})"
DONE = "document.body.innerText.includes('Link to this result')"


@browser_test
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_from_noise_to_the_gallery(address, width, dark):
    with Chromium(width, 800, dark) as page:
        page.open(f"{address}/#/generate?n=6&seed=5&steps=3&sampler=heun")
        page.until("document.querySelector('form button.main')")
        assert page.js("[...new FormData(document.querySelector('main form'))]") == [
            ["n", "6"], ["sampler", "heun"], ["steps", "3"], ["seed", "5"]
        ]  # fmt: skip
        page.js(WATCH)
        page.click("form button.main")
        page.until(DONE)
        steps = [text for text in dict.fromkeys(page.js("seen")) if text and text.startswith("step")]
        assert len(steps) >= 5, "the watch may begin after step 0"
        assert steps == [f"step {i} of 6" for i in range(7)][-len(steps) :]
        assert page.js("document.querySelectorAll('.samples button canvas').length") == 6
        assert page.js("document.querySelector('.samples canvas').width") == 4
        assert page.js("location.hash").startswith("#/generate?")
        link = page.js("document.querySelector('a[href^=\"#/job/\"]').getAttribute('href')")
        page.js("[...document.querySelectorAll('button')].find(b => b.textContent == 'Good').click()")
        page.until("[...document.querySelectorAll('button')].find(b => b.textContent == 'Good').ariaPressed == 'true'")

        page.js("location.hash = '#/gallery?text=heun&thumb=1'")
        page.until("document.querySelectorAll('.gallery .card').length == 1")
        assert page.js("document.querySelector('.gallery a').getAttribute('href')") == link
        page.js("document.querySelector('.gallery a').click()")
        page.until("document.querySelectorAll('.samples button canvas').length == 6")
        page.js("location.hash = '#/run'")
        page.until("document.querySelector('svg polyline')")
        assert page.js("document.documentElement.scrollWidth") <= width, "no sideways scrolling"
        background = page.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark
        assert page.problems == []
        outside = [url for url in page.requests if not url.startswith((address, "data:", "blob:", "about:"))]
        assert outside == []


@browser_test
def test_drawing_with_the_mouse_and_with_keys(address):
    with Chromium(1000, 1200) as page:
        page.open(f"{address}/#/edit")
        page.until("document.querySelector('#editor')")
        left, top, size = page.js(BOX)
        page.drag((left + size / 8, top + size / 8), (left + 7 * size / 8, top + size / 8))
        drawn = page.js(PIXELS)
        assert drawn[:4] == [255] * 4
        assert drawn[8:] == [0] * 8
        page.js("document.querySelector('#editor').focus()")
        for key in ("ArrowDown", "ArrowLeft", "ArrowLeft", " "):
            page.key(key)
        page.key("Tab")
        page.until("document.activeElement.id != 'editor'")
        assert page.js(PIXELS)[12] == 255
        page.click("form button.main")
        page.until(DONE)
        page.until(f"Math.max(...{RESULTS}.flat()) == 255")
        given, flipped = page.js(RESULTS)
        assert max(abs(a - b) for a, b in zip(given, page.js(PIXELS), strict=True)) <= 1
        assert flipped == [value for row in range(3, -1, -1) for value in given[4 * row : 4 * row + 4]]
        assert page.problems == []


@browser_test
@pytest.mark.parametrize("address", [Conditioned], indirect=True)
def test_a_field_for_each_condition(address):
    with Chromium(360, 900) as page:
        page.open(f"{address}/#/generate?n=1&seed=5&label=1&condition.vector.0=0.5&condition.text=a+dog")
        page.until("document.querySelector('form button.main')")
        assert page.js("[...document.querySelectorAll('main form label')].map(l => l.firstChild.textContent)") == [
            "Samples", "Sampler", "Steps", "Seed", "Class", "Mass", "Age", "Text", "Image"
        ]  # fmt: skip
        page.click("form button.main")
        page.until("document.body.innerText.includes('Fill in age too')")
        page.js("document.querySelector('[name=\"condition.vector.1\"]').value = -2")
        page.js("""new Promise((done) => {
          const canvas = Object.assign(document.createElement("canvas"), {width: 2, height: 2});
          canvas.getContext("2d").fillStyle = "white";
          canvas.getContext("2d").fillRect(0, 0, 2, 1);
          canvas.toBlob((blob) => {
            const files = new DataTransfer(), input = document.querySelector("[type=file]");
            files.items.add(new File([blob], "a.png"));
            input.files = files.files;
            input.dispatchEvent(new Event("change"));
            done();
          });
        })""")
        page.until("document.querySelector('[type=file]').dataset.url")
        page.click("form button.main")
        page.until(DONE)
        address_bar = page.js("location.hash")
        for part in ("condition.label=1", "condition.vector.0=0.5", "condition.vector.1=-2", "condition.text=a+dog"):
            assert part in address_bar
        job = json.loads(page.js("fetch('/jobs').then(r => r.text())"))[0]
        assert job["settings"]["condition"] == {"label": 1, "vector": [0.5, -2], "text": "a dog"}
        assert job["settings"]["images"] == ["image"]
        assert page.js("document.documentElement.scrollWidth") <= 360
        page.js("location.hash = '#/edit'")
        page.until("document.querySelector('#editor')")
        assert page.js("document.querySelectorAll('[name^=\"condition.\"]').length") == 4, "no image in a task"
        assert page.problems == []


@browser_test
@pytest.mark.parametrize("address", [Access("secret", None)], indirect=True)
def test_the_page_asks_for_the_token(address):
    with Chromium() as page:
        page.open(address)
        page.until("document.querySelector('#token')?.hidden === false")
        page.js("document.querySelector('[name=token]').value = 'secret'")
        page.click("#token button")
        page.until("document.querySelector('main form')")
        assert page.js("document.title") == "tiny"
        assert not [url for url in page.requests if "secret" in url]
        assert json.loads(page.js("JSON.stringify(performance.getEntriesByType('resource').length)")) >= 3
