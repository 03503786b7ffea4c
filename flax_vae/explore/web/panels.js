/* The panels beside and below the plane: each displays values of the store, and sets some. */
/* uses: paint, wipe (images.js), number (latents.js), gaussians (state.js), openDrawing (drawing.js) */
"use strict";

const CELLS = 9;  // images in a row
const byId = (id) => document.getElementById(id);

/* Fill an element with buttons that show an image each; `show(i, image)` paints one, a click calls `picked(i)`. */
function openCells(root, count, shape, picked) {
  const cells = Array.from({length: count}, (_, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    const caption = document.createElement("span");
    Object.assign(button, {type: "button", className: "cell"});
    [canvas.width, canvas.height] = [shape[1], shape[0]];
    canvas.setAttribute("aria-hidden", "true");
    button.append(canvas, caption);
    button.addEventListener("click", () => picked(i));
    return {button, canvas, caption};
  });
  root.replaceChildren(...cells.map(({button}) => button));
  return {
    show: (i, image) => paint(cells[i].canvas, image, shape),
    name(i, label, caption = "") {
      cells[i].button.setAttribute("aria-label", label);
      cells[i].caption.textContent = caption;
    },
    mark: (marked) => cells.forEach(({button}, i) => button.setAttribute("aria-current", i === marked)),
  };
}

/* The decoded image at the current point, with coordinates, density and nearest class. */
function openHere({store, latents, page, className}) {
  let spoken = 0;

  /* "z = (0.31, −1.20)"; for more dimensions "z₃ = 0.31, z₇ = −1.20", on two lines, so that nothing below moves. */
  function positionOf({line, names}, place) {
    const numbers = place.map((value) => number(value));
    if (latents.size === 2) return `z\u00a0=\u00a0(${numbers.join(", ")})`;
    return numbers.slice(0, line ? 1 : 2).map((value, k) => `${names[k]}\u00a0=\u00a0${value}`).join(",\n");
  }

  function words({z, plane, density}) {
    const place = latents.place(z, plane), [i] = latents.nearest(z, 1);
    const region = density?.density(plane, place);
    return {
      position: positionOf(plane, place),
      density: region ? (region.value < 0.001 ? "< 0.001" : region.value.toPrecision(2)) : "unknown",
      region: region ? `${region.word}: ${region.meaning}` : "",
      word: region ? `density ${region.word}, ` : "",
      nearest: className(i) ?? "",
    };
  }

  /* Update the summary for screen readers, once the point has come to rest. */
  function speak({position, word, nearest}) {
    clearTimeout(spoken);
    const text = `${position}, ${word}${nearest ? `nearest class ${nearest}` : ""}`.replace(/, $/, "");
    byId("here").setAttribute("aria-label", `Decoded image at ${text}`);
    spoken = setTimeout(() => (byId("summary").textContent = text), 400);
  }

  function update(values) {
    const z = values.hover ?? values.z, texts = words({...values, z});
    byId("here-title").textContent = values.hover ? "Under the pointer" : "Current point";
    for (const name of ["position", "density", "region", "nearest"]) byId(name).textContent = texts[name];
    speak(texts);
    page.queue.now("here", () => {
      paint(byId("here"), page.decode(z), page.shape);
      page.painted();
    });
  }

  store.on("z hover context density plane", update);
  for (const [id, end] of [["set-a", 0], ["set-b", 1]]) byId(id).addEventListener("click", () => page.setEnd(end));
}

/* A test image, its reconstruction, and its nearest neighbours. */
function openTest({store, latents, page, className}) {
  const cells = openCells(byId("neighbours"), 6, page.shape, (i) => page.select(store.values.test.neighbours[i]));
  const picture = (id, image) => image ? paint(byId(id), image, page.shape) : wipe(byId(id));

  store.on("test", ({test}) => {
    byId("test-note").textContent = test ? `${className(test.index) ?? "Test image"}, and its nearest neighbours:`
      : "Click a point on the plane.";
    [...byId("neighbours").children].forEach((cell, i) => (cell.hidden = !(i < test?.neighbours.length)));
    picture("original", test?.image);
    if (!test) return picture("reconstruction", null);
    page.queue.ask("test", [
      () => picture("reconstruction", page.decode(test.q.centre)),
      ...test.neighbours.map((index, i) => () => {
        cells.show(i, page.testImage(index));
        cells.name(i, `Test image, ${className(index) ?? `number ${index + 1}`}`);
      }),
    ]);
  });
}

