"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const marker = (method) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", "marker");
    svg.setAttribute("viewBox", "-1.5 -1.5 3 3");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(space, "use");
    use.setAttribute("href", `#marker-${method}`);
    svg.append(use);
    return svg;
  };

  // --- Filters: all parts of the page read them from here.

  const boxes = all('input[name="method"]');
  const chosen = () => ({
    model: one("#model").value,
    length: one("#length").value,
    budget: one("#budget").value,
    methods: new Set(boxes.filter((box) => box.checked).map((box) => box.value)),
  });
  const wanted = (element, filter) =>
    filter.methods.has(element.dataset.method) && (!filter.budget || element.dataset.budget === filter.budget);

  function applyFilters() {
    const filter = chosen();
    const here = (element) => element.dataset.model === filter.model && element.dataset.length === filter.length;
    all(".answer, .plot").forEach((element) => { element.hidden = !here(element); });
    all(".plot .point").forEach((point) => { point.toggleAttribute("hidden", !wanted(point, filter)); });
    all("#methods tbody").forEach((row) => { row.hidden = !(here(row) && wanted(row, filter)); });
    all("section.paper").forEach((section) => {
      const only = one(".only", section)?.checked;
      let shown = 0;
      all(".block", section).forEach((block) => {
        all("tbody", block).forEach((group) => { group.hidden = !wanted(group, filter); });
        const some = all("tbody", block).some((group) => !group.hidden);
        block.hidden = !some || block.dataset.model !== filter.model || (only && block.dataset.length !== filter.length);
        shown += !block.hidden;
      });
      const empty = one(".empty", section);
      if (empty) empty.hidden = shown > 0;
    });
    const count = filter.methods.size;
    one("#chosen").textContent = count === boxes.length ? `all ${count}` : `${count} of ${boxes.length}`;
    showClips();
  }

  // --- Sorting: a table's groups move as wholes, so that published lines stay below ours.

  function sort(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = [...head.parentNode.children].indexOf(head);
    const before = head.getAttribute("aria-sort");
    const first = button.dataset.better === "higher" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    all("th[aria-sort]", table).forEach((one) => one.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order);
    const key = (group) => group.rows[0].cells[column].dataset.sort ?? "";
    const sign = order === "ascending" ? 1 : -1;
    const groups = [...table.tBodies].sort((left, right) => {
      const [a, b] = [key(left), key(right)];
      if (a === "" || b === "") return (a === "") - (b === "");  // what has no number stays last either way
      const [x, y] = [Number(a), Number(b)];
      return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
    });
    table.append(...groups);
  }

  // --- A number's record, clips and command.

  const dialog = one("#details");
  const textOf = (row) => {
    if (row.value === null) return row.status.replaceAll("_", " ");
    const error = row.standard_error === null ? "" : ` ± ${row.standard_error}`;
    return `${row.value}${error}${row.unit ? ` ${row.unit}` : ""}`;
  };
  const aliases = { relative: "pflop", sparsity_pct: "density" };

  function showDetails(id, metric) {
    const cell = data.cells[id];
    const row = cell.rows.find((each) => each.metric === (aliases[metric] ?? metric));
    const body = one("#details-body");
    one("#details-title").replaceChildren(marker(cell.method), `${cell.label}, ${cell.model} at ${cell.length}`);
    const parts = [];
    if (row) {
      parts.push(make("p", { class: "big" }, `${row.label}: ${textOf(row)}`));
      for (const words of [row.reason, row.footnote]) if (words) parts.push(make("p", {}, words));
    } else if (metric) {
      parts.push(make("p", { class: "big" }, `${metric}: no number in the records`));
    }
    if (metric === "relative" && row) {
      const dense = cell.rows.find((each) => each.metric === "pflop_dense");
      if (dense) parts.push(make("p", {}, `${(100 * row.value / dense.value).toFixed(1)} % of dense: ${row.value} of ${dense.value} PFLOP.`));
    }
    if (cell.reason) parts.push(make("p", {}, `Status ${cell.status}: ${cell.reason}`));
    const actions = make("div", { class: "dialog-actions" });
    for (const record of cell.records) {
      actions.append(make("a", { href: `${data.root}/${record.file}` }, `Record ${record.kind}.json`));
    }
    if (cell.clips.length) {
      const button = make("button", { type: "button" }, "Show its clips");
      button.addEventListener("click", () => { dialog.close(); goToClips(cell); });
      actions.append(button);
      cell.clips.forEach((clip) => actions.append(make("a", { href: `${data.root}/clips/${id}/${clip.name}` }, clip.name)));
    }
    parts.push(actions);
    const about = cell.records.find((record) => row && record.kind === row.kind);
    const records = about ? [about, ...cell.records.filter((record) => record !== about)] : cell.records;
    for (const record of records) parts.push(...told(record));
    parts.push(make("h3", {}, "All numbers of this cell"), numbers(cell, row));
    parts.push(make("h3", {}, "Settings"), facts(cell.settings));
    body.replaceChildren(...parts);
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  function told(record) {
    const command = make("pre", {}, record.command ?? "no command stated");
    const origin = { status: record.status, commit: record.commit, "code (SHA-256)": record.code, date: record.date,
      device: record.device, python: record.python, system: record.system };
    for (const [name, value] of Object.entries(record.hashes)) origin[`${name} (SHA-256)`] = value;
    origin.packages = Object.entries(record.packages ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
    const more = make("details", {}, make("summary", {}, "Commit, device, date, hashes, packages"), facts(origin));
    return [make("h3", {}, `Command that made it (${record.kind})`), command, more];
  }

  const facts = (values) => make("dl", { class: "facts" }, ...Object.entries(values)
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));

  function numbers(cell, picked) {
    const rows = cell.rows.map((row) => {
      const name = row.metric === "all" ? `${row.kind}, whole record` : row.label;
      const line = make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, textOf(row)), make("td", {}, row.status));
      if (row === picked) line.className = "chosen";
      return line;
    });
    const head = make("thead", {}, make("tr", {}, ...["Metric", "Value", "Status"].map((word) => make("th", { scope: "col" }, word))));
    return make("div", { class: "wide" }, make("table", {}, head, make("tbody", {}, ...rows)));
  }

  function goToClips(cell) {
    one("#model").value = cell.model;
    one("#length").value = cell.length;
    one("#budget").value = "";
    boxes.forEach((box) => { box.checked ||= [cell.method, data.reference].includes(box.value); });
    applyFilters();
    one("#clips").scrollIntoView();
    one("#play").focus({ preventScroll: true });
  }

  // --- Clips. A canvas that drew a file's picture may not be read back, so differences are left to the compositor.

  const columns = 8;
  const sheets = new Map();
  const player = { frame: 0, frames: 1, playing: false, tiles: [], due: 0 };

  function sheet(clip) {
    if (!sheets.has(clip.sheet)) {
      const image = new Image();
      image.loaded = new Promise((resolve) => { image.onload = () => resolve(true); image.onerror = () => resolve(false); });
      image.src = `${data.clips_root}/${clip.sheet.split("/").map(encodeURIComponent).join("/")}`;
      sheets.set(clip.sheet, image);
    }
    return sheets.get(clip.sheet);
  }

  function draw(canvas, clip, image, frame, over) {
    const context = canvas.getContext("2d");
    const { width, height } = clip;
    if (!(image.complete && image.naturalWidth)) return;
    context.globalCompositeOperation = over ?? "copy";
    context.drawImage(image, (frame % columns) * width, Math.floor(frame / columns) * height, width, height,
      0, 0, width, height);
  }

  function drawAll() {
    const { reference } = player;
    const gain = Number(one("#gain").value);
    for (const tile of player.tiles) {
      if (!tile.canvas) continue;
      const frame = Math.min(player.frame, tile.clip.frames - 1);
      draw(tile.canvas, tile.clip, tile.image, frame);
      if (!tile.difference || tile.difference.hidden || !reference) continue;
      draw(tile.difference, tile.clip, tile.image, frame);
      draw(tile.difference, reference.clip, reference.image, Math.min(frame, reference.clip.frames - 1), "difference");
      const context = tile.difference.getContext("2d");
      context.globalCompositeOperation = "lighter";
      for (let factor = 1; factor < gain; factor *= 2) context.drawImage(tile.difference, 0, 0);
    }
    one("#frame").value = player.frame;
    one("#at").textContent = `${player.frame + 1} of ${player.frames}`;
  }

  function go(frame) {
    player.frame = (frame + player.frames) % player.frames;
    drawAll();
  }

  function play(on) {
    player.playing = on;
    one("#play").textContent = on ? "❚❚ Pause" : "▶ Play";
    one("#play").setAttribute("aria-pressed", String(on));
    player.due = 0;
    if (on) requestAnimationFrame(tick);
  }

  function tick(now) {
    if (!player.playing) return;
    if (!player.due) player.due = now;
    const step = 1000 / Number(one("#speed").value);
    if (now - player.due >= step) {
      player.due = now - ((now - player.due) % step);
      go(player.frame + 1);
    }
    requestAnimationFrame(tick);
  }

  function step(by) {
    play(false);
    go(player.frame + by);
  }

  const cellsHere = (filter) => Object.entries(data.cells)
    .filter(([, cell]) => cell.model === filter.model && cell.length === filter.length)
    .map(([id, cell]) => ({ id, ...cell }));

  function showClips() {
    const filter = chosen();
    const here = cellsHere(filter);
    const cells = here.filter((cell) => filter.methods.has(cell.method)
      && (!filter.budget || cell.budget === filter.budget));
    const prompts = here.find((cell) => cell.clips.length)?.clips ?? [];
    const picker = one("#clip");
    const number = Math.max(Math.min(picker.selectedIndex, prompts.length - 1), 0);
    picker.replaceChildren(...prompts.map((clip, n) => make("option", { value: n }, `${n + 1}: ${clip.prompt}`)));
    picker.selectedIndex = prompts.length ? number : -1;
    one("#prompt").textContent = prompts.length ? `“${prompts[number].prompt}” (seed ${prompts[number].seed})` : "No clips.";
    const dense = here.find((cell) => cell.method === data.reference && cell.tuning === "untuned");
    player.reference = dense?.clips[number]?.sheet ? { clip: dense.clips[number], image: sheet(dense.clips[number]) } : null;
    player.tiles = cells.map((cell) => tile(cell, cell.clips[number]));
    one("#tiles").replaceChildren(...player.tiles.map((each) => each.element));
    player.frames = Math.max(1, ...player.tiles.filter((each) => each.clip).map((each) => each.clip.frames));
    player.frame = Math.min(player.frame, player.frames - 1);
    one("#frame").max = player.frames - 1;
    const reduced = player.tiles.find((each) => each.clip?.reduced)?.clip.reduced;
    one("#reduced").textContent = reduced ? ` Made smaller for this page: ${reduced}.` : "";
    const images = player.tiles.filter((each) => each.image).map((each) => each.image.loaded);
    if (player.reference) images.push(player.reference.image.loaded);
    drawAll();
    Promise.all(images).then(drawAll);
  }

  function tile(cell, clip) {
    const made = { method: cell.method, element: make("div", { class: "tile", "data-cell": cell.id }) };
    if (clip?.sheet) {
      Object.assign(made, { clip, image: sheet(clip) });
      made.canvas = make("canvas", { width: clip.width, height: clip.height, role: "img", "aria-label": `Clip of ${cell.label}` });
      made.element.append(made.canvas);
      if (player.reference) {
        made.difference = make("canvas", { width: clip.width, height: clip.height, role: "img",
          "aria-label": `Difference of ${cell.label} to dense`, class: "difference" });
        made.difference.hidden = !one("#difference").checked;
        made.element.append(made.difference);
      }
    } else {
      made.element.append(make("div", { class: "gone" }, clip?.missing ?? `${cell.status}${cell.reason ? `: ${cell.reason}` : ""}`));
    }
    const button = make("button", { type: "button", class: "number name", "data-cell": cell.id, "data-metric": "psnr" });
    button.append(marker(cell.method), cell.label);
    const psnr = clip?.values?.psnr;
    const words = cell.method === data.reference && cell.tuning === "untuned" ? "reference"
      : psnr === undefined ? "no PSNR" : psnr >= 100 ? "equal to dense" : `${psnr.toFixed(1)} dB`;
    made.element.append(make("p", {}, button, make("br"), words));
    return made;
  }

  async function posters() {
    for (const canvas of all(".poster")) {
      const clip = data.cells[canvas.dataset.cell].clips.find((each) => each.sheet);
      if (!clip) { canvas.hidden = true; continue; }
      canvas.width = clip.width;
      canvas.height = clip.height;
      const image = sheet(clip);
      await image.loaded;
      draw(canvas, clip, image, Math.floor(clip.frames / 2));
    }
  }

  // --- What the reader does.

  document.addEventListener("click", (event) => {
    const sorter = event.target.closest(".sort");
    if (sorter) return sort(sorter);
    const number = event.target.closest(".number, .point");
    if (number) return showDetails(number.dataset.cell, number.dataset.metric);
    if (event.target === dialog) return dialog.close();
    const menu = one(".methods");
    if (menu.open && !menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const point = event.target.closest?.(".point");
    if (point && ["Enter", " "].includes(event.key)) {
      event.preventDefault();
      showDetails(point.dataset.cell, point.dataset.metric);
    } else if (event.key === "Escape") {
      one(".methods").open = false;
    }
  });
  one("#player").addEventListener("keydown", (event) => {
    if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -player.frame, End: player.frames - 1 - player.frame };
    if (event.key in steps) {
      event.preventDefault();
      step(steps[event.key]);
    } else if (event.key === " " && !event.target.matches("button, input[type=checkbox]")) {
      event.preventDefault();
      play(!player.playing);
    }
  });
  all("#model, #length, #budget").forEach((select) => select.addEventListener("change", applyFilters));
  boxes.forEach((box) => box.addEventListener("change", applyFilters));
  all(".only").forEach((box) => box.addEventListener("change", applyFilters));
  for (const [id, on] of [["#every", true], ["#none", false]]) {
    one(id).addEventListener("click", () => { boxes.forEach((box) => { box.checked = on; }); applyFilters(); });
  }
  one(".filters").addEventListener("submit", (event) => event.preventDefault());
  one("#play").addEventListener("click", () => play(!player.playing));
  one("#back").addEventListener("click", () => step(-1));
  one("#forward").addEventListener("click", () => step(1));
  one("#frame").addEventListener("input", (event) => { play(false); go(Number(event.target.value)); });
  one("#clip").addEventListener("change", showClips);
  one("#gain").addEventListener("change", drawAll);
  one("#difference").addEventListener("change", (event) => {
    player.tiles.forEach((each) => { if (each.difference) each.difference.hidden = !event.target.checked; });
    drawAll();
  });

  applyFilters();
  posters();
})();
