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
    speedModel: one("#speed-model")?.value ?? "",
    speedShape: one("#speed-shape")?.value ?? "",
    methods: new Set(boxes.filter((box) => box.checked).map((box) => box.value)),
  });
  const wanted = (element, filter) =>
    filter.methods.has(element.dataset.method) && (!filter.budget || element.dataset.budget === filter.budget);

  function applyFilters() {
    const filter = chosen();
    const here = (element) => element.dataset.model === filter.model && element.dataset.length === filter.length;
    all(".answer, .plot").forEach((element) => { element.hidden = !here(element); });
    all("#control-table tbody tr").forEach((row) => { row.classList.toggle("chosen", here(row)); });
    all(".plot .point").forEach((point) => { point.toggleAttribute("hidden", !wanted(point, filter)); });
    all("#methods tbody").forEach((row) => { row.hidden = !(here(row) && wanted(row, filter)); });
    all("section.paper").forEach((section) => filterTable(section, filter));
    all("section.timed, section.measured").forEach((section) => filterMeasured(section, filter));
    filterReels(filter);
    const count = filter.methods.size;
    one("#chosen").textContent = count === boxes.length ? `all ${count}` : `${count} of ${boxes.length}`;
    showClips();
  }

  function filterTable(section, filter) {
    const every = one(".every-length", section)?.checked;
    const elsewhere = new Set();
    let shown = 0;
    all(".block", section).forEach((block) => {
      all("tbody", block).forEach((group) => { group.hidden = !wanted(group, filter); });
      const some = all("tbody", block).some((group) => !group.hidden) && block.dataset.model === filter.model;
      block.hidden = !some || !(every || block.dataset.length === filter.length);
      if (some && block.hidden) elsewhere.add(block.dataset.length);
      shown += !block.hidden;
    });
    const [empty, note] = [one(".empty", section), one(".elsewhere", section)];
    if (!empty) return;
    empty.hidden = shown > 0 || elsewhere.size > 0;
    note.hidden = elsewhere.size === 0;
    note.textContent = `${shown ? "Also" : `Nothing at ${filter.length}, but`} at ${[...elsewhere].join(" and ")}: `
      + "choose that length above, or all lengths.";
  }

  /** The speed tables have models and shapes of their own. A method that drew no clips in this run has no box. */
  function filterMeasured(section, filter) {
    const known = new Set(boxes.map((box) => box.value));
    const timed = section.matches(".timed");
    let shown = 0;
    all(".block", section).forEach((block) => {
      all("tbody", block).forEach((group) => {
        group.hidden = (known.has(group.dataset.method) && !filter.methods.has(group.dataset.method))
          || (timed && filter.speedShape && group.dataset.shape !== filter.speedShape);
      });
      block.hidden = (timed && filter.speedModel && block.dataset.model !== filter.speedModel)
        || all("tbody", block).every((group) => group.hidden);
      shown += !block.hidden;
    });
    one(".empty", section).hidden = shown > 0;
  }

  /** Clips of the trained testbed. */
  function filterReels(filter) {
    const known = new Set(boxes.map((box) => box.value));
    all(".reel figure").forEach((film) => { film.hidden = known.has(film.dataset.method) && !filter.methods.has(film.dataset.method); });
  }

  // --- Sorting: all blocks of a table are sorted alike.

  const sorts = {};
  const partOf = (element) => element.closest("section").id;

  function sort(button) {
    const before = button.closest("th").getAttribute("aria-sort");
    const first = button.dataset.better === "higher" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    sorts[partOf(button)] = [button.dataset.column, before === first ? other : first];
    applySort(partOf(button));
    remember();
  }

  function applySort(part) {
    const [column, order] = sorts[part] ?? [null, "none"];
    all(`#${part} table`).filter((table) => one("th[aria-sort]", table)).forEach((table) => {
      const heads = [...one("thead tr", table).children];
      const index = heads.findIndex((head) => one(".sort", head)?.dataset.column === column);
      heads.forEach((head, n) => head.setAttribute("aria-sort", n === index ? order : "none"));
      const key = (group) => (index < 0 ? group.dataset.place : group.rows[0].cells[index].dataset.sort ?? "");
      const sign = order === "descending" ? -1 : 1;
      const groups = [...table.tBodies].sort((left, right) => {
        const [a, b] = [key(left), key(right)];
        if (a === "" || b === "") return (a === "") - (b === "");  // what has no number stays last either way
        const [x, y] = [Number(a), Number(b)];
        return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
      });
      table.append(...groups);
    });
  }
  all("table").forEach((table) => [...table.tBodies].forEach((group, n) => { group.dataset.place = n; }));

  // --- The address: what was chosen stands in its fragment, so that a link shows the same view.

  let at = "";

  function address() {
    const filter = chosen();
    const words = { model: filter.model, length: filter.length };
    if (filter.budget) words.budget = filter.budget;
    if (filter.speedModel) words["speed-model"] = filter.speedModel;
    if (filter.speedShape) words["speed-shape"] = filter.speedShape;
    if (filter.methods.size < boxes.length) words.methods = [...filter.methods].join(",") || "none";
    const sorted = Object.entries(sorts).filter(([, [column]]) => column).map(([part, [column, order]]) => [part, column, order].join("."));
    if (sorted.length) words.sort = sorted.join(",");
    const every = all(".every-length").filter((box) => box.checked).map((box) => box.value);
    if (every.length) words.every = every.join(",");
    if (one("#clip").selectedIndex > 0) words.clip = one("#clip").selectedIndex + 1;
    if (one("#difference").checked) words.difference = "yes";
    if (at) words.at = at;
    return `#${Object.entries(words).map((pair) => pair.map((word) => encodeURIComponent(word).replaceAll("%2C", ",")).join("=")).join("&")}`;
  }

  function remember() {
    const next = address();
    if (next !== location.hash) history.pushState(null, "", next);
  }

  /** Sets everything to what the address says; what it does not say, or what is not here, to how the page starts. */
  function recall() {
    const plain = !location.hash.includes("=");
    const words = new URLSearchParams(plain ? "" : location.hash.slice(1));
    const list = (name) => (words.get(name) ?? "").split(",").filter((word) => word);
    for (const name of ["model", "length", "budget", "speed-model", "speed-shape"]) {
      const select = one(`#${name}`);
      if (!select) continue;
      const options = [...select.options].map((option) => option.value);
      select.value = options.includes(words.get(name)) ? words.get(name) : options[0];
    }
    const known = list("methods").filter((name) => boxes.some((box) => box.value === name));
    const every = !known.length && words.get("methods") !== "none";
    boxes.forEach((box) => { box.checked = every || known.includes(box.value); });
    all(".every-length").forEach((box) => { box.checked = list("every").includes(box.value); });
    const sorted = Object.fromEntries(list("sort").map((word) => word.split(".")).map(([part, ...rest]) => [part, rest]));
    for (const part of ["overview", ...all("section.paper, section.timed, section.measured").map((section) => section.id)]) {
      const [column, order] = sorted[part] ?? [];
      sorts[part] = ["ascending", "descending"].includes(order) ? [column, order] : [null, "none"];
      applySort(part);
    }
    one("#difference").checked = words.get("difference") === "yes";
    at = plain ? decodeURIComponent(location.hash.slice(1)) : words.get("at") ?? "";
    player.wanted = Number(words.get("clip") ?? 1) - 1;
    applyFilters();
  }

  function goTo(id) {
    const target = document.getElementById(id);
    if (!target) return;
    const folded = target.closest("details");
    if (folded) folded.open = true;
    all(".target").forEach((each) => each.classList.remove("target"));
    target.classList.add("target");
    target.scrollIntoView();
    if (!target.matches("a, button, input, select")) target.tabIndex = -1;
    target.focus({ preventScroll: true });
  }

  // --- Files inside the page.

  const digits = new Uint8Array(128);
  [...data.alphabet].forEach((sign, value) => { digits[sign.charCodeAt(0)] = value; });

  /** The bytes of a file: each five signs of its text are four bytes, the last ones fewer. */
  function bytesOf(file) {
    const text = document.getElementById(file.id).textContent;
    const words = Math.ceil(text.length / 5);
    const bytes = new DataView(new ArrayBuffer(4 * words));
    for (let word = 0; word < words; word += 1) {
      let value = 0;
      for (let at = 5 * word; at < 5 * word + 5; at += 1) {
        value = 85 * value + (at < text.length ? digits[text.charCodeAt(at)] : 84);
      }
      bytes.setUint32(4 * word, value);
    }
    return new Uint8Array(bytes.buffer, 0, 4 * words - (5 * words - text.length));
  }

  /** A picture's address. A page from the file system may read the pixels of such a one, but not those of a file. */
  function source(path) {
    const file = data.files[path];
    if (!file) return undefined;
    const bytes = bytesOf(file);
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return `data:${file.type};base64,${btoa(text)}`;
  }

  async function unpack(file) {
    const blob = new Blob([bytesOf(file)], { type: file.type });
    if (!file.gzipped) return blob;
    return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  }

  const save = async (path) => saveBlob(data.files[path].name, await unpack(data.files[path]));

  // The records of speed and of the testbed are packed as one file each, and unpacked when one is first asked for.

  const packed = { cells: {}, texts: {} };
  const packs = ["speed-records.json", "testbed-records.json"].map((name) => data.files[name]).filter((file) => file);
  let unpacking = null;

  /** A cell of any of them; null while the records are still packed. */
  const cellOf = (id) => data.cells[id] ?? packed.cells[id] ?? null;

  async function unpackAll() {
    for (const file of packs) {
      const held = JSON.parse(await (await unpack(file)).text());
      Object.assign(packed.cells, held.cells);
      Object.assign(packed.texts, held.texts);
    }
  }

  function withPacked(action) {
    unpacking ??= unpackAll();
    unpacking.then(action);
  }
  if (packs.length) window.requestIdleCallback?.(() => withPacked(() => { document.body.dataset.records = "ready"; }), { timeout: 3000 });

  function saveBlob(name, blob) {
    const url = URL.createObjectURL(blob);
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // --- A number's record, clips and command.

  const dialog = one("#details");
  const textOf = (row) => {
    if (row.value === null) return row.status.replaceAll("_", " ");
    const error = row.standard_error === null ? "" : ` ± ${row.standard_error}`;
    return `${row.value}${error}${row.unit ? ` ${row.unit}` : ""}`;
  };
  const roundedOf = (row) => {
    const digits = (value) => (row.decimals === null || Math.abs(value) < 10 ** -row.decimals ? value : value.toFixed(row.decimals));
    if (row.value === null) return textOf(row);
    const error = row.standard_error === null ? "" : ` ± ${row.standard_error.toFixed(row.decimals ?? 3)}`;
    return `${digits(row.value)}${error}${row.unit ? ` ${row.unit}` : ""}`;
  };
  const aliases = { relative: "pflop", sparsity_pct: "density", training_h: "tuning_s" };

  function show(title, parts) {
    one("#details-title").replaceChildren(...title);
    one("#details-body").replaceChildren(...parts);
    if (dialog.open) one("#details button").focus();
    else dialog.showModal();
    dialog.scrollTop = 0;
  }

  function button(words, action, attributes = {}) {
    const made = make("button", { type: "button", ...attributes }, words);
    made.addEventListener("click", action);
    return made;
  }

  function showDetails(id, metric) {
    const cell = cellOf(id);
    if (!cell) return withPacked(() => showDetails(id, metric));
    const row = rowOf(cell, metric);
    const parts = [];
    if (row) {
      parts.push(make("p", { class: "big" }, `${row.label}: ${row.told ? `${row.told} ${row.unit}`.trim() : roundedOf(row)}`));
      if (row.value !== null) parts.push(make("p", { class: "notes" }, `${row.told ? "With all digits" : "In the record"}: ${textOf(row)}`));
      for (const words of [row.reason, row.footnote]) if (words) parts.push(make("p", {}, words));
    } else if (metric) {
      parts.push(make("p", { class: "big" }, `${metric}: no number in the records`));
    }
    if (metric === "relative" && row) {
      const dense = rowOf(cell, "pflop_dense");
      if (dense) parts.push(make("p", {}, `${(100 * row.value / dense.value).toFixed(1)} % of dense: ${row.value} of ${dense.value} PFLOP.`));
    }
    if (cell.reason) parts.push(make("p", {}, `Status ${cell.status}: ${cell.reason}`));
    const beside = publishedBeside(id, metric);
    if (beside.length) parts.push(make("p", {}, "The paper prints beside it: ", ...beside));
    if (cell.clips.length) {
      parts.push(make("div", { class: "dialog-actions" }, button("Show its clips", () => { dialog.close(); goToClips(cell); })));
    }
    const about = cell.records.find((record) => row && record.kind === row.kind);
    const records = about ? [about, ...cell.records.filter((record) => record !== about)] : cell.records;
    for (const record of records) parts.push(...told(record));
    if (!records.length) parts.push(make("h3", {}, "No record yet. Command that makes it"), make("pre", {}, cell.command));
    parts.push(make("h3", {}, "All numbers of this cell"), numbers(cell, row));
    parts.push(make("h3", {}, "Settings"), facts(cell.settings));
    if (cell.clips.length) {
      const links = cell.clips.flatMap((clip) => [make("a", { href: `${data.root}/clips/${id}/${clip.name}` }, clip.name), " "]);
      parts.push(make("p", { class: "notes" }, "Its clips as files, where this page lies in its folder of results: ", ...links));
    }
    show([marker(cell.method), `${cell.label}, ${cell.model} at ${cell.length}`], parts);
  }

  const rowOf = (cell, metric) => cell.rows.find((each) => each.metric === metric)
    ?? cell.rows.find((each) => each.metric === aliases[metric]);

  /** Where the paper's tables have a cell's metric. */
  const tableCells = (id, metric) => all(`:is(section.paper, section.timed, section.measured) tbody[data-cell="${CSS.escape(id)}"] td`)
    .filter((cell) => one(`.own .number[data-metric="${CSS.escape(metric ?? "")}"]`, cell));

  /** The published numbers in the same cell of the paper's tables, as buttons. */
  function publishedBeside(id, metric) {
    return tableCells(id, metric)
      .flatMap((cell) => all("[data-published]", cell).flatMap((each) => {
        const row = data.published[each.dataset.published];
        const name = `${row.model}${row.tuned ? " tuned" : ""} ${one("i", each).textContent}`;
        return [button(name, () => showPublished(Number(each.dataset.published), each.dataset.columns, id, metric), { class: "number" }), "  "];
      }));
  }

  // --- A published number: where the paper prints it, and ours beside it.

  function showPublished(number, columns, id, metric) {
    const row = data.published[number];
    const names = (columns ?? "").split(" ").filter((name) => name);
    const cell = cellOf(id);
    if (!cell) return withPacked(() => showPublished(number, columns, id, metric));
    const where = `${row.model}, ${row.frames} frames${row.tuned ? ", tuned" : ""}`;
    const parts = [];
    for (const name of names) parts.push(make("p", { class: "big" }, `${name}: ${row.cells[name]} `, make("small", {}, "as printed")));
    const notes = Object.entries(row.notes).filter(([name]) => !names.length || names.includes(name) || name === "frames");
    for (const [name, note] of notes) parts.push(make("p", { class: "remark" }, make("b", {}, `Note on ${name}: `), note));
    parts.push(facts({ paper: data.paper, table: row.table, row: `${row.cells.method}, ${where}`,
      column: names.join(", ") || "the whole row", file: `${row.file}, line ${row.line}`,
      "how it got here": "copied from the paper, digit by digit; no command made it" }));
    parts.push(make("h3", {}, "Ours beside it"));
    const mine = metric && one(".own .number", tableCells(id, metric)[0]).textContent;
    const words = `${cell.label}, ${cell.model} at ${cell.length}: ${mine ?? "its numbers"}`;
    parts.push(make("p", {}, button(words, () => showDetails(id, metric), { class: "number" }), " (its record, clips and command)"));
    if (row.model !== cell.model && cell.model.startsWith("testbed")) {
      parts.push(make("p", {}, `Another model: ${row.model} is the paper's, ${cell.model} is small and our own. Orders may be compared, levels not.`));
    }
    const cells = Object.entries(row.cells).map(([name, text]) => {
      const line = make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, text || "–"));
      if (names.includes(name)) line.className = "chosen";
      return line;
    });
    parts.push(make("h3", {}, "The whole row, as printed"), make("div", { class: "wide" }, make("table", {}, make("tbody", {}, ...cells))));
    show([`Published: ${row.cells.method}, ${where}`], parts);
  }

  function told(file) {
    const text = file.text ?? packed.texts[file.file];
    const record = JSON.parse(text);
    const origin = record.provenance;
    const command = make("pre", {}, origin.command ?? "no command stated");
    const words = { status: record.status, commit: origin.commit, "code (SHA-256)": origin.code, date: origin.date,
      device: origin.device?.name, python: origin.python, system: origin.system };
    for (const [name, value] of Object.entries(origin.hashes ?? {})) words[`${name} (SHA-256)`] = value;
    words.packages = Object.entries(origin.packages ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
    const name = `${file.kind}.json`;
    // What is only a part of a file, as it says, is not to be saved under its name.
    const kept = file.part ? `${file.part}: `
      : button(`Save ${name}`, () => saveBlob(name, new Blob([text], { type: "application/json" })), { class: "save" });
    const whole = make("details", { class: "record" }, make("summary", {}, `Record ${name}`),
      make("p", {}, kept, " ", make("a", { href: `${data.root}/${file.file}` }, file.file)),
      make("pre", { tabindex: 0 }, text));
    const more = make("details", {}, make("summary", {}, "Commit, device, date, hashes, packages"), facts(words));
    return [make("h3", {}, `Command that made it (${file.kind})`), command, whole, more];
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
    remember();
    one("#clips").scrollIntoView();
    one("#play").focus({ preventScroll: true });
  }

  // --- Clips. A sheet inside the page holds differences between frames, which are added up when it is first needed. A
  // canvas that drew a file's picture may not be read back, so differences to dense are left to the compositor.

  const columns = 8;
  const sheets = new Map();
  const player = { frame: 0, frames: 1, playing: false, tiles: [], due: 0 };
  for (const [id, cell] of Object.entries(data.cells)) {
    cell.clips.forEach((clip) => { clip.place = `${id}/${clip.name}`; });
  }

  function sheet(clip) {
    if (!sheets.has(clip.place)) {
      const image = new Image();
      const inside = source(clip.place);
      const made = { picture: null, wrong: "" };
      made.loaded = new Promise((resolve) => {
        image.onload = () => {
          made.picture = inside ? unpacked(image, clip) : image;
          if (!made.picture) made.wrong = "This browser changes the pixels that a page reads, so this clip cannot be shown as it is.";
          resolve();
        };
        image.onerror = () => {
          made.wrong = inside ? "The picture inside the page is damaged." : "The clip's file is not beside this page.";
          resolve();
        };
      });
      image.src = inside ?? `${data.clips_root}/${clip.place.replace(/[.][^.]*$/, ".webp").split("/").map(encodeURIComponent).join("/")}`;
      sheets.set(clip.place, made);
    }
    return sheets.get(clip.place);
  }

  /** Frames from their differences, modulo 256; null where the bytes are not those of the clip. */
  function unpacked(image, clip) {
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    const bytes = pixels.data;
    const { width, height, frames } = clip;
    const start = (frame, row) => 4 * ((Math.floor(frame / columns) * height + row) * canvas.width + (frame % columns) * width);
    let sum = 0;
    for (let frame = 0; frame < frames; frame += 1) {
      for (let row = 0; row < height; row += 1) {
        const [to, from] = [start(frame, row), frame ? start(frame - 1, row) : -1];
        for (let n = 0; n < 4 * width; n += 1) {
          if (n % 4 === 3) continue;
          if (from >= 0) bytes[to + n] = (bytes[to + n] + bytes[from + n]) & 255;
          sum += bytes[to + n];
        }
      }
    }
    if (sum % 2 ** 32 !== clip.sum) return null;
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  function draw(canvas, clip, image, frame, over) {
    if (!image.picture) return;
    const context = canvas.getContext("2d");
    const { width, height } = clip;
    context.globalCompositeOperation = over ?? "copy";
    context.drawImage(image.picture, (frame % columns) * width, Math.floor(frame / columns) * height, width, height,
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
    const before = player.wanted ?? picker.selectedIndex;
    player.wanted = null;
    const number = prompts[before] ? before : 0;
    picker.replaceChildren(...prompts.map((clip, n) => make("option", { value: n }, `${n + 1}: ${clip.prompt}`)));
    picker.selectedIndex = prompts.length ? number : -1;
    one("#prompt").textContent = prompts.length ? `“${prompts[number].prompt}” (seed ${prompts[number].seed})` : "No clips.";
    const dense = here.find((cell) => cell.method === data.reference && cell.tuning === "untuned");
    player.reference = dense?.clips[number]?.frames ? { clip: dense.clips[number], image: sheet(dense.clips[number]) } : null;
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
    const tiles = player.tiles;
    Promise.all(images).then(() => {
      tiles.filter((each) => each.image?.wrong).forEach((each) => {
        each.difference?.remove();
        each.canvas.replaceWith(make("div", { class: "gone" }, each.image.wrong));
        each.canvas = null;
      });
      drawAll();
    });
  }

  function tile(cell, clip) {
    const made = { method: cell.method, element: make("div", { class: "tile", "data-cell": cell.id }) };
    if (clip?.frames) {
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
    const value = make("button", { type: "button", class: "number", "data-cell": cell.id, "data-metric": "psnr" }, words);
    made.element.append(make("p", {}, button, make("br"), value));
    return made;
  }

  async function posters() {
    for (const canvas of all(".poster")) {
      const clip = data.cells[canvas.dataset.cell].clips.find((each) => each.frames);
      if (!clip) { canvas.hidden = true; continue; }
      canvas.width = clip.width;
      canvas.height = clip.height;
      const image = sheet(clip);
      await image.loaded;
      draw(canvas, clip, image, Math.floor(clip.frames / 2));
    }
  }

  // --- Figures inside the page, made when they come near.

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      near.unobserve(entry.target);
      entry.target.src = source(entry.target.dataset.file);
    }
  }, { rootMargin: "600px" });
  const pictures = all("img[data-file], video[data-file]");
  pictures.forEach((image) => near.observe(image));
  const rest = () => pictures.filter((image) => !image.src).forEach((image) => { image.src = source(image.dataset.file); });
  window.addEventListener("beforeprint", rest);
  window.requestIdleCallback?.(rest, { timeout: 5000 });

  /** Starts all clips of a reel in step, or stops them. */
  function playReel(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "❚❚ Pause" : "▶ Play";
    const films = all("video", button.closest(".reel"));
    for (const film of films) {
      film.src ||= source(film.dataset.file);
      if (!on) film.pause();
    }
    if (!on) return;
    films.forEach((film) => { film.currentTime = 0; });
    films.forEach((film) => film.play());
  }

  // --- What the reader does.

  document.addEventListener("click", (event) => {
    const sorter = event.target.closest(".sort");
    if (sorter) return sort(sorter);
    const number = event.target.closest(".number, .point");
    if (number?.dataset.published) {
      const [place, line] = [number.closest("td"), number.closest("tbody")];
      const metric = place && one(".own .number", place)?.dataset.metric;
      return showPublished(Number(number.dataset.published), number.dataset.columns, line.dataset.cell, metric);
    }
    if (number?.dataset.cell) return showDetails(number.dataset.cell, number.dataset.metric);
    const reel = event.target.closest(".reel-play");
    if (reel) return playReel(reel);
    if (event.target.closest(".save")?.dataset.file) return save(event.target.closest(".save").dataset.file);
    const link = event.target.closest('a[href^="#"]');
    if (link) {
      event.preventDefault();
      at = decodeURIComponent(link.getAttribute("href").slice(1));
      remember();
      return goTo(at);
    }
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
  const changed = () => { applyFilters(); remember(); };
  all("#model, #length, #budget, #speed-model, #speed-shape, .every-length").forEach((each) => each.addEventListener("change", changed));
  boxes.forEach((box) => box.addEventListener("change", changed));
  for (const [id, on] of [["#every", true], ["#none", false]]) {
    one(id).addEventListener("click", () => { boxes.forEach((box) => { box.checked = on; }); changed(); });
  }
  one(".filters").addEventListener("submit", (event) => event.preventDefault());
  one("#play").addEventListener("click", () => play(!player.playing));
  one("#back").addEventListener("click", () => step(-1));
  one("#forward").addEventListener("click", () => step(1));
  one("#frame").addEventListener("input", (event) => { play(false); go(Number(event.target.value)); });
  one("#clip").addEventListener("change", () => { showClips(); remember(); });
  one("#gain").addEventListener("change", drawAll);
  one("#difference").addEventListener("change", (event) => {
    player.tiles.forEach((each) => { if (each.difference) each.difference.hidden = !event.target.checked; });
    drawAll();
    remember();
  });
  window.addEventListener("popstate", recall);

  recall();
  if (at) goTo(at);
  posters();
})();
