"""Promises of llamagw.web: who gets a page, what it may load, and that names in it are text.
What the dashboard does in a browser is tried by tests/ui.

The real tree in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

from twisted.trial.unittest import SynchronousTestCase

from llamagw import __version__
from llamagw import web as wing
from llamagw.dialects import OWN, ROUTES
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import Answer, answers, request, response

#: As browsers send it for a page that somebody opens.
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

FOLDER = Path(wing.__file__).parent
FILES = [
    path for path in FOLDER.rglob("*.*") if path.suffix in (".html", ".js", ".css", ".svg", ".txt")
]
VENDOR = FOLDER.parents[1] / "deploy" / "vendor.py"


class PageTestCase(BenchTestCase):
    def get(
        self, path: str = "/ui/", accept: str | None = CHROMIUM, method: str = "GET", **headers: str
    ) -> Answer:
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        pairs += [] if accept is None else [("Accept", accept)]
        [answer] = self.bench.asks(request(path=path, method=method, headers=pairs))
        return answer

    def assert_page(self, answer: Answer, status: int = 200) -> None:
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn(b"<!doctype html>", answer.body)


class NegotiationTests(PageTestCase):
    def test_a_browser_gets_a_page(self) -> None:
        for accept in (CHROMIUM, FIREFOX, "text/html", "TEXT/HTML;q=0.9 , application/json;q=0.1"):
            self.assertEqual(self.get("/", accept=accept).status, 302)
        answer = self.get()
        self.assert_page(answer)
        self.assertIn(__version__.encode(), answer.body)

    def test_everybody_else_gets_json_as_ever(self) -> None:
        for accept in (
            None,
            "",
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "application/json, text/html",
            "text/html;q=0.5, application/json",
            "text/html;q=0, */*",
            "text/html;q=0.1, */*;q=0.2",
            "text/html;q=0.1, application/*",
            "text/htmlx",
            "," * 8000 + "text/html",
        ):
            error = self.assert_envelope(self.get("/", accept=accept), 404)
            self.assertEqual(error["code"], "path_not_found", accept)

    def test_only_a_get_is_for_a_page(self) -> None:
        answer = self.get(method="HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        for method in ("POST", "DELETE"):
            self.assert_envelope(self.get("/", method=method), 404)
            self.assert_envelope(self.get(method=method), 405)

    def test_what_is_no_page_is_json_to_a_browser_too(self) -> None:
        for path in ("/health", "/v1/models", "/models"):
            self.assertEqual(self.get(path).headers["Content-Type"], "application/json")
        for path in ("/web/", "/web/pages.py", "/web/offer.html", "/web/..%2f__init__.py"):
            self.assert_envelope(self.get(path), 404, open_to_all=True)
        for path in ("/ui/a/b", "/ui/..%2foffer.js"):
            self.assert_envelope(self.get(path), 404)
        for path in ("/ui/pages.py", "/ui/index.html"):
            self.assert_envelope(self.get(path), 404, open_to_all=False)


class PolicyTests(PageTestCase):
    def test_a_page_may_load_and_run_only_files_of_its_own_origin(self) -> None:
        self.bench = Bench(loaded=False)
        for path in ("/", "/ui/", "/ui/app.js", "/upstream/small/", "/web/icon.svg"):
            answer = self.get(path)
            policy = answer.headers["Content-Security-Policy"].split("; ")
            self.assertIn("default-src 'none'", policy)
            self.assertIn("script-src 'self'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            for word in ("unsafe", "data:", "http", "*"):
                self.assertNotIn(word, "; ".join(policy))
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertIsNone(answer.headers["Access-Control-Allow-Origin"])

    def test_a_page_has_no_script_or_style_in_its_html(self) -> None:
        self.bench = Bench(loaded=False)
        for path in ("/ui/", "/upstream/small/"):
            page = Page(self.get(path).body.decode())
            self.assertEqual(page.inline, [])
            self.assertGreater(len(page.loads), 2)
            for link in page.loads:
                where = urljoin(f"http://gateway{path}", link)
                self.assertTrue(where.startswith(("http://gateway/web/", "http://gateway/ui/")))
                answer = self.get(where.removeprefix("http://gateway"), accept="*/*")
                self.assertEqual(answer.status, 200)
                self.assertNotIn("html", answer.headers["Content-Type"])

    def test_a_page_of_another_origin_may_not_have_it(self) -> None:
        self.bench.site.connections.loopback = True
        for headers in (
            {"Origin": "https://evil.example"},
            {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "iframe"},
        ):
            self.assert_envelope(self.get(**headers), 403, open_to_all=False)

    def test_all_of_it_is_small(self) -> None:
        page = len(self.get().body)
        # What a browser loads of it: the page is made of a template, and nobody asks for a licence.
        loaded = [*FOLDER.glob("ui/*.js"), *FOLDER.glob("ui/*.css")]
        self.assertGreater(len(loaded), 15)
        self.assertLess(page + sum(path.stat().st_size for path in loaded), 220_000)

    def test_no_file_makes_html_of_text_or_names_another_server(self) -> None:
        for path in FILES:
            if path.name.startswith("uplot."):
                continue
            text = path.read_text()
            for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
                self.assertNotIn(word, text, path)
            text = text.replace("http://www.w3.org/2000/svg", "")
            text = text.replace("such as http://localhost:8000/", "")
            self.assertIsNone(re.search(r"https?:|//\w+\.", text), path)

    def test_what_is_of_others_is_as_it_was_published_with_its_licence(self) -> None:
        spec = importlib.util.spec_from_file_location("vendor", VENDOR)
        assert spec is not None
        assert spec.loader is not None
        vendor = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(vendor)
        told = dict(vendor.FILES.values())
        kept = {path.name: path for path in FILES if path.name.startswith("uplot.")}
        self.assertEqual(
            {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()},
            told,
        )
        self.assertIn("The MIT License", kept["uplot.LICENSE.txt"].read_text())


class DashboardTests(PageTestCase):
    def test_a_browser_is_led_there_below_a_proxy_s_prefix_too(self) -> None:
        for path in ("/", "/ui"):
            answer = self.get(path)
            self.assertEqual((answer.status, answer.headers["Location"]), (302, "ui/"))
        self.assertEqual(self.get("/").headers["Vary"], "Accept")

    def test_it_lists_all_endpoints(self) -> None:
        page = self.get().body.decode()
        paths = [*(own.path for own in OWN), *(path for r in ROUTES for path in r.paths)]
        for path in paths:
            self.assertIn(f"<code>{path}</code>", page)
        self.assertNotIn("`", page)

    def test_it_names_no_model_itself(self) -> None:
        self.bench = Bench(["<script>alert(1)</script>"])
        self.assertNotIn(b"alert", self.get().body)

    def test_a_file_that_the_browser_has_is_not_sent_again(self) -> None:
        for path in ("/ui/", "/ui/uplot.js"):
            first = self.get(path)
            self.assertEqual(first.headers["Cache-Control"], "no-cache")
            again = self.get(path, If_None_Match=first.headers["ETag"])
            self.assertEqual((again.status, again.body), (304, b""))
            self.assertEqual(self.get(path, If_None_Match='"other"').body, first.body)

    def test_where_it_is_off_there_is_none_and_a_browser_is_told_so(self) -> None:
        self.bench = Bench(ui=False)
        for path in ("/ui/", "/ui", "/ui/app.js"):
            error = self.assert_envelope(self.get(path), 404, open_to_all=False)
            self.assertIn("`ui: false`", error["message"])
        self.assert_envelope(self.get("/"), 404)


class OfferTests(PageTestCase):
    """A browser asks for the page of an engine whose model is not loaded."""

    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(["small", "org/big", '<b onload="x()">&$name'], loaded=False)

    def test_it_is_offered_to_load_the_model_and_nothing_is_loaded_yet(self) -> None:
        for path in ("/upstream/small/", "/upstream/small/slots?x=1"):
            answer = self.get(path)
            self.assert_page(answer, 409)
            self.assertEqual(Page(answer.body.decode()).model, "small")
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))

    def test_the_name_in_it_is_text(self) -> None:
        answer = self.get("/upstream/%3Cb%20onload=%22x()%22%3E&$name/")
        self.assert_page(answer, 409)
        self.assertNotIn(b"<b ", answer.body)
        self.assertEqual(Page(answer.body.decode()).model, '<b onload="x()">&$name')

    def test_its_files_are_found_from_any_depth_and_below_a_prefix(self) -> None:
        for path in (
            "/upstream/small/",
            "/upstream/org/big/",
            "/upstream/org%2Fbig/a/b",
            "/upstream/small/a/",
        ):
            for link in Page(self.get(path).body.decode()).loads:
                where = urljoin(f"http://proxy/prefix{path}", link)
                self.assertRegex(where, r"^http://proxy/prefix/web/\w+\.\w+$")

    def test_other_clients_are_answered_as_ever(self) -> None:
        for accept in (None, "*/*", "application/json"):
            error = self.assert_envelope(
                self.get("/upstream/small/", accept), 409, open_to_all=False
            )
            self.assertEqual(error["code"], "model_not_loaded")

    def test_a_page_of_another_origin_is_turned_away(self) -> None:
        answer = self.get("/upstream/small/", Origin="https://evil.example")
        self.assert_envelope(answer, 403, open_to_all=False)

    def test_a_name_that_is_not_known_and_a_slash_that_lacks_are_told_as_ever(self) -> None:
        error = self.assert_envelope(self.get("/upstream/smal/"), 404, open_to_all=False)
        self.assertIn("Did you mean `small`?", error["message"])
        answer = self.get("/upstream/small")
        self.assertEqual((answer.status, answer.headers["Location"]), (308, "/upstream/small/"))

    def test_a_loaded_model_s_page_is_the_engine_s_and_is_asked_for_each_time(self) -> None:
        self.bench.load("small")
        kept = ("Cache-Control", "public, max-age=31536000, immutable")
        for accept, told in ((CHROMIUM, "no-cache"), ("*/*", kept[1])):
            client = self.bench.client(
                request(path="/upstream/small/", headers=[("Accept", accept)])
            )
            closing = ("Connection", "close")
            self.bench.backend().says(response(b"<p>engine", headers=[kept, closing]))
            self.bench.settle()
            [answer] = answers(bytes(client.heard))
            self.assertEqual((answer.status, answer.body), (200, b"<p>engine"))
            self.assertEqual(answer.headers.get_all("Cache-Control"), [told])

    def test_a_model_that_is_on_its_way_out_is_not_loaded(self) -> None:
        self.bench.load("small")
        self.bench.streaming()
        self.bench.dispatcher.unload("small")
        self.assert_page(self.get("/upstream/small/"), 409)

    def test_an_engine_s_page_can_leave_nothing_behind_that_answers_instead(self) -> None:
        self.bench.load("small")
        answer = self.get("/upstream/small/sw.js", "*/*", Service_Worker="script")
        self.assert_envelope(answer, 404, open_to_all=False)
        self.assertEqual(self.bench.connects, 0)

    def test_who_asks_for_the_load_gets_no_offer(self) -> None:
        client = self.bench.client(
            request(path="/upstream/small/?autoload=true", headers=[("Accept", CHROMIUM)])
        )
        self.bench.settle()
        self.bench.backend().says(response(b"engine"))
        self.bench.settle()
        self.assertIn(b"engine", client.heard)


class Page(HTMLParser):
    """
    What a page has in it.

    :ivar loads: what it loads
    :ivar inline: scripts, styles and handlers in it
    :ivar model: the text of the element `model`
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.model = ""
        self._open: tuple[str, str | None] = ("", None)
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._open = (tag, found.get("id"))
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        link = found.get("src") or (found.get("href") if tag == "link" else None)
        if link is not None:
            self.loads.append(link)

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", None)

    def handle_data(self, data: str) -> None:
        tag, name = self._open
        if tag in ("script", "style"):
            self.inline.append(data)
        if name == "model":
            self.model += data


class PackageTests(SynchronousTestCase):
    def test_every_file_of_the_pages_is_in_the_wheel(self) -> None:
        setup = (FOLDER.parents[1] / "setup.cfg").read_text()
        for path in FILES:
            folder = "" if path.parent == FOLDER else "ui/"
            self.assertIn(f"    {folder}*{path.suffix}\n", setup)
