// Clicks, types and points, and leaves what the page then shows in its title.
addEventListener("load", () => setTimeout(() => {
    const seen = {}, all = s => [...document.querySelectorAll(s)], key = k =>
        dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true }));
    const pixels = () => all("#stage canvas").map(c => [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]);
    const shown = () => ({ method: all("#methods [aria-pressed=true]").map(b => b.textContent),
        entry: all("#list button").findIndex(b => b.getAttribute("aria-current") === "true"),
        captions: all("figcaption").map(c => c.textContent), lines: all("#lines g").length,
        note: document.getElementById("note").textContent, labels: all("canvas[role=img]").map(c => c.ariaLabel) });
    seen.start = shown();
    const first = pixels(); seen.size = all("#stage canvas").map(c => [c.height, c.width]);
    seen.canvas = first[1];
    key("ArrowRight"); seen.right = shown(); seen.changed = pixels().map((p, i) => p.some((v, k) => v !== first[i][k]));
    key("ArrowDown"); seen.down = shown(); key("ArrowUp"); key("ArrowUp"); seen.up = shown();
    all("#list button")[0].click(); key("l"); seen.without = shown(); key("l");
    const slider = document.getElementById("opacity"); slider.value = 0; slider.oninput(); seen.plain = pixels()[1];
    const canvas = all("#stage canvas")[0], box = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + box.height / 4 }));
    seen.hover = all("#lines line").slice(0, 1).map(l => [+l.getAttribute("y1"), +l.getAttribute("y2")]);
    seen.boxes = all("#stage canvas").map(c => [c.getBoundingClientRect().top - document.getElementById("stage").getBoundingClientRect().top - 1, c.getBoundingClientRect().height]);
    canvas.dispatchEvent(new PointerEvent("pointerleave"));
    seen.shares = all("#shares button").map(b => b.textContent);
    all("#shares button")[0].click(); seen.attribute = shown();
    seen.loaded = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
    seen.alts = all("img").every(i => i.hasAttribute("alt"));
    document.title = JSON.stringify(seen);
    }, 100));
