"""The page Playground in a real browser, on real engines: chats, two models side by side, forms."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.conftest import ALPHA, MISSING, ODD, Dashboard
from tests.whole.harness import Gateway, model, wait_until

pytestmark = pytest.mark.usefixtures("nothing_loaded")


def opens(dashboard: Dashboard, name: str, **parameters: str) -> Page:
    """The playground with a model, and values in its fields for parameters."""
    page = dashboard.opens("#/playground")
    page.get_by_label("Model", exact=True).select_option(name)
    for label, value in parameters.items():
        page.get_by_label(label, exact=True).fill(value)
    return page


def answer(page: Page, number: int = 0) -> Locator:
    return page.locator(".answer").nth(number)


def test_a_chat_is_held_by_keyboard_and_goes_on_when_another_page_was_looked_at(
    dashboard: Dashboard,
) -> None:
    page = opens(dashboard, ALPHA, max_tokens="6", temperature="0")
    page.get_by_label("Message").focus()
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("a river?")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("What is\na river?Edit")
    expect(answer(page).locator(".times")).to_contain_text("6 tokens")
    expect(answer(page).locator(".times")).to_contain_text("first token")
    expect(page.get_by_label("Message")).to_be_focused()
    page.locator("nav a", has_text="Charts").click()
    page.locator("nav a", has_text="Playground").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_label("Message").fill("And a lake?")
        page.keyboard.press("Enter")
    asked = json.loads(sent.value.post_data or "")
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert asked["messages"][1]["content"] == answer(page).locator(".text").last.text_content()
    assert (asked["max_tokens"], asked["temperature"]) == (6, 0)
    expect(answer(page, 1).locator(".times")).to_contain_text("6 tokens")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_a_stop_frees_the_slot(gateway: Gateway, dashboard: Dashboard) -> None:
    page = opens(dashboard, ALPHA, max_tokens="400")
    page.get_by_label("Others, as JSON").fill('{"ignore_eos": true}')
    page.get_by_label("Message").fill("Tell me a story.")
    page.get_by_role("button", name="Send").click()
    expect(answer(page).locator(".text").last).not_to_be_empty()
    assert gateway.busy_slots(ALPHA) == 1
    page.keyboard.press("Escape")
    expect(answer(page).locator(".head")).to_contain_text("stopped")
    wait_until(lambda: gateway.busy_slots(ALPHA) == 0, "its slot is free")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_two_models_answer_side_by_side_each_with_its_times(dashboard: Dashboard) -> None:
    page = opens(dashboard, ALPHA, max_tokens="5")
    page.get_by_label("Compare with").select_option(ODD)
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    for number, name in enumerate((ALPHA, ODD)):
        expect(answer(page, number).locator("b")).to_have_text(name)
        expect(answer(page, number).locator(".times")).to_contain_text("tokens/s")
    left, right = (answer(page, number).bounding_box() for number in (0, 1))
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    dashboard.shot("playground-two")
    page.set_viewport_size({"width": 390, "height": 844})
    assert not dashboard.scrolls_sideways()


def test_an_error_is_told_in_the_gateway_s_words(dashboard: Dashboard) -> None:
    page = opens(dashboard, MISSING)
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(answer(page).locator(".why")).to_contain_text("there is no file")
    page.get_by_label("Others, as JSON").fill("{")
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".settings .why")).to_contain_text("no JSON")
    expect(page.locator(".turn")).to_have_count(1)


def test_an_image_is_not_taken_for_a_model_that_does_not_see(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    gateway.chat(ALPHA)
    page = opens(dashboard, ALPHA)
    page.get_by_role("button", name="Image").click()
    expect(page.locator(".toast")).to_contain_text("does not see")


def test_an_image_is_made_small_and_sent_with_the_message(dashboard: Dashboard) -> None:
    page = opens(dashboard, ALPHA)  # which is not loaded: whether it sees is not known
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Image").click()
    chooser.value.set_files(dashboard.shot("playground"))
    expect(page.locator(".composer canvas")).to_have_count(1)
    page.get_by_label("Message").fill("What is it?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    text, image = json.loads(sent.value.post_data or "")["messages"][-1]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    expect(page.locator(".said canvas")).to_have_count(1)
    expect(answer(page).locator(".why")).to_contain_text("image")


def test_the_command_and_the_program_are_the_request(
    gateway: Gateway, dashboard: Dashboard
) -> None:
    words = "It's \"odd\" $HOME `x` \\ 'q' \n ü"
    page = opens(dashboard, ODD, max_tokens="3", stop="</s>")
    page.get_by_label("Others, as JSON").fill('{"top_k": 1, "ignore_eos": true}')
    page.get_by_label("Message").fill(words)
    page.get_by_text("As curl and Python").click()
    expect(page.locator(".curl")).to_contain_text("odd")
    result = gateway.run(["sh", "-c", page.locator(".curl").inner_text()])
    assert "data: [DONE]" in result.stdout, result.stdout
    tree = ast.parse(page.locator(".python").inner_text())
    [call] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "client.chat.completions.create"
    ]
    told = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send").click()
    assert {**told, **told.pop("extra_body"), "extra_body": None} == {
        **json.loads(sent.value.post_data or ""),
        "extra_body": None,
    }
    assert told["messages"][-1]["content"] == words
    expect(answer(page).locator(".times")).to_contain_text("3 tokens")


@pytest.fixture
def with_forms(browser: Browser) -> Iterator[Dashboard]:
    """A dashboard of a gateway with models for embeddings and for ranking."""
    models = {"vectors": ["--embeddings", "--pooling", "mean"], "ranks": ["--reranking"]}
    gateway = Gateway([model(name, extra_args=options) for name, options in models.items()])
    context = browser.new_context()
    try:
        gateway.start()
        dashboard = Dashboard(context.new_page(), gateway)
        yield dashboard
        assert dashboard.faults == []
        context.close()
        gateway.stop()
    finally:
        gateway.clean_up()


def test_embeddings_are_compared_and_documents_ranked(with_forms: Dashboard) -> None:
    page = opens(with_forms, "vectors")
    page.get_by_role("button", name="Embeddings").click()
    page.get_by_label("Text", exact=True).fill("A river")
    page.get_by_label("Compared with").fill("A river")
    page.get_by_role("button", name="Embed", exact=True).click()
    facts = page.locator(".facts")
    expect(facts).to_contain_text("Cosine1.0000")
    expect(facts).to_contain_text("576 numbers")
    with_forms.shot("playground-embeddings")
    page.get_by_role("button", name="Rerank").click()
    page.get_by_label("Query").fill("What is a river?")
    page.get_by_label("Documents").fill("Water\nFire and flames\n")
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator(".tool .why")).to_contain_text("rerank")
    page.get_by_label("Model", exact=True).select_option("ranks")
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator(".ranks li")).to_have_count(2)
    expect(page.locator(".ranks")).to_contain_text("Fire and flames")
