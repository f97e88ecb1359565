// The viewer's controls. Bokeh draws; this fills its one source of data, and writes files.
"use strict";

const UNKNOWN = 65535;
const DOMINANT = "most abundant";
const OTHER = "#bbbbbb";

function decode(id, Type) {
  const node = document.getElementById(id);
  if (!node) return null;
  const bytes = Uint8Array.from(atob(node.textContent.trim()), c => c.charCodeAt(0));
  return new Type(bytes.buffer);
}

function quantile(values, share) {
  const known = Float32Array.from(values).filter(Number.isFinite).sort();
  return known.length ? known[Math.min(known.length - 1, Math.floor(share * known.length))] : 0;
}

function readFacts() {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const n = facts.ids.length;
  const xy = decode("xy", Float32Array);
  const packed = Object.fromEntries(facts.layers.map(name => [name, decode(`layer-${name}`, Uint16Array)]));
  const column = name => decode(`column-${name}`, Float32Array);
  const values = (layer, type) => {
    const low = facts.ranges[layer][2 * type], high = facts.ranges[layer][2 * type + 1];
    const step = (high - low) / (UNKNOWN - 1);
    return Float32Array.from(packed[layer].subarray(type * n, (type + 1) * n), v => v === UNKNOWN ? NaN : low + v * step);
  };
  return {...facts, n, x: xy.subarray(0, n), y: xy.subarray(n), values,
    tissue: column("tissue_fraction"), cells: column("cells"),
    flag: Object.fromEntries(Object.keys(facts.flags).map(name => [name, column(name)]))};
}

// Index of the largest type of each observation; -1 where nothing is known.
function dominant(data, layer) {
  const best = new Int32Array(data.n).fill(-1), most = new Float32Array(data.n).fill(-Infinity);
  data.types.forEach((_, t) => data.values(layer, t).forEach((v, i) => {
    if (v > most[i]) { most[i] = v; best[i] = t; }
  }));
  return best;
}

