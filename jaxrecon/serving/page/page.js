"use strict";
const $ = (id) => document.getElementById(id);
const FINISHED = ["done", "failed", "cancelled"];
let limits = null, files = [], job = null, events = null, sending = null;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function problem(text) {
  $("problem").textContent = text || "";
  $("problem").hidden = !text;
}

function element(kind, text, properties) {
  const made = Object.assign(document.createElement(kind), properties);
  if (text !== undefined) made.textContent = text;
  return made;
}

function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

function file(id, path) {
  return `/results/${encodeURIComponent(id)}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

/* What is sent. */

function choose(list) {
  files = [...list];
  const bytes = files.reduce((sum, each) => sum + each.size, 0);
  const many = files.length === 1 ? files[0].name : `${files.length} files`;
  $("chosen").textContent = files.length ? `${many}, ${size(bytes)}` : "";
  let wrong = "";
  if (limits && bytes > limits.upload_bytes) wrong = `More than ${size(limits.upload_bytes)}: choose fewer files.`;
  if (limits && files.length > limits.files) wrong = `More than ${limits.files} files: choose fewer, or a video.`;
  problem(wrong);
  ready(!wrong);
}

function ready(fits = true) {
  $("send").disabled = !fits || !files.length || sending !== null || (job && !FINISHED.includes(job.state));
}

function form() {
  const data = new FormData();
  for (const name of ["model", "resolution", "attention", "max_views"]) data.append(name, $(name).value);
  if ($("attention").value !== "auto") data.append("sparse_ratio", $("sparse_ratio").value);
  data.append("keep", $("keep").checked ? "1" : "0");
  for (const each of files) data.append("files", each, each.name);
  return data;
}

function send() {
  problem("");
  $("result").hidden = true;
  const request = new XMLHttpRequest(); // fetch tells nothing of how far an upload is
  sending = request;
  request.open("POST", "/api/jobs");
  request.upload.onprogress = (event) => { $("sending").value = event.loaded / event.total; };
  request.onloadend = () => {
    sending = null;
    $("sending").hidden = true;
    let told = {};
    try { told = JSON.parse(request.responseText); } catch { /* the connection broke */ }
    if (request.status === 202) return follow(told.id);
    $("job").hidden = true;
    problem(told.error || (request.status ? `The server answered ${request.status}.` : "The upload broke off."));
    ready();
  };
  show({ state: "sending", title: "", stages: [], notes: [] });
  $("sending").hidden = false;
  request.send(form());
  ready();
}

/* How far it is. */

function follow(id) {
  if (events) events.close();
  sessionStorage.setItem("job", id); // for when the page is loaded again
  const own = events = new EventSource(`/api/jobs/${id}/events`);
  own.onmessage = (message) => {
    take(JSON.parse(message.data));
    if (FINISHED.includes(job.state)) own.close();
  };
  own.onerror = () => {
    if (events !== own) return;
    problem("The server does not answer; trying again …");
    if (own.readyState === EventSource.CLOSED) look_after(id, own); // refused: it does not try again
  };
}

function take(told) {
  show(told);
  if (told.state === "done") { open_result(told.id); gallery(); }
}

/* Asks now and then: too many follow already, or the server knows the job no more. */
async function look_after(id, own) {
  let told = null;
  try {
    const answer = await fetch(`/api/jobs/${id}`);
    if (answer.ok) told = await answer.json();
    if (answer.status === 404) told = {
      ...job, id, state: "failed",
      error: "The server was started again, and knows this job no more: send the photos again.",
    };
  } catch { /* it cannot be reached */ }
  if (events !== own) return; // another job is followed
  if (told) take(told);
  if (!told || !FINISHED.includes(told.state)) setTimeout(look_after, 2000, id, own);
}

function show(told) {
  job = told;
  $("job").hidden = told.state === "done";
  $("job-title").textContent = told.title;
  const before = told.before === 1 ? "1 job comes before it." : `${told.before} jobs come before it.`;
  $("job-state").textContent = {
    sending: "Sending …", waiting: told.before ? `Waiting: ${before}` : "About to begin …",
    running: "", done: "", failed: "", cancelled: "Cancelled.",
  }[told.state];
  problem(told.state === "failed" ? told.error : "");
  $("stages").replaceChildren(...told.stages.map((stage) => {
    const row = element("li");
    const bar = element("progress");
    bar.max = stage.total || 1;
    if (stage.seconds !== undefined) bar.value = bar.max;
    else if (stage.done) bar.value = stage.done;
    const right = stage.seconds !== undefined ? `${stage.seconds.toFixed(2)} s`
      : stage.total ? `${stage.done || 0} of ${stage.total}` : "…";
    row.append(element("span", stage.name), bar, element("span", right));
    return row;
  }));
  $("notes").replaceChildren(...told.notes.map((note) => element("li", note)));
  $("cancel").hidden = FINISHED.includes(told.state);
  ready();
}

async function cancel() {
  if (sending) return sending.abort();
  try { await ask(`/api/jobs/${job.id}/cancel`, { method: "POST" }); } catch (error) { problem(error.message); }
}

/* What came of it. */

async function open_result(id) {
  let told;
  try { told = await ask(`/api/results/${encodeURIComponent(id)}`); } catch (error) { return problem(error.message); }
  const paths = told.files.map((each) => each.path);
  $("result").hidden = false;
  $("result-title").textContent = told.title || id;
  const seconds = Object.values(told.seconds || {}).reduce((sum, each) => sum + each, 0);
  const facts = [told.model, `${told.views} views`];
  if (told.points !== undefined) facts.push(`${told.points.toLocaleString("en")} points`, `${(100 * told.kept).toFixed(1)} % of the pixels`);
  if (told.fov_degrees) facts.push(`${told.fov_degrees.toFixed(0)} degrees wide`);
  facts.push(`${seconds.toFixed(1)} s`);
  $("facts").textContent = facts.join(", ");
  const left = Object.entries(told.failed || {}).map(([name, why]) => `${name} was left out: ${why}`);
  $("warnings").replaceChildren(...[...(told.warnings || []), ...left].map((text) => element("li", text)));
  const links = [];
  if (paths.includes("report.html")) links.push(element("a", "Report", { href: file(id, "report.html"), target: "_blank" }));
  links.push(element("a", "All files (ZIP)", { href: `/results/${encodeURIComponent(id)}.zip` }));
  $("links").replaceChildren(...links);
  $("sheet").hidden = !paths.includes("summary.png");
  if (!$("sheet").hidden) $("sheet").src = file(id, "summary.png");
  $("downloads").replaceChildren(...told.files.map((each) => {
    const row = element("li");
    const count = (told.points_written || {})[each.path.replace(/(^|\/)colmap\/.*\/points3D\.(bin|txt)$/, "$1colmap/")];
    const points = count === undefined ? "" : `, ${count.toLocaleString("en")} points`;
    row.append(element("a", each.path, { href: `${file(id, each.path)}?download` }), ` ${size(each.bytes)}${points}`);
    return row;
  }));
  $("result").scrollIntoView({ behavior: "smooth", block: "start" });
  const shown = paths.includes("scene.ply") && await look(file(id, "scene.ply"));
  $("cloud").hidden = $("hint").hidden = !shown;
}

async function gallery() {
  const { results } = await ask("/api/results");
  $("past").hidden = !results.length;
  $("gallery").replaceChildren(...results.map((each) => {
    const card = element("button", undefined, { type: "button" });
    card.onclick = () => open_result(each.id);
    card.append(each.thumbnail
      ? element("img", undefined, { src: file(each.id, each.thumbnail), alt: "", loading: "lazy" })
      : element("div", undefined, { className: "blank" }));
    const text = element("div");
    text.append(element("b", each.title || each.id), `${each.model || ""}, ${each.views} views, ${new Date(1000 * each.time).toLocaleString()}`);
    card.append(text);
    return card;
  }));
}

/* The points, drawn by WebGL. */

const VERTEX = `attribute vec3 place; attribute vec3 color; uniform mat4 view; uniform float size;
varying vec3 seen; void main() { gl_Position = view * vec4(place, 1.0); gl_PointSize = max(1.0, size / gl_Position.w); seen = color; }`;
const FRAGMENT = `precision mediump float; varying vec3 seen; void main() { gl_FragColor = vec4(seen, 1.0); }`;
let cloud = null;

function read_ply(buffer) {
  const text = new TextDecoder().decode(new Uint8Array(buffer, 0, Math.min(4096, buffer.byteLength)));
  const end = text.indexOf("end_header\n");
  if (end < 0 || !text.includes("format binary_little_endian")) return null;
  const bytes = { char: 1, uchar: 1, int8: 1, uint8: 1, short: 2, ushort: 2, int16: 2, uint16: 2, int: 4, uint: 4, int32: 4, uint32: 4, float: 4, float32: 4, double: 8, float64: 8 };
  let count = 0, stride = 0, vertex = false;
  const at = {};
  for (const line of text.slice(0, end).split("\n")) {
    const [word, kind, name] = line.trim().split(/\s+/);
    if (word === "element") { vertex = kind === "vertex"; if (vertex) count = Number(name); }
    if (word === "property" && vertex) { at[name] = [stride, kind]; stride += bytes[kind]; }
  }
  if (!at.x || !at.red || !count) return null;
  const data = new DataView(buffer, end + 11), wide = at.x[1].includes("64") || at.x[1] === "double";
  const places = new Float32Array(3 * count), colors = new Uint8Array(3 * count);
  for (let each = 0; each < count; each++) {
    ["x", "y", "z"].forEach((name, axis) => {
      const where = each * stride + at[name][0];
      places[3 * each + axis] = wide ? data.getFloat64(where, true) : data.getFloat32(where, true);
    });
    ["red", "green", "blue"].forEach((name, axis) => { colors[3 * each + axis] = data.getUint8(each * stride + at[name][0]); });
  }
  return { places, colors, count };
}

function middle(values, axis, share) {
  const sample = [];
  for (let each = axis; each < values.length; each += 3 * Math.max(1, Math.floor(values.length / 30000))) sample.push(values[each]);
  sample.sort((one, other) => one - other);
  return sample[Math.floor(share * (sample.length - 1))];
}

async function look(url) {
  const answer = await fetch(url);
  const points = answer.ok ? read_ply(await answer.arrayBuffer()) : null;
  const canvas = $("cloud");
  canvas.hidden = false;
  const gl = points && canvas.getContext("webgl", { antialias: true });
  if (!gl) return false;
  const program = cloud ? cloud.program : gl.createProgram();
  if (!cloud) {
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    cloud = { program, buffers: [gl.createBuffer(), gl.createBuffer()] };
    steer(canvas);
    new ResizeObserver(draw).observe(canvas);
  }
  for (const [place, name, values, kind, scaled] of [
    [0, "place", points.places, gl.FLOAT, false], [1, "color", points.colors, gl.UNSIGNED_BYTE, true]]) {
    gl.bindBuffer(gl.ARRAY_BUFFER, cloud.buffers[place]);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const where = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(where);
    gl.vertexAttribPointer(where, 3, kind, scaled, 0, 0);
  }
  const axes = [0, 1, 2];
  const low = axes.map((axis) => middle(points.places, axis, 0.05)), high = axes.map((axis) => middle(points.places, axis, 0.95));
  const radius = Math.hypot(...axes.map((axis) => high[axis] - low[axis])) / 2 || 1;
  // The first camera is at the origin and looks along z: the same way the page looks at first.
  Object.assign(cloud, { gl, canvas, count: points.count, radius, target: axes.map((axis) => middle(points.places, axis, 0.5)), turn: 0.15, tilt: 0.1, distance: 1.25 * radius });
  draw();
  return true;
}

function frame() {
  const { turn, tilt, distance, target } = cloud;
  const forward = [Math.sin(turn) * Math.cos(tilt), Math.sin(tilt), Math.cos(turn) * Math.cos(tilt)];
  const right = [Math.cos(turn), 0, -Math.sin(turn)];
  const down = [
    forward[1] * right[2] - forward[2] * right[1], forward[2] * right[0] - forward[0] * right[2],
    forward[0] * right[1] - forward[1] * right[0]];
  return { forward, right, down, eye: target.map((value, axis) => value - distance * forward[axis]) };
}

function draw() {
  if (!cloud || !cloud.gl) return;
  const { gl, canvas, count, radius, distance } = cloud, { forward, right, down, eye } = frame();
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * scale);
  canvas.height = Math.round(canvas.clientHeight * scale);
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(0.086, 0.094, 0.11, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const near = Math.max(distance / 100, radius / 1000), far = distance + 20 * radius, focal = 1.6;
  const rows = [
    right.map((value) => value * focal * canvas.height / canvas.width), down.map((value) => -value * focal),
    forward.map((value) => value * (far + near) / (far - near)), forward];
  const dot = (one) => -one.reduce((sum, value, axis) => sum + value * eye[axis], 0);
  const last = [dot(rows[0]), dot(rows[1]), dot(rows[2]) - 2 * far * near / (far - near), dot(rows[3])];
  const view = [];
  for (let column = 0; column < 3; column++) for (const row of rows) view.push(row[column]);
  gl.uniformMatrix4fv(gl.getUniformLocation(cloud.program, "view"), false, new Float32Array([...view, ...last]));
  gl.uniform1f(gl.getUniformLocation(cloud.program, "size"), 2.2 * canvas.height * radius / Math.sqrt(Math.max(count, 20000)));
  gl.drawArrays(gl.POINTS, 0, count);
}

function steer(canvas) {
  let last = null;
  canvas.onpointerdown = (event) => { last = event; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = () => { last = null; };
  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.onpointermove = (event) => {
    if (!last) return;
    const x = event.clientX - last.clientX, y = event.clientY - last.clientY;
    last = event;
    if (event.buttons & 2 || event.shiftKey) {
      const { right, down } = frame(), step = cloud.distance / canvas.clientHeight;
      cloud.target = cloud.target.map((value, axis) => value - step * (x * right[axis] + y * down[axis]));
    } else {
      cloud.turn -= x / 200;
      cloud.tilt = Math.max(-1.5, Math.min(1.5, cloud.tilt + y / 200));
    }
    draw();
  };
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); nearer(Math.exp(event.deltaY / 800)); }, { passive: false });
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (step) { cloud.turn += step[0]; cloud.tilt = Math.max(-1.5, Math.min(1.5, cloud.tilt + step[1])); event.preventDefault(); draw(); }
    if (event.key === "+") nearer(0.9);
    if (event.key === "-") nearer(1.1);
  };
}

function nearer(factor) {
  cloud.distance = Math.max(cloud.radius / 50, Math.min(20 * cloud.radius, cloud.distance * factor));
  draw();
}

/* The start. */

async function start() {
  const about = await ask("/api");
  limits = about.limits;
  $("model").replaceChildren(...about.models.map((name) => element("option", name.split("/").pop(), { value: name })));
  if (about.attention) { // of all jobs
    $("attention").parentElement.hidden = true;
    $("attends").hidden = false;
    $("attends").textContent = `Attention: ${about.attention}`;
  }
  $("resolution").max = limits.resolution;
  $("max_views").max = limits.views;
  $("max_views").placeholder = `${limits.views} views`;
  await gallery();
  const { jobs } = await ask("/api/jobs");
  const own = jobs.find((each) => each.id === sessionStorage.getItem("job"));
  if (own && !FINISHED.includes(own.state)) follow(own.id);
}

$("files").onchange = () => choose($("files").files);
$("drop").ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = (event) => { event.preventDefault(); $("drop").classList.remove("over"); choose(event.dataTransfer.files); };
$("drop").onkeydown = (event) => { if (["Enter", " "].includes(event.key)) { event.preventDefault(); $("files").click(); } };
window.ondragover = window.ondrop = (event) => event.preventDefault();
$("form").onsubmit = (event) => { event.preventDefault(); send(); };
$("cancel").onclick = cancel;
$("sparse_ratio").oninput = () => { $("ratio").textContent = `${Math.round(100 * $("sparse_ratio").value)} %`; };
$("attention").onchange = () => { $("sparsity").hidden = $("attention").value === "auto"; };
$("sparsity").hidden = true;
start().catch((error) => problem(error.message));
