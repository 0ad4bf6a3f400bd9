// Fresh numbers, copying, and a question before what cannot be undone. All pages work without it.
"use strict";

const EVERY = 10_000; // milliseconds

async function refresh() {
  const old = document.getElementById("live");
  if (!old || document.hidden) return;
  try {
    const answer = await fetch(old.dataset.refresh, { headers: { Accept: "text/html" } });
    if (answer.redirected) return location.reload(); // the session has ended
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (fresh) old.replaceWith(document.adoptNode(fresh));
  } catch {
    // The service may be away for a moment; the next try comes soon.
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}

if (document.getElementById("live")) setInterval(refresh, EVERY);
