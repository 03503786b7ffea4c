/* Opens the page: the model, the picture of the plane, the panels around it, and the handlers of pointer and keys. */
/* uses: engine (compiler/engine.js), openLatents (latents.js), unpack, openSprite, openShading (images.js), openStore,
 * openQueue (state.js), classColours, openPicture (plane.js), byId, fill and the panels (panels.js) */
"use strict";

/* The theme: that of the system until the user chooses one. */
function openTheme(store) {
  const dark = matchMedia("(prefers-color-scheme: dark)"), button = byId("theme");
  function choose(theme) {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${theme === "dark" ? "light" : "dark"} theme`);
    store.set({theme});
  }
  choose(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => choose(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => choose(store.values.theme === "dark" ? "light" : "dark"));
}

/* The classes with their colours; each can be hidden. */
function openLegend(store, classes) {
  if (classes.length < 2 || classes.length > 20) return;
  const entries = classes.map((name, i) => {
    const button = document.createElement("button"), dot = document.createElement("i");
    button.type = "button";
    button.append(dot, name);
    button.addEventListener("click", () => {
      const hidden = new Set(store.values.hidden);
      if (!hidden.delete(i)) hidden.add(i);
      store.set({hidden});
    });
    return {button, dot};
  });
  byId("legend").replaceChildren(...entries.map(({button}) => button));
  store.on("hidden theme", ({hidden}) => {
    const colours = classColours(classes.length);
    entries.forEach(({button, dot}, i) => {
      button.setAttribute("aria-pressed", !hidden.has(i));
      dot.style.background = colours[i];
    });
  });
}

/* The choice of the plane's axes, for more than two dimensions. */
function openAxes({store, latents}) {
  if (latents.size < 3) return;
  byId("axes").hidden = false;
  const [basis, across, up] = ["basis", "across", "up"].map(byId);
  const texts = {dimensions: "dimensions", principal: "principal"};
  fill(basis, latents.axes.map(({name}, i) => [i, texts[name]]), 0);

  store.on("plane", ({plane}) => {
    const options = latents.axes[plane.basis].order.map((i) => [i, latents.name(plane.basis, i)]);
    fill(across, options, plane.across);
    fill(up, options, plane.up);
    for (const id of ["across-label", "up-label"]) byId(id).hidden = plane.basis > 0;
  });
  basis.addEventListener("change", () => {
    const chosen = Number(basis.value), pair = latents.axes[chosen].order.slice(0, 2).sort((a, b) => a - b);
    store.set({plane: latents.plane(chosen, ...pair)});
  });
  for (const [select, other, name, otherName] of [[across, up, "across", "up"], [up, across, "up", "across"]]) {
    select.addEventListener("change", () => {
      const before = store.values.plane, pair = {[name]: Number(select.value), [otherName]: Number(other.value)};
      if (pair.across === pair.up) pair[otherName] = before[name];  // swap the axes
      store.set({plane: latents.plane(before.basis, pair.across, pair.up)});
    });
  }
}

/* The pointer on the plane: hovering decodes, pressing and dragging moves the point, a click selects a test image. */
function openPointer(root, {store, latents, page, picture}) {
  let down = null;
  const where = (event) => {
    const box = root.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const under = (event) => {
    const {plane, z} = store.values;
    return latents.at(z, plane, picture.placeOf(plane, ...where(event)));
  };

  root.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    root.setPointerCapture(event.pointerId);
    down = {start: where(event), moved: false};
    store.set({hover: null, playing: false, z: under(event)});
  });
  root.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    if (!down) return store.set({hover: under(event)});
    down.moved ||= Math.hypot(...where(event).map((value, i) => value - down.start[i])) > 4;
    if (down.moved) store.set({z: under(event)});
  });
  root.addEventListener("pointerup", (event) => {
    if (down && !down.moved) {
      const index = picture.pick(store.values, ...down.start, event.pointerType === "mouse" ? 8 : 16);
      if (index >= 0) page.select(index);
    }
    down = null;
  });
  root.addEventListener("pointercancel", () => (down = null));
  root.addEventListener("pointerleave", () => store.values.hover && store.set({hover: null}));
}

/* The keys of the plane. */
function openKeys(root, {store, latents, page, picture}) {
  const directions = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const {plane, z} = store.values, place = latents.place(z, plane), direction = directions[event.key];
    if (direction) {
      const step = plane.half * (event.shiftKey ? 0.125 : 0.025);
      store.set({hover: null, playing: false, z: latents.at(z, plane, place.map((value, i) => value + step * direction[i]))});
    } else if (event.key === "Enter" || event.key === " ") {
      const index = picture.pick(store.values, ...picture.pixelOf(plane, place), Infinity);
      if (index >= 0) page.select(index);
    } else if (event.key === "Escape") page.clear();
    else if ("ab".includes(event.key.toLowerCase())) page.setEnd("ab".indexOf(event.key.toLowerCase()));
    else return;
    event.preventDefault();
  });
}

/* The functions that panels call. */
function openPage(content, model, store, latents) {
  const {shape, labels, context: classes} = content, queue = openQueue();
  let sprite = null, first = true, last = null;

  function contextInputs() {
    return classes ? [Float32Array.from({length: classes}, (_, i) => Number(i === store.values.context))] : [];
  }

  const page = {
    shape, queue,
    decode(z) {  // the last result is often needed again
      if (!last || last.label !== store.values.context || z.some((value, i) => value !== last.z[i])) {
        last = {z: Float32Array.from(z), label: store.values.context, image: null};
        last.image = model.decode([last.z, ...contextInputs()])[0];
      }
      return last.image;
    },
    sample: (noise, temperature) => model.sample([noise, Float32Array.of(temperature), ...contextInputs()]),
    testImage: (i) => sprite(i),
    /* Show the posterior of an image on the plane, and move the point to its centre. */
    show(image, more = {}) {
      const [centre, scale] = model.encode([image, ...contextInputs()]), q = {centre, scale};
      store.set({neighbours: [], ...more, q, z: centre, hover: null});
      return q;
    },
    select(index) {
      if (!sprite) return;
      if (classes) store.set({context: labels[index]});
      const neighbours = latents.nearest(latents.centre(index), 7).filter((i) => i !== index).slice(0, 6);
      const image = sprite(index), q = page.show(image, {neighbours});
      store.set({test: {index, image, q, neighbours}});
    },
    clear: () => store.set({q: null, test: null, neighbours: [], hover: null, playing: false}),
    setEnd: (end) => store.set({ends: store.values.ends.map((z, i) => i === end ? store.values.z : z), way: end}),
    painted() {
      if (first) performance.mark("first picture");
      first = false;
    },
    /* Enable the test images. */
    ready(opened) {
      sprite = opened;
      page.select(0);
    },
  };
  return page;
}

/* The initial A and B: the first test image and, among the first hundred, the farthest one of another class. */
function firstEnds(latents, labels) {
  let best = Math.min(1, latents.count - 1), most = -1;
  for (let i = 1; i < Math.min(100, latents.count); i++) {
    const distance = latents.centre(0).reduce((sum, value, j) => sum + (value - latents.centre(i)[j]) ** 2, 0);
    if (labels[i] !== labels[0] && distance > most) [best, most] = [i, distance];
  }
  return [latents.centre(0), latents.centre(best)];
}

async function start() {
  const content = JSON.parse(byId("content").textContent), {classes, labels} = content;
  const latents = openLatents(content.latents);
  const model = engine.open({...content.program, weights: await unpack(content.program.weights)});
  const order = latents.axes[0].order, pair = latents.size === 1 ? [0, 0] : order.slice(0, 2).sort((a, b) => a - b);
  const store = openStore({
    z: latents.centre(0), hover: null, plane: latents.plane(0, ...pair), density: null, hidden: new Set(), theme: "",
    q: null, test: null, neighbours: [], ends: firstEnds(latents, labels), way: 0, playing: false,
    axis: {basis: 0, i: order[0]}, noise: [], temperature: 1, context: content.context ? labels[0] : 0,
  });
  const page = openPage(content, model, store, latents), className = (i) => classes[labels[i]];
  const root = byId("plane"), picture = openPicture(root, latents, labels, classes.length);
  const parts = {store, latents, page, picture, className, noiseSize: content.noise};
  root.classList.toggle("line", latents.size === 1);

  store.on("plane hidden theme density", picture.drawCloud);
  let scheduled = false;
  store.on("plane theme z hover q neighbours ends", (values) => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      picture.drawMarks(values);
    });
  });
  store.on("plane density", ({plane}) => {
    byId("shading-note").textContent = `${latents.count.toLocaleString("en")} test images. `
      + (plane.shade < 0 ? "This pair of dimensions has no shading." : "Shading: the density of the aggregated posterior.");
  });
  for (const open of [openHere, openTest, openDraw, openAlong, openOthers, openPath, openAxes]) open(parts);
  openLegend(store, classes);
  openPointer(root, parts);
  openKeys(root, parts);
  if (content.context) {
    byId("context-row").hidden = false;
    fill(byId("context"), classes.map((name, i) => [i, name]), store.values.context);
    byId("context").addEventListener("change", ({target}) => store.set({context: Number(target.value)}));
    store.on("context", ({context}) => (byId("context").value = context));
  }
  new ResizeObserver(() => {
    picture.drawCloud(store.values);
    picture.drawMarks(store.values);
  }).observe(root);
  openTheme(store);
  store.set({...store.values});
  openSamples(parts);

  const {cells} = content.latents, planes = content.latents.planes.length;
  openShading(byId("shading"), cells, planes).then((bytes) => store.set({density: latents.openDensity(bytes)}));
  if (document.readyState === "loading") await new Promise((done) => addEventListener("DOMContentLoaded", done));
  page.ready(await openSprite(byId("sprite"), content.shape, latents.count));
}

start();
