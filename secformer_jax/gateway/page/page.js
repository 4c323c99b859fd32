"use strict";

const at = (id) => document.getElementById(id);
const PAIRS = { similarity: ["First text", "Second text"], question: ["Question", "Context"] };
let model = null;
let said = [];

async function call(path, body, grows = false) {
  const headers = at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {};
  const options = body && { method: "POST", body: JSON.stringify(body) };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { ...options, headers });
  if (response.ok && grows) return response;
  const found = await response.json();
  if (response.status === 401) at("keys").hidden = false;
  if (!response.ok) throw new Error(found.error ? found.error.message : found.reason);
  return found;
}

async function look() {
  try {
    [model] = (await call("v1/models")).data;
  } catch (error) {
    at("about").textContent = `${error.message} — looking again.`;
    setTimeout(look, 3000);
    return;
  }
  at("about").textContent = `${model.id}: you alone learn ${model.reveals}. The servers see noise.`;
  at("keys").hidden = true;
  at("anew").hidden = model.head !== "generation";
  if (model.head === "generation") at("text-label").textContent = "Message";
  const two = PAIRS[model.head] || (model.head === "embedding" && ["Text", "Another text, to compare (or none)"]);
  at("second").hidden = !two;
  at("pair").required = model.head in PAIRS;
  if (two) [at("text-label").textContent, at("pair-label").textContent] = two;
  at("ask").disabled = false;
}

function element(name, text, ...children) {
  const made = document.createElement(name);
  made.append(...(text ? [text] : []), ...children);
  return made;
}

function percent(score) {
  return `${(100 * score).toFixed(1)} %`;
}

function cosine([a, b]) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function marked(text, entities) {
  const characters = Array.from(text), parts = [];
  let end = 0;
  for (const found of entities) {
    parts.push(characters.slice(end, found.start).join(""));
    const mark = element("mark", characters.slice(found.start, found.end).join(""), element("span", found.label));
    if (found.score !== undefined) mark.title = percent(found.score);
    parts.push(mark);
    end = found.end;
  }
  parts.push(characters.slice(end).join(""));
  return parts;
}

function described(data, text) {
  const [one] = data;
  if (one.entities) return [...marked(text, one.entities), one.entities.length ? "" : "\n(no entities)"];
  if (one.answer) return [element("strong", one.answer.text || "no answer"), `  ${percent(one.answer.score)}`];
  if (one.embedding && data.length === 2) {
    return [element("strong", cosine(data.map((each) => each.embedding)).toFixed(4)), "  cosine of the two"];
  }
  if (one.embedding) {
    const shown = one.embedding.slice(0, 8).map((value) => value.toFixed(4)).join(", ");
    return [`a vector of ${one.embedding.length}: ${shown}, …`];
  }
  if (one.labels) {
    const rows = one.labels.flatMap(({ label, score }) => [element("dt", label), element("dd", percent(score))]);
    return [element("dl", "", ...rows)];
  }
  if (one.label) return [element("strong", one.label), one.score === undefined ? "" : `  ${percent(one.score)}`];
  return [element("strong", one.score.toFixed(4))];
}

function noise(hex) {
  const canvas = document.createElement("canvas"), width = 32, count = hex.length / 2;
  [canvas.width, canvas.height] = [width, Math.max(1, Math.ceil(count / width))];
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < count; i++) {
    const value = parseInt(hex.slice(2 * i, 2 * i + 2), 16);
    image.data.set([value, value, value, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (rest + part.value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) if (event !== "data: [DONE]") yield JSON.parse(event.slice("data: ".length));
  }
}

async function talk(text) {
  const asked = [...said, { role: "user", content: text }], answer = { role: "assistant", content: "" };
  const response = await call(model.ask.slice(1), { messages: asked, stream: true }, true);
  const question = element("p", "", element("strong", text)), line = element("p", "");
  at("answer").append(question, line);
  at("found").hidden = false;
  at("text").value = "";
  try {
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const [{ delta, finish_reason: finish }] = event.choices;
      answer.content += delta.content || "";
      line.textContent = answer.content + (finish === "length" ? " … (cut)" : "");
      if (event.secformer) parties(event.secformer);
    }
  } catch (error) {
    // What is shown is what goes along with the next message.
    for (const each of [question, line]) each.remove();
    at("text").value = text;
    throw error;
  }
  said = [...asked, answer];
}

function anew() {
  said = [];
  at("answer").replaceChildren();
  at("found").hidden = at("parties").hidden = true;
  at("text").focus();
}

function show(found, text) {
  at("answer").replaceChildren(...described(found.data, text));
  at("found").hidden = false;
  parties(found.secformer);
}

function parties({ seconds, sent_bytes: sent, seen }) {
  const megabytes = sent.map((bytes) => `${(bytes / 1e6).toFixed(2)} MB`).join(" and ");
  at("cost").textContent = `${seconds.toFixed(1)} s; ${megabytes} sent. These are the first bytes of the last share:`;
  const figures = seen.map((hex, index) => element("figure", "", noise(hex), element("figcaption", `server ${index}`)));
  at("seen").replaceChildren(...figures);
  at("parties").hidden = false;
}

async function ask(event) {
  event.preventDefault();
  const text = at("text").value, pair = at("pair").value;
  const both = model.head in PAIRS ? { text, text_pair: pair } : pair && !at("second").hidden ? [text, pair] : text;
  at("ask").disabled = at("anew").disabled = true;
  at("ask").textContent = "Asking…";
  at("error").hidden = true;
  try {
    if (model.head === "generation") await talk(text);
    else show(await call(model.ask.slice(1), { input: both }), text);
  } catch (error) {
    at("error").textContent = error.message;
    // The answer to another text would stand beside it; of a conversation what was said stands.
    if (model.head !== "generation") at("found").hidden = at("parties").hidden = true;
    at("error").hidden = false;
  }
  at("ask").disabled = at("anew").disabled = false;
  at("ask").textContent = "Ask";
}

at("form").addEventListener("submit", ask);
at("anew").addEventListener("click", anew);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
look();
