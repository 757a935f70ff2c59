"""Browsers on strings, for tests/vote.rs: reads commands, a line each, and answers each with a line.

    open NAME URL [noscript]   a browser of its own, as small as a phone: 360 x 640
    said NAME                  what the status line says
    tap NAME LETTER            taps an answer
    keys NAME COUNT            presses Tab so often, then Enter
    list NAME                  role, name and state of each answer, as a screen reader gets them
    fits NAME                  whether nothing is wider than the screen, and how many buttons are on it
    offline NAME | online NAME out of reach, and back again
    source NAME                the page as it is now, in one line of JSON
    shot NAME FILE             a picture

It drives chromedriver by WebDriver, with what python3 has anyway.
"""

import base64
import json
import subprocess
import sys
import urllib.request

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
for line in driver.stdout:
    if "successfully on port" in line:
        base = "http://127.0.0.1:" + line.rsplit(" ", 1)[1].strip(" .\n")
        break
sessions = {}


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["value"]


def to(name, method, path, body=None):
    return call(method, "/session/" + sessions[name] + path, body)


def run(name, script):
    return to(name, "POST", "/execute/sync", {"script": "return " + script, "args": []})


def find(name, css):
    return [row[ELEMENT] for row in to(name, "POST", "/elements", {"using": "css selector", "value": css})]


def cdp(name, command, params):
    return to(name, "POST", "/goog/cdp/execute", {"cmd": command, "params": params})


def open_(name, url, noscript=""):
    options = {"args": FLAGS, "mobileEmulation": {"deviceMetrics": {"width": 360, "height": 640, "pixelRatio": 2}}}
    if noscript:
        options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
    capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
    sessions[name] = call("POST", "/session", {"capabilities": capabilities})["sessionId"]
    to(name, "POST", "/url", {"url": url})
    return "open"


def said(name):
    return to(name, "GET", "/element/" + find(name, "#said")[0] + "/text")


def tap(name, letter):
    button = find(name, "button[value=%s]" % letter)
    to(name, "POST", "/element/" + button[0] + "/click", {}) if button else None
    return "tapped" if button else "there is no such button"


def keys(name, count):
    for key, code, text in [("Tab", 9, "")] * int(count) + [("Enter", 13, "\r")]:
        params = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        cdp(name, "Input.dispatchKeyEvent", {"type": "keyDown", **params})
        cdp(name, "Input.dispatchKeyEvent", {"type": "keyUp", **params})
    return "pressed"


def list_(name):
    rows = []
    for button in find(name, "button"):
        role, label = (to(name, "GET", "/element/" + button + "/computed" + what) for what in ("role", "label"))
        pressed = to(name, "GET", "/element/" + button + "/attribute/aria-pressed")
        rows.append("%s [%s] pressed=%s" % (role, label, pressed))
    return "; ".join(rows)


def fits(name):
    wide = run(name, "document.documentElement.scrollWidth > window.innerWidth")
    seen = run(name, "[...document.querySelectorAll('button')].filter("
               "b => b.getBoundingClientRect().bottom <= window.innerHeight).length")
    return "%s, %d buttons" % ("too wide" if wide else "fits", seen)


def shot(name, path):
    with open(path, "wb") as file:
        file.write(base64.b64decode(to(name, "GET", "/screenshot")))
    return path


def reach(name, offline):
    cdp(name, "Network.enable", {})
    conditions = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    return str(cdp(name, "Network.emulateNetworkConditions", conditions))


COMMANDS = {
    "open": open_, "said": said, "tap": tap, "keys": keys, "list": list_, "fits": fits, "shot": shot,
    "offline": lambda name: reach(name, True), "online": lambda name: reach(name, False),
    "source": lambda name: json.dumps(to(name, "GET", "/source")),
}

try:
    for line in sys.stdin:
        command, *words = line.split()
        try:
            answer = COMMANDS[command](*words)
        except Exception as error:
            answer = "failed: %r" % error
        print("= " + " ".join(str(answer).split()), flush=True)
finally:
    for name in sessions:
        try:
            to(name, "DELETE", "")
        except Exception:
            pass
    driver.terminate()
