#!/usr/bin/env python3
"""Checks of the web page in a headless browser: see README.md."""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile

from playwright.sync_api import expect, sync_playwright

# A small model on a busy machine takes its time.
ANSWER_MS = 120_000
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


# Documents, made here.


def pdf(text):
    content = f"BT /F 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (index + 1, item) for index, item in enumerate(objects))
    return b"%PDF-1.4\n" + body + b"trailer << /Root 1 0 R >>\n%%EOF"


def docx(text):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:document>")
    return data.getvalue()


class Page:
    """A browser's window with the page, and what users do with it."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.page = self.context.new_page()
        self.problems = []
        self.foreign = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("request", lambda request: self.foreign.append(request.url) if not request.url.startswith((url, "blob:")) else None)
        self.page.goto(url)
        expect(self.page.locator("#model option").first).to_contain_text("smollm2", timeout=ANSWER_MS)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            # Answers that the checks themselves provoke are no problems of the page.
            problems = [text for text in self.problems if "status of 4" not in text and "status of 503" not in text]
            assert not problems, problems
            assert not self.foreign, f"asked elsewhere: {self.foreign}"
        self.context.close()

    def set_tokens(self, count):
        """The most tokens of an answer."""
        self.page.locator("#p-num_predict").fill(str(count))
        self.page.locator("#p-num_predict").blur()

    def say(self, text):
        self.page.locator("#prompt").fill(text)
        self.page.locator("#prompt").press("Enter")

    def answered(self):
        expect(self.page.locator("#send")).to_be_visible(timeout=ANSWER_MS)

    def last_answer(self):
        return self.page.locator(".message.assistant").last


@check
def chat_streams(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(48)
        it.say("Count from one to twenty in words.")
        text = it.last_answer().locator(".markdown")
        expect(text).not_to_be_empty(timeout=ANSWER_MS)
        lengths = set()
        while it.page.locator("#stop").is_visible():
            lengths.add(len(text.inner_text()))
            time.sleep(0.02)
        assert len(lengths) > 2, f"it came at once: {lengths}"
        expect(it.last_answer().locator(".actions .facts")).to_contain_text("tok/s")
        expect(it.page.locator("#tokens")).to_contain_text("tokens of context")
        expect(it.page.locator("#live .number")).not_to_have_text("–")
        it.last_answer().get_by_role("button", name="Copy this answer").click()
        assert it.page.evaluate("navigator.clipboard.readText()").strip()
        if shots:
            it.page.screenshot(path=shots / "desktop-light.png")


@check
def headers_keep_everything_else_out(browser, url, shots):
    with Page(browser, url) as it:
        answer = it.page.request.get(url, headers={"Accept": "text/html"})
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, policy
        assert it.page.request.get(url, headers={"Accept": "*/*"}).text() == "Ollama is running"
        assert it.page.request.get(f"{url}/page/nothing.js").status == 404
        assert it.page.request.get(f"{url}/page/..%2fCargo.toml").status == 404
        # A script within the document does not run.
        it.page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); }")
        assert it.page.evaluate("window.ran") is None
        it.problems.clear()


@check
def files_are_attached(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(8)
        files = [
            {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"# The word is heron"},
            {"name": "paper.pdf", "mimeType": "application/pdf", "buffer": pdf("The word is kestrel")},
            {"name": "letter.docx", "mimeType": "", "buffer": docx("The word is plover")},
        ]
        it.page.locator("#files").set_input_files(files)
        chips = it.page.locator(".composer .chip")
        expect(chips).to_have_count(3)
        for name in ("notes.md", "paper.pdf", "letter.docx"):
            expect(chips.filter(has_text=name)).to_contain_text("tokens", timeout=30_000)
        expect(chips.filter(has_text="paper.pdf")).to_contain_text("1 page")
        if shots:
            it.page.screenshot(path=shots / "files.png")
        it.page.get_by_role("button", name="Remove notes.md").click()
        expect(chips).to_have_count(2)
        with it.page.expect_request("**/api/chat") as asked:
            it.say("Which words?")
        sent = json.loads(asked.value.post_data)["messages"][-1]["content"]
        assert "kestrel" in sent and "plover" in sent and "heron" not in sent and 'name="paper.pdf"' in sent, sent
        it.answered()
        expect(it.page.locator(".message.user .chip")).to_have_count(2)


@check
def files_are_dropped(browser, url, shots):
    with Page(browser, url) as it:
        it.page.evaluate(
            """() => {
                const data = new DataTransfer();
                data.items.add(new File(["a,b\\n1,2\\n"], "table.csv", {type: "text/csv"}));
                dispatchEvent(new DragEvent("dragenter", {dataTransfer: data}));
                window.dropped = data;
            }"""
        )
        expect(it.page.locator("#drop")).to_be_visible()
        it.page.evaluate("() => dispatchEvent(new DragEvent('drop', {dataTransfer: window.dropped}))")
        expect(it.page.locator("#drop")).to_be_hidden()
        expect(it.page.locator(".composer .chip")).to_contain_text("table.csv")


@check
def files_that_cannot_be_read_say_why(browser, url, shots):
    with Page(browser, url) as it:
        cases = [
            ("picture.png", b"\x89PNG", "picture"),
            ("binary.dat", b"a\0b", "not a text file"),
            ("broken.pdf", b"%PDF-1.4 nothing", "damaged"),
            ("empty.txt", b"", "empty"),
            ("large.txt", b"x" * ((4 << 20) + 1), "up to 4"),
        ]
        for name, data, word in cases:
            it.page.locator("#files").set_input_files([{"name": name, "mimeType": "", "buffer": data}])
            expect(it.page.locator(".toast").last).to_contain_text(word, timeout=30_000)
            expect(it.page.locator(".composer .chip")).to_have_count(0)


@check
def an_answer_is_stopped_and_retried(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(2000)
        it.page.locator("#p-temperature").fill("0")
        it.say("Write a very long story about a lighthouse.")
        expect(it.last_answer().locator(".markdown")).not_to_be_empty(timeout=ANSWER_MS)
        it.page.keyboard.press("Escape")
        it.answered()
        expect(it.last_answer()).to_contain_text("stopped")
        assert it.last_answer().locator(".markdown").inner_text().strip(), "what came is kept"
        running = 1
        for _ in range(50):
            models = it.page.request.get(f"{url}/api/rawrz/stats").json()["models"]
            running = sum(model["running"] for model in models)
            if running == 0:
                break
            time.sleep(0.1)
        assert running == 0, "the server goes on"
        it.set_tokens(8)
        it.last_answer().get_by_role("button", name="Retry this answer").click()
        it.answered()
        expect(it.page.locator(".message")).to_have_count(2)


@check
def a_message_is_edited(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(8)
        it.say("First")
        it.answered()
        it.say("Second")
        it.answered()
        expect(it.page.locator(".message")).to_have_count(4)
        it.page.get_by_role("button", name="Edit this message").first.click()
        it.page.get_by_label("Edit the message").fill("Changed")
        it.page.keyboard.press("Enter")
        it.answered()
        expect(it.page.locator(".message")).to_have_count(2)
        expect(it.page.locator(".message.user")).to_contain_text("Changed")


@check
def conversations_are_kept(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(8)
        it.say("Remember the first conversation")
        it.answered()
        answer = it.last_answer().locator(".markdown").text_content()
        it.page.reload()
        expect(it.page.locator(".message.user")).to_contain_text("Remember the first")
        expect(it.last_answer().locator(".markdown")).to_have_text(answer)
        it.page.get_by_role("button", name="New conversation").first.click()
        expect(it.page.locator(".message")).to_have_count(0)
        it.say("The second one")
        it.answered()
        expect(it.page.locator("#conversations li")).to_have_count(2)
        it.page.locator("#conversations button", has_text="Remember").click()
        expect(it.page.locator(".message.user")).to_contain_text("Remember the first")
        it.page.get_by_role("button", name="Rename").click()
        it.page.get_by_label("Name of the conversation").last.fill("Birds")
        it.page.keyboard.press("Enter")
        expect(it.page.locator("#title")).to_have_text("Birds")
        with it.page.expect_download() as made:
            it.page.locator("#export-json").click()
        exported = json.loads(pathlib.Path(made.value.path()).read_text())
        assert exported["conversations"][0]["title"] == "Birds"
        with it.page.expect_download() as made:
            it.page.locator("#export-md").click()
        assert pathlib.Path(made.value.path()).read_text().startswith("# Birds\n\n## You\n\nRemember")
        it.page.locator("#delete").click()
        it.page.locator("dialog").get_by_role("button", name="Delete").click()
        expect(it.page.locator("#conversations li")).to_have_count(1)
        data = json.dumps(exported).encode()
        it.page.locator("#import-file").set_input_files([{"name": "a.json", "mimeType": "", "buffer": data}])
        expect(it.page.locator("#conversations li")).to_have_count(2)
        expect(it.page.locator("#title")).to_have_text("Birds")
        for bad in (b"{", b"[]", b'{"format": "rawrz-conversations", "version": 1, "conversations": 5}'):
            it.page.locator("#import-file").set_input_files([{"name": "bad.json", "mimeType": "", "buffer": bad}])
            expect(it.page.locator(".toast").last).to_contain_text("bad.json")


@check
def markdown_is_safe_and_complete(browser, url, shots):
    text = """# Title

