/* A small canvas to paint an image on, with a brush as soft as the strokes in the training images. */
/* uses: paint (images.js), bytesOfColour (plane.js) */
"use strict";

/* Paint an image of shape [h, w, c] on `canvas`; each stroke calls `changed` with it, as a new array. */
function openDrawing(canvas, [h, w, c], tools, changed) {
  let image = new Float32Array(h * w * c), erasing = false;
  let stroke = null;  // in progress: the image before it, the coverage of each pixel, the last position

  function become(next) {
    image = next;
    paint(canvas, image, [h, w, c]);
  }

  /* Replace the image other than by a stroke. */
  function replace(next, reported = next) {
    become(next);
    changed(reported);
  }

  /* The channels of the ink: a colour if there are three, else the same grey in all. */
  function ink() {
    if (erasing) return Array(c).fill(0);
    return c === 3 ? bytesOfColour(tools.colour.value).map((value) => value / 255) : Array(c).fill(Number(tools.ink.value));
  }

  /* Cover pixels by a dab, fully at its centre. Where dabs of a stroke overlap, the larger coverage counts. */
  function dab(x, y) {
    const radius = Number(tools.width.value) * Math.max(h, w) / 28, reach = Math.ceil(2.5 * radius);
    for (let row = Math.max(0, Math.floor(y) - reach); row <= Math.min(h - 1, y + reach); row++) {
      for (let column = Math.max(0, Math.floor(x) - reach); column <= Math.min(w - 1, x + reach); column++) {
        const away = Math.max(0, Math.hypot(column + 0.5 - x, row + 0.5 - y) / radius - 0.4) / 0.6, p = row * w + column;
        stroke.cover[p] = Math.max(stroke.cover[p], Math.exp(-0.5 * away ** 2));
      }
    }
  }

  /* Paint from the last position to that of an event, in steps of half a pixel. */
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
    for (const part of event.getCoalescedEvents?.() ?? [event]) follow(part);
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
