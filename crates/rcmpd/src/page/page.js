// The page works without this. With it, the status stays fresh, and a certificate can be dropped.
"use strict";
(() => {
  const EVERY_MS = 10000;
  const PEM_LEN_MAX = 1 << 20;

  // Replaces what changed, but nothing that the keyboard or a selection is in.
  const refresh = async () => {
    const answer = await fetch("/ui/", { cache: "no-store", credentials: "same-origin" });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      const selected = getSelection();
      const inUse = part.contains(document.activeElement) || (!selected.isCollapsed && selected.containsNode(part, true));
      if (!next || inUse || part.innerHTML === next.innerHTML) continue;
      const open = [...part.querySelectorAll("details")].map((it) => it.open);
      part.replaceChildren(...document.adoptNode(next).childNodes);
      part.querySelectorAll("details").forEach((it, at) => { it.open = open[at] || false; });
    }
  };

  const pause = document.getElementById("pause");
  if (pause) {
    const say = (text) => { document.getElementById("refreshed").textContent = text; };
    let paused = false;
    pause.hidden = false;
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = paused ? "Resume" : "Pause";
      say(paused ? "Updates are paused" : "");
    });
    setInterval(() => {
      if (paused || document.hidden) return;
      refresh().then(() => say(""), () => say("The service does not answer"));
    }, EVERY_MS);
  }

  const area = document.getElementById("certificate");
  if (area) {
    const trouble = document.getElementById("trouble");
    const take = async (file) => {
      trouble.hidden = true;
      if (file.size > PEM_LEN_MAX) {
        trouble.textContent = `${file.name} is too large: a certificate with its chain has at most 1 MiB`;
        trouble.hidden = false;
        return;
      }
      const bytes = new Uint8Array(await file.arrayBuffer());
      // DER starts with a SEQUENCE; anything else is shown as it is.
      if (bytes[0] !== 0x30) {
        area.value = new TextDecoder().decode(bytes);
        return;
      }
      let text = "";
      for (const byte of bytes) text += String.fromCharCode(byte);
      const lines = btoa(text).match(/.{1,64}/g).join("\n");
      area.value = `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
    };
    const chooser = document.getElementById("chooser");
    document.getElementById("choose").hidden = false;
    document.getElementById("drop-note").hidden = false;
    document.getElementById("choose").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => { if (chooser.files[0]) take(chooser.files[0]); });
    area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
    area.addEventListener("dragleave", () => area.classList.remove("over"));
    area.addEventListener("drop", (event) => {
      event.preventDefault();
      area.classList.remove("over");
      const file = event.dataTransfer.files[0];
      if (file) take(file); else area.value = event.dataTransfer.getData("text");
    });
  }
})();
