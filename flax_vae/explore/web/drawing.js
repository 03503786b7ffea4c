/* A small canvas to paint an image on, with a brush as soft as what the model knows. */
"use strict";

/* `canvas` becomes an image of the shape [h, w, c]; each stroke calls `changed` with it, a new array each time. */
function openDrawing(canvas, [h, w, c], tools, changed) {
  let image = new Float32Array(h * w * c), erasing = false;
  let stroke = null;  // that is being painted: the image before it, how far each pixel is covered, the last place

  function become(next) {
    image = next;
    paint(canvas, image, [h, w, c]);
  }

  /* The image is another one, not by a stroke. */
  function replace(next, told = next) {
    become(next);
    changed(told);
  }

  /* Channels of the ink: of three those of a colour, else one grey for all. */
  function ink() {
    if (erasing) return Array(c).fill(0);
    return c === 3 ? bytesOfColour(tools.colour.value).map((value) => value / 255) : Array(c).fill(Number(tools.ink.value));
  }

  /* A dab covers pixels, those in the middle wholly. Where dabs of a stroke overlap, the one that covers more counts. */
  function dab(x, y) {
    const radius = Number(tools.width.value) * Math.max(h, w) / 28, reach = Math.ceil(2.5 * radius);
    for (let row = Math.max(0, Math.floor(y) - reach); row <= Math.min(h - 1, y + reach); row++) {
      for (let column = Math.max(0, Math.floor(x) - reach); column <= Math.min(w - 1, x + reach); column++) {
        const away = Math.max(0, Math.hypot(column + 0.5 - x, row + 0.5 - y) / radius - 0.4) / 0.6, p = row * w + column;
        stroke.cover[p] = Math.max(stroke.cover[p], Math.exp(-0.5 * away ** 2));
      }
    }
  }

  /* From the last place to that of an event, in steps of half a pixel. */
  function follow(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width * w, (event.clientY - box.top) / box.height * h];
    const [fromX, fromY] = stroke.last, steps = Math.max(1, Math.ceil(2 * Math.hypot(x - fromX, y - fromY)));
    for (let i = 1; i <= steps; i++) dab(fromX + (x - fromX) * i / steps, fromY + (y - fromY) * i / steps);
    stroke.last = [x, y];
  }

  function show() {
    const channels = ink(), {before, cover} = stroke;
    become(before.map((value, p) => value + cover[Math.floor(p / c)] * (channels[p % c] - value)));
    changed(image);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const box = canvas.getBoundingClientRect();
    const last = [(event.clientX - box.left) / box.width * w, (event.clientY - box.top) / box.height * h];
    stroke = {before: image, cover: new Float32Array(h * w), last};
    follow(event);
    show();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) follow(each);
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (stroke = null));

  become(image);
  for (const [button, erases] of [[tools.brush, false], [tools.eraser, true]]) {
    button.addEventListener("click", () => {
      erasing = erases;
      tools.brush.setAttribute("aria-pressed", !erasing);
      tools.eraser.setAttribute("aria-pressed", erasing);
    });
  }
  tools.clear.addEventListener("click", () => {
    replace(new Float32Array(h * w * c), null);
  });
  tools.ink.hidden = tools.inkName.hidden = c === 3;
  tools.colour.hidden = c !== 3;
  return {replace};
}