/* A drawing: its posterior on the plane, its reconstruction beside it. */
function openDraw({store, page}) {
  const ids = ["brush", "eraser", "clear", "ink", "colour", "width"];
  const tools = Object.fromEntries([...ids.map((id) => [id, byId(id)]), ["inkName", byId("ink-name")]]);
  let drawn = null;  // the drawing, while the plane shows its posterior
  [byId("redrawn").width, byId("redrawn").height] = [page.shape[1], page.shape[0]];

  function follow(image) {
    page.queue.now("draw", () => {
      page.show(image);
      paint(byId("redrawn"), page.decode(store.values.q.centre), page.shape);
    });
  }

  const drawing = openDrawing(byId("drawing"), page.shape, tools, (image) => {
    drawn = image;
    if (image) return follow(image);
    wipe(byId("redrawn"));
    store.set({q: null});
  });
  byId("trace").addEventListener("click", () => {
    const {test} = store.values;
    if (test) drawing.replace(test.image);
  });
  store.on("context", () => drawn && follow(drawn));
  store.on("test", ({test}) => test && (drawn = null));  // the plane shows the posterior of another image
}

/* Samples; a change of temperature keeps their noise. */
function openSamples({store, page, noiseSize}) {
  const count = 16, latents = Array(count).fill(null);
  const cells = openCells(byId("samples"), count, page.shape, (i) => latents[i] && store.set({z: latents[i], hover: null}));
  const fresh = () => Array.from({length: count}, () => gaussians(noiseSize));
  for (let i = 0; i < count; i++) cells.name(i, `Sample ${i + 1} of ${count}`);

  store.on("noise temperature context", ({noise, temperature}) => {
    byId("temperature-value").textContent = temperature.toFixed(2);
    page.queue.ask("samples", noise.map((draws, i) => () => {
      const [image, z] = page.sample(draws, temperature);
      latents[i] = z;
      cells.show(i, image);
    }));
  });
  byId("temperature").addEventListener("input", ({target}) => store.set({temperature: Number(target.value)}));
  byId("new-noise").addEventListener("click", () => store.set({noise: fresh()}));
  store.set({noise: fresh()});
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

/* The current point, moved along one axis. */
function openAlong({store, latents, page}) {
  let row = [];
  const cells = openCells(byId("along"), CELLS, page.shape, (i) => store.set({z: row[i], hover: null}));

  store.on("plane", ({plane: {basis}, axis}) => {
    const {order} = latents.axes[basis];
    const next = axis.basis === basis ? axis : {basis, i: order[0]};
    fill(byId("axis"), order.map((i) => [i, latents.name(basis, i)]), next.i);
    if (next !== axis) store.set({axis: next});
  });
  byId("axis").addEventListener("change", ({target}) => (
    store.set({axis: {basis: store.values.plane.basis, i: Number(target.value)}})
  ));
  store.on("z axis context", ({z, axis: {basis, i}}) => {
    const {mean, deviation} = latents.axes[basis];
    row = Array.from({length: CELLS}, (_, k) => (
      latents.moved(z, basis, i, mean[i] + deviation[i] * (6 * k / (CELLS - 1) - 3))
    ));
    page.queue.ask("along", row.map((point, k) => () => {
      const value = number(latents.along(point, basis, i));
      cells.show(k, page.decode(point));
      cells.name(k, `${latents.name(basis, i)} = ${value}`, value);
    }));
  });
}

/* Sliders for the axes outside the plane, the most active first. */
function openOthers({store, latents}) {
  const first = 4;
  let sliders = [];
  if (latents.size < 3) return;
  byId("others-card").hidden = false;

  function slider(basis, i) {
    const label = document.createElement("label"), name = document.createElement("span");
    const input = document.createElement("input"), value = document.createElement("output");
    const {mean, deviation} = latents.axes[basis], to = (sign) => mean[i] + sign * 4 * deviation[i];
    label.className = "slider";
    name.textContent = latents.name(basis, i);
    Object.assign(input, {type: "range", min: to(-1), max: to(1), step: "any"});
    input.addEventListener("input", () => {
      store.set({z: latents.moved(store.values.z, basis, i, Number(input.value)), hover: null});
    });
    label.append(name, input, value);
    return {label, update(z) {
      input.value = latents.along(z, basis, i);
      value.textContent = number(latents.along(z, basis, i));
    }};
  }

  const rest = ({basis, across, up}) => latents.axes[basis].order.filter((i) => i !== across && i !== up);
  store.on("plane", ({plane, z}) => {
    sliders = rest(plane).map((i) => slider(plane.basis, i));
    byId("others").replaceChildren(...sliders.slice(0, first).map(({label}) => label));
    byId("rest").replaceChildren(...sliders.slice(first).map(({label}) => label));
    byId("more-others").hidden = sliders.length <= first;
    byId("more-others").querySelector("summary").textContent = `${sliders.length - first} more`;
    sliders.forEach(({update}) => update(z));
  });
  store.on("z", ({z}) => sliders.forEach(({update}) => update(z)));
  byId("reset").addEventListener("click", () => {
    const {plane, z} = store.values, {mean} = latents.axes[plane.basis];
    store.set({z: rest(plane).reduce((point, i) => latents.moved(point, plane.basis, i, mean[i]), z), hover: null});
  });
}

/* The straight path between two ends, as a row of images and as an animation. */
function openPath({store, page}) {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const cells = openCells(byId("film"), CELLS, page.shape, (i) => go(i / (CELLS - 1), false));
  const between = ([a, b], t) => a.map((value, j) => (1 - t) * value + t * b[j]);

  function go(way, playing) {
    store.set({way, playing, z: between(store.values.ends, way), hover: null});
  }

  /* Play the path in four seconds; with reduced motion, step through the images of the row. */
  function play(before) {
    if (!store.values.playing) return;
    const ask = still.matches ? (run) => setTimeout(() => run(performance.now()), 900) : requestAnimationFrame;
    ask((now) => {
      if (!store.values.playing) return;
      const step = still.matches ? 1 / (CELLS - 1) : (now - before) / 4000;
      const way = Math.min(1, store.values.way + Math.max(0, step));
      go(way, way < 1);
      play(now);
    });
  }

  store.on("way playing", ({way, playing}) => {
    byId("scrubber").value = way;
    byId("way").textContent = `${Math.round(100 * way)} %`;
    byId("play").textContent = playing ? "Pause" : "Play";
    byId("play").setAttribute("aria-pressed", playing);
  });
  store.on("z way ends", ({z, way, ends}) => {
    const here = between(ends, way), apart = z.some((value, j) => Math.abs(value - here[j]) > 1e-5);
    cells.mark(apart ? -1 : Math.round(way * (CELLS - 1)));
  });
  store.on("ends context", ({ends}) => {
    page.queue.ask("film", Array.from({length: CELLS}, (_, i) => () => {
      cells.show(i, page.decode(between(ends, i / (CELLS - 1))));
      cells.name(i, `${Math.round(100 * i / (CELLS - 1))} % of the way`, i ? (i === CELLS - 1 ? "B" : "") : "A");
    }));
  });
  byId("scrubber").addEventListener("input", ({target}) => go(Number(target.value), false));
  byId("play").addEventListener("click", () => {
    const {playing, way} = store.values;
    store.set({playing: !playing, way: way < 1 ? way : 0});
    play(performance.now());
  });
}
