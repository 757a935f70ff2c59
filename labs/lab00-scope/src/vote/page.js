// Asks every two seconds what is now; a tap is sent without leaving the page. Without this script the page works by
// itself: buttons send a form, and it reloads.
"use strict";
const said = document.getElementById("said");
const part = document.getElementById("part");
let shown = null; // the last update
let asked = 0; // the number of the last request: an older answer comes too late
let keep = 0; // until then, what was said about a vote that did not count stays

async function exchange(options, again = true) {
  const number = ++asked;
  const ended = new AbortController();
  const limit = setTimeout(() => ended.abort(), 8000);
  try {
    const answer = await fetch("/part", { cache: "no-store", signal: ended.signal, ...options });
    const text = await answer.text();
    if (number === asked) show(text, answer.headers.get("X-Part") !== null, answer.ok);
  } catch {
    clearTimeout(limit);
    if (options.body && again) return exchange(options, false); // a kept connection was closed meanwhile; twice is once
    if (number === asked) say("The lecturer's computer does not answer. Trying again.");
    shown = null;
  }
  clearTimeout(limit);
}

function say(text) {
  if (said.textContent !== text) said.textContent = text; // a screen reader reads it aloud
}

function show(text, whole, counted) {
  const end = text.indexOf("\n\n");
  const html = whole ? text.slice(end + 2) : shown;
  if (!counted) keep = Date.now() + 8000;
  if (!counted || html !== shown || Date.now() > keep) say((end < 0 ? text : text.slice(0, end)).trim());
  if (html === shown) return;
  const focused = document.activeElement && document.activeElement.value;
  part.innerHTML = html;
  shown = html;
  const again = focused && part.querySelector("button[value='" + focused + "']");
  if (again) again.focus();
}

part.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  event.preventDefault();
  const field = (name) => name + "=" + button.form.elements[name].value;
  const body = [field("question"), field("round"), "answer=" + button.value].join("&");
  exchange({ method: "POST", body, headers: { "Content-Type": "application/x-www-form-urlencoded" } });
});

const look = () => document.hidden || exchange({});
setInterval(look, 2000);
document.addEventListener("visibilitychange", look); // a phone wakes up
document.addEventListener("resume", look);
window.addEventListener("pageshow", look);
