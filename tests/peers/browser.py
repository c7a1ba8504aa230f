"""Opens the status page in Debian's Chromium, by WebDriver, as an operator does.

    browser.py JSON            url (of the admin port), token, hostile (a certificate, PEM), der (a certificate, base64), axe (axe.min.js), port
                               (for chromedriver), screenshots (a folder; none are kept without it), service (asks once more, a command line)

Prints what came of it: {"login": …, "pages": [{"name", "scheme", "width", "violations", "overflow", "ground"}], "keyboard": {page: [names]},
"blocked", "dropped", "refreshed", "paused", "logout", "console"}. "blocked" says what the content security policy stops.
"""

import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SECONDS = 120
WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# WebDriver's codes of keys.
TAB, SHIFT, ENTER, NULL = "\ue004", "\ue008", "\ue007", "\ue000"


class Browser:
    """A session of chromedriver."""

    def __init__(self, port, folder):
        self.log = open(pathlib.Path(folder) / "chromedriver.log", "wb")
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.base = f"http://127.0.0.1:{port}"
        self.wait(lambda: self.call("GET", "/status")["ready"], "chromedriver")
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
                     f"--user-data-dir={folder}/profile"]
        asked = {"browserName": "chrome", "timeouts": {"script": SECONDS * 1000, "pageLoad": SECONDS * 1000}, "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:2000]}") from error

    def wait(self, holds, what):
        until = time.monotonic() + SECONDS
        while True:
            try:
                if holds():
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > until:
                raise RuntimeError(f"waited in vain: {what}")
            time.sleep(0.1)

    def post(self, path, body):
        return self.call("POST", self.session + path, body)

    def go(self, url):
        self.post("/url", {"url": url})

    def run(self, script, *arguments):
        return self.post("/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command, **parameters):
        return self.post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        return self.post("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.post(f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.post(f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys):
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": down + up}]})

    def look(self, scheme, width):
        wide, high = WIDTHS[width]
        self.devtools("Emulation.setDeviceMetricsOverride", width=wide, height=high, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def console(self):
        return [entry["message"] for entry in self.post("/se/log", {"type": "browser"}) if entry["level"] in ("WARNING", "SEVERE")]

    def close(self):
        try:
            self.call("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.log.close()


def checked(browser, given, name):
    """Each page in both schemes at both widths."""
    axe = pathlib.Path(given["axe"]).read_text()
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            browser.look(scheme, width)
            browser.run(axe)
            result = browser.post("/execute/async", {"script": "const done = arguments[0]; axe.run().then(done)", "args": []})
            found = [[violation["id"], violation["nodes"][0]["html"], violation["nodes"][0]["failureSummary"]] for violation in result["violations"]]
            overflow = browser.run("return document.scrollingElement.scrollWidth - innerWidth")
            ground = browser.run("return getComputedStyle(document.body).backgroundColor")
            if given.get("screenshots"):
                shot = browser.devtools("Page.captureScreenshot", captureBeyondViewport=True, format="png", clip=dict(
                    x=0, y=0, scale=1, width=WIDTHS[width][0], height=min(browser.run("return document.documentElement.scrollHeight"), 4000)))
                path = pathlib.Path(given["screenshots"]) / f"{name}-{width}-{scheme}.png"
                path.write_bytes(base64.b64decode(shot["data"]))
            yield {"name": name, "scheme": scheme, "width": width, "violations": found, "overflow": overflow, "ground": ground,
                   "passes": len(result["passes"])}
    browser.look("light", "desktop")


NAME = """const it = document.activeElement;
if (it === document.body) return null;
const style = getComputedStyle(it);
const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
return [it.getAttribute('aria-label') || (it.labels && it.labels[0] && it.labels[0].textContent) || it.textContent.trim(), shown];"""


def walked(browser):
    """The names of what the Tab key reaches, in order, each with whether the focus is seen."""
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    names = []
    for _ in range(60):
        browser.press(TAB)
        name = browser.run(NAME)
        if name is None or (names and name == names[0]):
            return names
        names.append(name)
    return names


# What a page could be made to do if text of others got into it.
BLOCKED = """const done = arguments[arguments.length - 1], blocked = [];
document.addEventListener('securitypolicyviolation', (event) => blocked.push(event.effectiveDirective));
const script = document.createElement('script'); script.textContent = 'window.harm = 1'; document.body.append(script);
const style = document.createElement('style'); style.textContent = 'body { display: none }'; document.body.append(style);
const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
const frame = document.createElement('iframe'); frame.src = location.href; document.body.append(frame);
const form = document.createElement('form'); form.action = 'http://127.0.0.1:9/'; document.body.append(form); form.submit();
fetch('http://127.0.0.1:9/').catch(() => {});
const button = document.createElement('button'); button.setAttribute('onclick', 'window.harm = 2'); document.body.append(button); button.click();
// Each is reported by an event of its own. One that is not is missed after a minute.
const until = Date.now() + 60000, look = () => {
  const kinds = [...new Set(blocked)].sort();
  if (kinds.length >= arguments[1] || Date.now() > until) done([kinds, window.harm === undefined]); else setTimeout(look, 50);
};
look();"""

DROP = """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), data = new DataTransfer();
data.items.add(new File([bytes], 'someone.der'));
document.getElementById('certificate').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));"""


def main():
    given = json.load(sys.stdin) if sys.argv[1] == "-" else json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(given["port"], folder)
        try:
            print(json.dumps(visit(browser, given)))
        finally:
            browser.close()


def visit(browser, given):
    done, pages = {"keyboard": {}}, []
    page, explain = given["url"] + "/ui/", given["url"] + "/ui/explain"
    text = lambda selector: browser.run("const it = document.querySelector(arguments[0]); return it && it.textContent", selector)
    browser.look("light", "desktop")
    browser.go(given["url"] + "/")
    pages += checked(browser, given, "login")
    browser.type("#token", "wrong")
    browser.press(ENTER)
    browser.wait(lambda: text("[role=alert]"), "a wrong token is rejected")
    done["wrong"] = text("[role=alert]")
    # A status other than 200 is an error of the console, and meant.
    done["console"] = [line for line in browser.console() if "401" not in line]
    done["keyboard"]["login"] = walked(browser)
    browser.type("#token", given["token"])
    browser.press(ENTER)
    browser.wait(lambda: text("h1") == "Status", "the status page")
    done["readable"] = browser.run("return document.cookie")
    done["keyboard"]["status"] = walked(browser)
    pages += checked(browser, given, "status")
    browser.run("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    done["settings"] = text("#configuration table")
    pages += checked(browser, given, "status-open")
    if given.get("service"):
        # The page shows what happens, without being loaded again, unless it is paused.
        browser.run("window.loaded = 1; document.activeElement.blur(); getSelection().removeAllRanges()")
        subprocess.run(given["service"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        browser.wait(lambda: "no_match" in text("#refusals"), "a new refusal")
        done["refreshed"] = browser.run("return window.loaded === 1 && document.querySelector('#configuration details').open")
        browser.click("#pause")
        done["paused"] = text("#refreshed")
    browser.go(explain)
    done["keyboard"]["explain"] = walked(browser)
    pages += checked(browser, given, "explain")
    browser.run(DROP, given["der"])
    browser.wait(lambda: browser.run("return document.getElementById('certificate').value") != "", "the certificate is there")
    done["dropped"] = browser.run("return document.getElementById('certificate').value")
    browser.click("form[action='/ui/explain'] button[type=submit]")
    browser.wait(lambda: text(".verdict"), "an explanation")
    done["explained"] = text(".verdict h2")
    pages += checked(browser, given, "explained")
    browser.go(explain)
    browser.run("document.getElementById('certificate').value = arguments[0]", given["hostile"])
    browser.click("form[action='/ui/explain'] button[type=submit]")
    browser.wait(lambda: text(".verdict"), "another explanation")
    done["hostile"] = [text(".tree"), browser.run("return document.querySelectorAll('main img, main script').length")]
    pages += checked(browser, given, "refused")
    done["console"] += browser.console()
    done["blocked"] = browser.post("/execute/async", {"script": BLOCKED.replace("arguments[1]", "7"), "args": []})
    browser.go(page)
    browser.click("form[action='/ui/logout'] button")
    browser.wait(lambda: text("h1") == "Log in", "the way out")
    browser.go(explain)
    done["logout"] = text("h1")
    return {**done, "pages": pages}


main()