function startViewer(source, mappers, figures, scales) {
  const data = readFacts();
  const control = id => document.getElementById(id);
  const both = data.layers.includes("prediction") && data.layers.includes("labels");
  const main = data.layers[0];
  const select = control("type");
  const order = data.types.map((_, t) => t);
  const groups = data.types.length > 1 ? [[-1, DOMINANT]] : [];
  for (const [value, text] of [...groups, ...order.map(t => [t, data.types[t]])]) select.add(new Option(text, value));

  const heldOut = type => data.heldOut[type] || {};
  // The type that held-out sections speak for most is seen first.
  const trust = t => heldOut(data.types[t]).mean ?? -1;
  select.value = order.reduce((best, t) => trust(t) > trust(best) ? t : best, 0);
  const format = value => value === undefined ? "not defined" : value.toFixed(2);
  const flagText = Array.from({length: data.n}, (_, i) =>
    Object.entries(data.flags).filter(([name]) => data.flag[name][i] > 0).map(([, text]) => text).join(", "));
  const shown = () => Array.from({length: data.n}, (_, i) =>
    !Object.keys(data.flags).some(name => control(`hide-${name}`).checked && data.flag[name][i] > 0));

  function frequent() {
    const count = new Map();
    for (const layer of data.layers.filter(name => name !== "spread"))
      dominant(data, layer).forEach(t => t >= 0 && count.set(t, (count.get(t) || 0) + 1));
    return [...count].sort((a, b) => b[1] - a[1]).slice(0, data.colours.length - 1).map(([t]) => t);
  }

  function showDominant(columns) {
    const chosen = frequent();
    const palette = [...chosen.map((_, i) => data.colours[i]), OTHER];
    const code = t => t < 0 ? NaN : chosen.includes(t) ? chosen.indexOf(t) : chosen.length;
    const best = {};
    for (const layer of data.layers) {
      if (layer === "spread") { columns.spread = new Float32Array(data.n).fill(NaN); continue; }
      best[layer] = dominant(data, layer);
      columns[layer] = Float32Array.from(best[layer], code);
    }
    if (both) columns.difference = Float32Array.from(best.prediction, (t, i) => t === best.labels[i] ? NaN : 1);
    for (const [name, mapper] of Object.entries(mappers)) {
      const limits = name === "difference" ? [0, 1] : [-0.5, palette.length - 0.5];
      mapper.setv({palette: name === "difference" ? ["#d55e00", "#d55e00"] : palette, low: limits[0], high: limits[1]});
    }
    const others = Object.values(best).some(types => types.some(t => t >= 0 && !chosen.includes(t)));
    const names = [...chosen.map(t => data.types[t]), ...others ? ["other"] : []];
    control("legend").replaceChildren(...names.map((name, i) => {
      const item = document.createElement("span"), box = document.createElement("i");
      box.style.background = palette[i];
      item.append(box, name);
      return item;
    }));
    control("summary").textContent = `The most abundant of ${data.types.length} in each place.`;
  }

  function showType(columns, type) {
    for (const layer of data.layers) columns[layer] = data.values(layer, type);
    if (both) columns.difference = columns.prediction.map((v, i) => v - columns.labels[i]);
    const limits = Object.fromEntries(data.layers.map(layer => {
      const low = Math.min(0, quantile(columns[layer], 0.01)), high = quantile(columns[layer], 0.99);
      return [layer, [low, high > low ? high : low + 1]];
    }));
    if (both && control("scaling").value === "same") {
      const all = [limits.prediction, limits.labels];
      limits.prediction = limits.labels = [Math.min(...all.map(l => l[0])), Math.max(...all.map(l => l[1]))];
    }
    for (const [name, mapper] of Object.entries(mappers)) {
      if (name === "difference") {
        const most = quantile(columns.difference.map(Math.abs), 0.99) || 1;
        mapper.setv({palette: figures.difference.differencePalette, low: -most, high: most});
      } else mapper.setv({palette: scales[control("colours").value], low: limits[name][0], high: limits[name][1]});
    }
    control("legend").replaceChildren();
    const name = data.types[type], r = heldOut(name);
    let summary = `${name}, ${data.units}.`;
    if (Object.keys(data.heldOut).length) {
      summary += ` Correlation on held-out sections: ${format(r.mean)}`;
      summary += r.here === undefined ? "." : `; on this one: ${format(r.here)}.`;
    }
    control("summary").textContent = summary;
    columns.r = Array(data.n).fill(format(r.mean));
  }

  function draw() {
    const type = Number(select.value), visible = shown(), opacity = control("opacity").value / 100;
    const columns = {
      x: data.x.map(v => v * data.unit), y: data.y.map(v => v * data.unit), id: data.ids,
      alpha: Float32Array.from(visible, v => v ? opacity : 0), flags: flagText, r: Array(data.n).fill(""),
      tissue: data.tissue || new Float32Array(data.n).fill(NaN), cells: data.cells || new Float32Array(data.n).fill(1),
      difference: new Float32Array(data.n).fill(NaN),
    };
    if (type < 0) showDominant(columns); else showType(columns, type);
    for (const [name, figure] of Object.entries(figures)) {
      const tiles = figure.renderers.find(r => r.name === "tiles");
      tiles.glyph.line_alpha = {value: control("outlines").checked ? 0.7 : 0};
      for (const bar of figure.right) bar.visible = type >= 0;
      if (type < 0 && name === "spread") figure.title.text = "standard deviation: choose a type";
      else figure.title.text = type < 0 && name === "difference" ? "prediction and labels disagree" : data.titles[name];
    }
    source.data = columns;
    return columns;
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  const stem = document.title.replace(/[^A-Za-z0-9]+/g, "_");
  const short = v => Number.isFinite(v) ? Number(v.toPrecision(5)) : null;
  const px = v => Number(v.toFixed(2));
  const facts = () => [["tissue_fraction", data.tissue], ["cells", data.cells], ...Object.entries(data.flag)].filter(([, v]) => v);

  function table() {
    const parts = data.layers.flatMap(layer => data.types.map((name, t) => [`${layer}: ${name} [${data.units}]`, data.values(layer, t)]));
    const head = ["obs_id", "x [px]", "y [px]", ...facts().map(([name]) => name), ...parts.map(([name]) => name)];
    const lines = data.ids.map((id, i) => [id, px(data.x[i]), px(data.y[i]), ...facts().map(([, v]) => short(v[i])),
      ...parts.map(([, v]) => Number.isFinite(v[i]) ? short(v[i]) : "")].join("\t"));
    return [head.join("\t"), ...lines].join("\n") + "\n";
  }

  function geojson() {
    const best = dominant(data, main), half = data.side / 2;
    const layers = data.layers.map(layer => [layer, data.types.map((_, t) => data.values(layer, t))]);
    const used = [...new Set(best)].filter(t => t >= 0);
    const rgb = t => { const c = data.colours[used.indexOf(t) % data.colours.length]; return [1, 3, 5].map(k => parseInt(c.slice(k, k + 2), 16)); };
    const features = data.ids.map((id, i) => {
      const measurements = {};
      for (const [layer, values] of layers) data.types.forEach((name, t) => {
        if (Number.isFinite(values[t][i])) measurements[`${layer}: ${name} [${data.units}]`] = short(values[t][i]);
      });
      for (const [name, values] of facts()) measurements[name] = short(values[i]);
      const [x, y] = [data.x[i] - data.corner[0], data.y[i] - data.corner[1]];
      const ring = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([a, b]) => [px(x + a * half), px(y + b * half)]);
      const properties = {objectType: data.round ? "detection" : "tile", name: id, measurements};
      if (best[i] >= 0) properties.classification = {name: data.types[best[i]], color: rgb(best[i])};
      return {type: "Feature", geometry: {type: "Polygon", coordinates: [ring]}, properties};
    });
    return JSON.stringify({type: "FeatureCollection", features});
  }

  function picture() {
    const images = Object.values(figures).map(figure => Bokeh.index.find_one(figure).export("auto", true).canvas);
    const canvas = document.createElement("canvas");
    canvas.width = images.reduce((sum, image) => sum + image.width, 0);
    canvas.height = Math.max(...images.map(image => image.height));
    const paint = canvas.getContext("2d");
    paint.fillStyle = "white";
    paint.fillRect(0, 0, canvas.width, canvas.height);
    let x = 0;
    for (const image of images) { paint.drawImage(image, x, 0); x += image.width; }
    return canvas;
  }

  function step(by) {
    select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
    draw();
  }
  if (figures.difference) figures.difference.differencePalette = mappers.difference.palette;
  for (const node of control("controls").querySelectorAll("select, input")) node.addEventListener("input", draw);
  control("save-tsv").onclick = () => save(`${stem}.tsv`, "text/tab-separated-values", table());
  control("save-geojson").onclick = () => save(`${stem}.geojson`, "application/geo+json", geojson());
  control("save-png").onclick = () => picture().toBlob(blob => save(`${stem}.png`, "image/png", blob));
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
    if (event.key === "o") control("outlines").click();
  });
  window.viewer = {data, draw, table, geojson, picture};
  draw();
  document.body.dataset.ready = "yes";
}
