"use strict";

async function show() {
  const { paths } = await (await fetch("openapi.json")).json();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const row = document.getElementById("paths").insertRow();
      const schema = about.requestBody && about.requestBody.content["application/json"].schema;
      const keys = schema ? Object.keys(schema.properties).join(", ") : "";
      for (const text of [`${method.toUpperCase()} ${path}`, about.summary, keys]) row.insertCell().textContent = text;
    }
  }
}

show();
