"use strict";

const at = (id) => document.getElementById(id);
const FRAME_MS = 90; // of the picture, which shows the frames of the newest clip one after the other

const strip = { image: null, count: 1, frame: 0, wanted: "", busy: false };

function number(value, digits = 3) {
  if (value >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  if (seconds >= 1) return `${number(seconds)} s`;
  if (seconds >= 1e-3) return `${number(seconds * 1e3)} ms`;
  return `${number(seconds * 1e6)} µs`;
}

const percent = (part) => `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`;

function tile(id, value, note = "") {
  at(id).textContent = value ?? "not measured";
  at(id).classList.toggle("none", value === null);
  at(`${id}-note`).textContent = note || "\u00a0";
}

/* Rows of a bar list, made once and then changed, so that bars move. rows: [{name, value, part, faint}] */
function bars(list, rows) {
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach((row, i) => {
    let item = list.children[i];
    if (!item) {
      item = document.createElement("li");
      item.innerHTML = '<span class="name"></span><span class="value"></span><div class="track"><div class="fill"></div></div>';
      list.append(item);
    }
    const [name, value, track] = item.children;
    item.classList.toggle("first", i === 0 && row.faint === true);
    name.textContent = name.title = row.name;
    value.textContent = row.value;
    track.firstChild.classList.toggle("faint", row.faint === true);
    track.firstChild.style.transform = `scaleX(${Math.max(0, Math.min(1, row.part))})`;
  });
}

function showTasks(tasks) {
  const home = at("tasks");
  while (home.children.length > tasks.length) home.lastChild.remove();
  tasks.forEach((task, i) => {
    let part = home.children[i];
    if (!part) {
      part = document.createElement("div");
      part.className = "task";
      part.innerHTML = '<h2></h2><ol class="bars"></ol>';
      home.append(part);
    }
    part.firstChild.textContent = task.name;
    const logits = task.top.map((guess) => guess.logit);
    const low = Math.min(...logits), high = Math.max(...logits);
    bars(part.lastChild, task.top.map((guess) => ({
      name: guess.name, faint: true,
      value: guess.probability === null ? String(guess.logit) : percent(guess.probability),
      part: guess.probability ?? (high > low ? (guess.logit - low) / (high - low) : 1),
    })));
  });
  const said = at("said");
  said.replaceChildren();
  tasks.forEach((task, i) => {
    const word = document.createElement("span");
    word.textContent = task.top[0].name;
    if (task.correct !== null) word.className = task.correct ? "right" : "wrong";
    said.append(i ? " · " : "", word);
  });
  const missed = tasks.filter((task) => task.correct === false);
  if (missed.length) said.append(` (is ${missed.map((task) => task.label).join(", ")})`);
}

function showStats(state) {
  const { stats, about } = state;
  const machine = stats.machine_seconds;
  const clock = `${about.clock_mhz} MHz`;
  if (about.simulated_time) {
    tile("rate", number(about.frames / machine), `at ${clock}, counted by simulation`);
    tile("latency", duration(machine), `at ${clock}, counted by simulation`);
  } else {
    tile("rate", number(stats.frames_per_second), "measured here, end to end");
    tile("latency", duration(stats.latency_seconds), `of it machine ${duration(machine)}`);
  }
  if (stats.cycles === null) tile("cycles", null, "no machine: integer reference");
  else tile("cycles", stats.cycles.toLocaleString("en-US"), `${about.frames} frames, counted by the machine`);
  if (state.power) tile("power", `${state.power.watts.toFixed(2)} W`, `rail ${state.power.rail}, idle included`);
  else tile("power", null, about.no_power);
  const tasks = Object.entries(stats.accuracy ?? {});
  if (tasks.length) {
    tile("accuracy", `${tasks.map(([, a]) => (100 * a.hits / a.n).toFixed(0)).join(" · ")} %`,
      tasks.map(([name, a]) => `${name} ${a.hits}/${a.n}`).join(", "));
  } else tile("accuracy", "–", "no labels");
  tile("clips", stats.clips.toLocaleString("en-US"), stats.dropped ? `${stats.dropped} came while busy` : "none lost");
}

function showActivity(state) {
  const { activity, hidden, engines } = state;
  if (activity) {
    const top = Math.max(0.05, ...activity.map((layer) => layer.rate));
    bars(at("activity"), activity.map((layer) => ({
      name: layer.name, value: percent(layer.rate), part: layer.rate / top })));
    at("activity-note").textContent =
      `share of the neurons that fired, over all frames; ${state.about.activity}; full bar: ${percent(top)}` +
      (hidden ? `; ${hidden} layers keep their spikes on the chip` : "");
  } else at("activity-note").textContent = "not measured: the spikes of this network stay on the chip";
  at("engines-card").hidden = !engines;
  if (engines) {
    bars(at("engines"), Object.entries(engines).map(([name, part]) => ({
      name: name.replaceAll("_", " "), value: percent(part), part })));
  }
}

function showState(kind, text, message) {
  at("state").dataset.state = kind;
  at("state").textContent = text;
  at("message").hidden = !message;
  at("message").textContent = message ?? "";
}

function show(state) {
  const { about } = state;
  at("device").textContent = about.device;
  at("source").textContent = about.source;
  at("footer").textContent =
    `network ${about.network} · ${about.frames} frames of ${about.height} × ${about.width} · machine ${about.config} · ` +
    `spikeloom ${about.version}`;
  showState(state.state, state.state === "failed" ? "stopped by an error" : state.state, state.message);
  if (!state.stats) return;
  showTasks(state.tasks);
  showStats(state);
  showActivity(state);
  at("frames").textContent = `clip ${state.number}, frames ${state.first} to ${state.last}`;
  load(state.picture, about.frames);
}

/* One picture at a time: a slow line shows fewer clips, not old ones. */
function load(path, count) {
  strip.wanted = path;
  if (strip.busy) return;
  strip.busy = true;
  const image = new Image();
  const done = () => {
    strip.busy = false;
    if (strip.wanted !== path) load(strip.wanted, count);
  };
  image.onload = () => { Object.assign(strip, { image, count, frame: 0 }); draw(); done(); };
  image.onerror = done;
  image.src = path;
}

function draw() {
  if (!strip.image) return;
  const canvas = at("screen"), width = strip.image.width, height = strip.image.height / strip.count;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.classList.toggle("small", width < 160);
  canvas.getContext("2d").drawImage(strip.image, 0, strip.frame * height, width, height, 0, 0, width, height);
}

setInterval(() => { strip.frame = (strip.frame + 1) % strip.count; draw(); }, FRAME_MS);

const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => {
  if (!["finished", "failed"].includes(at("state").dataset.state)) showState("lost", "connection lost", null);
};