A *word* in **bold**, `code <b>`, ~~gone~~ and snake_case_name.

- one
- two
  1. inner

| a | b |
|---|--:|
| `x|y` | 2 |

> quoted

```python
print("<script>alert(1)</script>")
```

<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>
[bad](javascript:window.hacked=1) [data](data:text/html,x) [good](https://example.com/a_b) ![pic](https://example.com/p.png)
"""
    with Page(browser, url) as it:
        found = it.page.evaluate(
            """async (text) => {
                const {render} = await import("/page/markdown.js");
                const root = document.createElement("div");
                document.body.append(root);
                render(root, text);
                const all = (query) => [...root.querySelectorAll(query)].map((node) => node.textContent);
                return {
                    h3: all("h3"), em: all("em"), strong: all("strong"), del: all("del"), code: all("p code"),
                    items: all("ul > li > ol > li"), cells: all("td"), quote: all("blockquote"), pre: all("pre"),
                    tags: [...new Set([...root.querySelectorAll("*")].map((node) => node.tagName))],
                    links: [...root.querySelectorAll("a")].map((a) => a.href), copy: all("button.copy"),
                };
            }""",
            text,
        )
        assert found["h3"] == ["Title"] and found["em"] == ["word"] and found["strong"] == ["bold"], found
        assert found["code"] == ["code <b>"] and found["del"] == ["gone"] and found["items"] == ["inner"], found
        assert found["cells"] == ["x|y", "2"] and found["quote"] == ["quoted"], found
        assert found["pre"] == ['print("<script>alert(1)</script>")'] and found["copy"] == ["Copy"], found
        assert found["links"] == ["https://example.com/a_b", "https://example.com/p.png"], found
        assert not {"IMG", "SCRIPT", "IFRAME", "B"} & set(found["tags"]), found
        assert it.page.evaluate("window.hacked") is None
        # Hostile text takes no longer than any other, and nothing overflows.
        hostile = ["*a " * 50_000, "[" * 100_000, "`a``" * 50_000, "> " * 50_000 + "x", "- " * 20_000, "|" * 100_000 + "\n|-|"]
        for text in hostile:
            took = it.page.evaluate(
                """async (text) => {
                    const {render} = await import("/page/markdown.js");
                    const started = performance.now();
                    render(document.createElement("div"), text);
                    return performance.now() - started;
                }""",
                text,
            )
            assert took < 5000, f"{text[:10]!r} takes {took} ms"


@check
def too_long_for_the_context_is_told(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(4)
        it.page.locator("#p-num_ctx").fill("200")
        it.page.locator("#p-num_ctx").blur()
        for turn in range(4):
            it.say(f"Turn {turn}: " + "some more words that fill the context " * 8)
            it.answered()
        expect(it.page.locator(".dropped")).to_contain_text("no longer sees")
        expect(it.page.locator("#tokens")).to_contain_text("left out")
        it.page.locator("#prompt").fill("some more words " * 12)
        expect(it.page.locator("#tokens")).to_contain_text("The oldest turns are left out")
        it.page.locator("#prompt").fill("word " * 1000)
        expect(it.page.locator("#tokens")).to_contain_text("longer than the context")
        it.say("word " * 1000)
        it.answered()
        expect(it.last_answer().locator(".error")).to_contain_text("context")
        expect(it.last_answer().get_by_role("button", name="Retry this answer")).to_be_visible()


@check
def errors_are_told_in_plain_words(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(4)
        it.page.route("**/api/chat", lambda route: route.abort())
        it.say("Hello")
        expect(it.last_answer().locator(".error")).to_contain_text("does not answer")
        it.page.unroute("**/api/chat")
        busy = {"status": 503, "headers": {"Retry-After": "3"}, "body": '{"error": "too many wait"}'}
        it.page.route("**/api/chat", lambda route: route.fulfill(**busy))
        it.last_answer().get_by_role("button", name="Retry this answer").click()
        expect(it.last_answer().locator(".error")).to_contain_text("Try again in 3 s")
        it.page.unroute("**/api/chat")
        it.last_answer().get_by_role("button", name="Retry this answer").click()
        it.answered()
        expect(it.last_answer().locator(".error")).to_have_count(0)
        it.problems = [text for text in it.problems if "net::ERR_FAILED" not in text]


@check
def the_theme_follows_the_system_and_the_button(browser, url, shots):
    background = "getComputedStyle(document.body).backgroundColor"
    with Page(browser, url, color_scheme="dark") as it:
        dark = it.page.evaluate(background)
        it.set_tokens(40)
        it.say("Show a short Python function that adds two numbers, in a code block.")
        it.answered()
        if shots:
            it.page.screenshot(path=shots / "desktop-dark.png")
        it.page.locator("#theme").click()
        expect(it.page.locator("#theme")).to_have_attribute("aria-label", "Theme: light")
        light = it.page.evaluate(background)
        assert dark != light
        it.page.reload()
        assert it.page.evaluate(background) == light, "the choice is kept"
        it.page.locator("#theme").click()
        assert it.page.evaluate(background) == dark


@check
def it_fits_a_phone(browser, url, shots):
    with Page(browser, url, viewport=PHONE, has_touch=True, is_mobile=True) as it:
        def fits():
            return it.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        it.page.locator("#open-panel").click()
        it.set_tokens(30)
        expect(it.page.locator("#panel")).to_be_in_viewport()
        it.page.wait_for_timeout(400)
        if shots:
            it.page.screenshot(path=shots / "phone-panel.png")
        it.page.keyboard.press("Escape")
        expect(it.page.locator("#panel")).to_be_hidden()
        it.say("Name three birds.")
        it.answered()
        assert fits()
        if shots:
            it.page.screenshot(path=shots / "phone.png")
        it.page.locator("#open-list").click()
        expect(it.page.locator("#list")).to_be_in_viewport()
        assert fits()
        it.page.wait_for_timeout(400)
        if shots:
            it.page.screenshot(path=shots / "phone-list.png")
        it.page.locator("#conversations button").first.click()
        expect(it.page.locator("#list")).to_be_hidden()


@check
def the_keyboard_is_enough(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(8)
        keys = it.page.keyboard
        keys.press("Alt+KeyN")
        keys.type("A line")
        keys.press("Shift+Enter")
        keys.type("and another")
        keys.press("Enter")
        it.answered()
        assert it.page.locator(".message.user .text").inner_text() == "A line\nand another"
        # Every control is reached in the order of the page, and seen.
        it.page.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(60):
            keys.press("Tab")
            now = it.page.evaluate(
                """() => {
                    const at = document.activeElement;
                    const style = getComputedStyle(at);
                    // Between the last control and the first the browser's own are reached.
                    const seen = style.outlineStyle !== "none" || at.id === "prompt" || at === document.body;
                    return [at.id || at.getAttribute("aria-label") || at.textContent.trim(), seen];
                }"""
            )
            assert now[1], f"{now[0]} shows no focus"
            reached.append(now[0])
        for control in ("open-list", "model", "theme", "open-keys", "new", "scroll", "Copy this answer", "attach", "prompt", "p-system", "p-temperature"):
            assert control in reached, f"{control} is not among {reached}"
        assert reached.index("model") < reached.index("new") < reached.index("attach") < reached.index("prompt")
        it.page.evaluate("document.activeElement.blur()")
        keys.press("?")
        expect(it.page.locator("dialog")).to_contain_text("Shift")
        keys.press("Escape")
        expect(it.page.locator("dialog")).to_have_count(0)
        keys.press("/")
        assert it.page.evaluate("document.activeElement.id") == "prompt"
        keys.press("Alt+KeyM")
        assert it.page.evaluate("document.activeElement.id") == "model"
        keys.press("Alt+KeyP")
        expect(it.page.locator("#panel")).to_be_hidden()
        keys.press("Alt+KeyP")
        with it.page.expect_file_chooser():
            keys.press("Alt+KeyU")


@check
def figures_are_live(browser, url, shots):
    with Page(browser, url) as it:
        it.set_tokens(200)
        it.say("Write about the sea.")
        expect(it.page.locator("#live")).to_contain_text("of the bound", timeout=ANSWER_MS)
        for text in ("read per token", "Memory", "KV cache", "Layers", "1 running"):
            expect(it.page.locator("#live")).to_contain_text(text, timeout=20_000)
        expect(it.page.locator("#model-facts")).to_contain_text("budget")
        it.page.locator("#stop").click()
        it.answered()


def axe_source(given):
    """axe-core's script: what was given, or the newest that npm has."""
    if given:
        return pathlib.Path(given).read_text()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", "axe-core"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = pathlib.Path(folder).glob("axe-core-*.tgz")
        with tarfile.open(archive) as packed:
            return packed.extractfile("package/axe.min.js").read().decode()


@check
def axe_finds_nothing_serious(browser, url, shots):
    for name, options in [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
    ]:
        # The policy keeps scripts of others out, axe-core too; for this check only it is put aside.
        with Page(browser, url, bypass_csp=True, **options) as it:
            if name == "phone":
                it.page.locator("#open-panel").click()
            it.set_tokens(24)
            if name == "phone":
                it.page.keyboard.press("Escape")
            it.page.locator("#files").set_input_files([{"name": "a.txt", "mimeType": "", "buffer": b"text"}])
            it.say("Write a line of code.")
            it.answered()
            it.page.evaluate("async (text) => (await import('/page/markdown.js')).render(document.querySelector('.markdown'), text)", "# A\n\n```js\nlet a = 1;\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n> quote [link](https://example.com)")
            it.page.evaluate(AXE)
            states = [("page", lambda: None)]
            if name == "phone":
                states.append(("list", lambda: it.page.locator("#open-list").click()))
            else:
                states.append(("keys", lambda: it.page.locator("#open-keys").click()))
            for state, enter in states:
                enter()
                it.page.wait_for_timeout(400)
                found = it.page.evaluate("axe.run()")["violations"]
                told = [(rule["impact"], rule["id"], [node["target"] for node in rule["nodes"]][:4]) for rule in found]
                print(f"   axe, {name}, {state}: {told or 'nothing'}")
                assert not [rule for rule in told if rule[0] in ("serious", "critical")], told


def main():
    global AXE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:11434")
    parser.add_argument("--chromium", help="the browser's program, instead of Playwright's own")
    parser.add_argument("--screenshots", type=pathlib.Path)
    parser.add_argument("--axe", help="axe.min.js, instead of fetching it")
    parser.add_argument("checks", nargs="*", help="parts of names; all without")
    args = parser.parse_args()
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    chosen = [function for function in CHECKS if not args.checks or any(part in function.__name__ for part in args.checks)]
    AXE = axe_source(args.axe) if any("axe" in function.__name__ for function in chosen) else ""
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for function in chosen:
            started = time.monotonic()
            try:
                function(browser, args.url.rstrip("/"), args.screenshots)
                print(f"ok     {function.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
        browser.close()
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
