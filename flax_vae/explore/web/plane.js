/* The picture of the latent plane: shading and points on one canvas, moving marks on another above it. */
/* uses: number (latents.js) */
"use strict";

const TAB10 = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const TAB20 = TAB10.flatMap((colour, i) => [
  colour,
  ["#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5"][i],
]);

const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const bytesOfColour = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/* The colour of each class, mixed with the ink of the theme to stand out from the paper. */
function classColours(count) {
  if (count > 20) return Array(count).fill(styleOf("--point"));
  const toward = bytesOfColour(styleOf("--ink")), share = Number(styleOf("--toward-ink"));
  return (count > 10 ? TAB20 : TAB10).slice(0, Math.max(count, 1)).map((hex) => {
    const mixed = bytesOfColour(hex).map((value, i) => Math.round((1 - share) * value + share * toward[i]));
    return `rgb(${mixed.join(" ")})`;
  });
}

/* Round numbers in an interval, about `wanted` of them. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) values.push(i * step);
  return {values, digits: Math.max(0, -Math.floor(Math.log10(step)))};
}

/* The picture of `latents` on the canvases of `root`; points have `labels` from 0 to `classes` - 1. */
function openPicture(root, latents, labels, classes) {
  const [cloud, marks] = root.querySelectorAll("canvas");
  const size = {width: 0, height: 0, dots: 1};

  function resize() {
    const {clientWidth: width, clientHeight: height} = root, dots = Math.min(window.devicePixelRatio || 1, 3);
    if (width === size.width && height === size.height && dots === size.dots) return;
    Object.assign(size, {width, height, dots});
    for (const canvas of [cloud, marks]) Object.assign(canvas, {width: width * dots, height: height * dots});
  }

  function context(canvas) {
    const cleared = canvas.getContext("2d");
    cleared.setTransform(size.dots, 0, 0, size.dots, 0, 0);
    cleared.clearRect(0, 0, size.width, size.height);
    return cleared;
  }

  /* From a position on the plane to the canvas, and back. On a line, rows go from -1 to 1. */
  const halfHeight = (plane) => plane.line ? 1 : plane.half;
  const pixelOf = (plane, [u, v]) => [
    ((u - plane.middle[0]) / plane.half + 1) / 2 * size.width,
    (1 - (v - plane.middle[1]) / halfHeight(plane)) / 2 * size.height,
  ];
  const placeOf = (plane, x, y) => [
    plane.middle[0] + (2 * x / size.width - 1) * plane.half,
    plane.middle[1] + (1 - 2 * y / size.height) * halfHeight(plane),
  ];

  /* On a line, the points of each class are in a row, with some jitter. */
  const rowOf = (i) => {
    const rows = Math.max(classes, 1), jitter = ((i * 0.618) % 1) - 0.5;
    return 0.9 * (1 - 2 * ((labels[i] ?? 0) + 0.5 + 0.6 * jitter) / rows);
  };
  const pointAt = (plane, i) => {
    const [u, v] = latents.place(latents.centre(i), plane);
    return pixelOf(plane, [u, plane.line ? rowOf(i) : v]);
  };

  function drawShade(to, plane, density) {
    const {cells} = density, tile = document.createElement("canvas");
    const faint = Math.sqrt(density.relative[1]);  // the least shade, subtracted so that the shading has no edge
    tile.width = tile.height = cells;
    const pixels = tile.getContext("2d").createImageData(cells, cells), [r, g, b] = bytesOfColour(styleOf("--shade"));
    for (let j = 0, p = 0; j < cells; j++) {
      for (let i = 0; i < cells; i++, p += 4) {
        const relative = density.relative[density.byte(plane, i, cells - 1 - j)];
        pixels.data.set([r, g, b, 255 * (Math.sqrt(relative) - faint) / (1 - faint)], p);
      }
    }
    tile.getContext("2d").putImageData(pixels, 0, 0);
    Object.assign(to, {imageSmoothingEnabled: true, imageSmoothingQuality: "high"});
    to.drawImage(tile, 0, 0, size.width, size.height);
  }

  function drawAxes(to, plane) {
    to.font = `11px ${styleOf("--font")}`;
    const rule = (value, across) => {
      const [x, y] = pixelOf(plane, across ? [value, plane.middle[1]] : [plane.middle[0], value]);
      to.beginPath();
      to.moveTo(across ? x : 0, across ? 0 : y);
      to.lineTo(across ? x : size.width, across ? size.height : y);
      to.stroke();
      return [x, y];
    };
    for (const across of [true, false].slice(0, plane.line ? 1 : 2)) {
      const middle = plane.middle[across ? 0 : 1], {width, height} = size;
      const {values, digits} = ticks(middle - plane.half, middle + plane.half, width < 450 ? 5 : 8);
      for (const value of values) {
        to.strokeStyle = styleOf(Math.abs(value) < 1e-9 ? "--axis" : "--grid");
        const [x, y] = rule(value, across);
        to.fillStyle = styleOf("--soft");
        to.textAlign = across ? "center" : "left";
        const text = number(value, digits);
        if (across && x > 34 && x < width - 26) to.fillText(text, x, height - 7);
        if (!across && y > 34 && y < height - 26) to.fillText(text, 7, y + 4);
      }
      to.font = `600 13px ${styleOf("--font")}`;
      to.fillStyle = styleOf("--ink");
      to.textAlign = across ? "right" : "left";
      to.fillText(plane.names[across ? 0 : 1], across ? width - 8 : 8, across ? height - 8 : 18);
      to.font = `11px ${styleOf("--font")}`;
    }
  }

  /* Draw shading, axes and points, which change with the plane and the theme. */
  function drawCloud({plane, hidden, density}) {
    resize();
    const to = context(cloud), colours = classColours(classes);
    if (density && plane.shade >= 0) drawShade(to, plane, density);
    drawAxes(to, plane);
    to.globalAlpha = 0.8;
    const radius = Math.max(1.8, size.width / 250);
    for (let i = 0; i < latents.count; i++) {
      if (hidden.has(labels[i])) continue;
      to.fillStyle = colours[labels[i] ?? 0];
      to.beginPath();
      to.arc(...pointAt(plane, i), radius, 0, 2 * Math.PI);
      to.fill();
    }
    to.globalAlpha = 1;
  }

  /* Draw a line in two colours, visible on any background. */
  function outline(to, path, width = 1.5) {
    for (const [colour, lineWidth] of [["--paper", width + 2], ["--accent", width]]) {
      to.strokeStyle = styleOf(colour);
      to.lineWidth = lineWidth;
      to.beginPath();
      path();
      to.stroke();
    }
  }

  function drawPosterior(to, plane, {centre, scale}) {
    const [x, y] = pixelOf(plane, latents.place(centre, plane)), {major, minor, angle} = latents.ellipse(scale, plane);
    const unit = size.width / (2 * plane.half);
    for (const deviations of [1, 2]) {
      const [long, short] = [major, minor].map((axis) => Math.max(axis * deviations * unit, 1));
      outline(to, () => {
        if (plane.line) for (const side of [-long, long]) to.rect(x + side, -5, 0, size.height + 10);
        else to.ellipse(x, y, long, short, -angle, 0, 2 * Math.PI);
      }, deviations === 1 ? 2 : 1.2);
    }
  }

  function drawPath(to, plane, ends) {
    const places = ends.map((z) => pixelOf(plane, latents.place(z, plane)));
    outline(to, () => {
      to.moveTo(...places[0]);
      to.lineTo(...places[1]);
    });
    places.forEach(([x, y], i) => {
      to.beginPath();
      to.arc(x, y, 9, 0, 2 * Math.PI);
      to.fillStyle = styleOf("--accent");
      to.fill();
      to.fillStyle = styleOf("--paper");
      to.font = `600 11px ${styleOf("--font")}`;
      to.textAlign = "center";
      to.fillText("AB"[i], x, y + 4);
    });
  }

  function drawPoint(to, plane, z, pinned) {
    const [x, y] = pixelOf(plane, latents.place(z, plane));
    to.fillStyle = styleOf(pinned ? "--ink" : "--accent");
    to.strokeStyle = styleOf("--paper");
    to.lineWidth = 3;
    if (plane.line) to.fillRect(x - 1, 0, 2, size.height);
    to.beginPath();
    to.arc(x, y, 3.5, 0, 2 * Math.PI);
    to.stroke();
    to.fill();
  }

  /* Draw the marks that change with the point: posterior, neighbours, path, and current point. */
  function drawMarks({plane, z, hover, q, neighbours, ends}) {
    resize();
    const to = context(marks);
    if (ends.every(Boolean)) drawPath(to, plane, ends);
    if (q) drawPosterior(to, plane, q);
    to.lineWidth = 1.5;
    to.strokeStyle = styleOf("--ink");
    for (const i of neighbours) {
      to.beginPath();
      to.arc(...pointAt(plane, i), 4.5, 0, 2 * Math.PI);
      to.stroke();
    }
    drawPoint(to, plane, z, true);
    if (hover) drawPoint(to, plane, hover, false);
  }

  /* The index of the visible point nearest to a position on the canvas, within a distance; -1 without one. */
  function pick({plane, hidden}, x, y, within) {
    let best = -1, least = within ** 2;
    for (let i = 0; i < latents.count; i++) {
      if (hidden.has(labels[i])) continue;
      const [px, py] = pointAt(plane, i), distance = (px - x) ** 2 + (plane.line && within === Infinity ? 0 : (py - y) ** 2);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  return {drawCloud, drawMarks, pick, placeOf, pixelOf};
}
