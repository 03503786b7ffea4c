/* The images of a page: numbers in [0, 1], "h w c", on canvases; and the sprite that holds the test images. */
/* uses: engine (compiler/engine.js) */
"use strict";

/* Unpack bytes that page.py packed: all even bytes, then all odd bytes, compressed by gzip. */
async function unpack(text) {
  const stream = new Blob([engine.bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const chunks = [], reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) chunks.push(part.value);
  const bytes = new Uint8Array(chunks.reduce((sum, {length}) => sum + length, 0)), half = bytes.length / 2;
  let at = 0;
  for (const chunk of chunks) {
    for (let i = 0; i < chunk.length; i++, at++) bytes[at < half ? 2 * at : 2 * (at - half) + 1] = chunk[i];
  }
  return bytes;
}

/* The pixels of an image element, once the browser has decoded it. */
async function pixelsOf(element) {
  await element.decode();
  const canvas = document.createElement("canvas");
  canvas.width = element.naturalWidth;
  canvas.height = element.naturalHeight;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(element, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/* A function from an index to a tile of a sprite of `count` images, laid out by page.py, as a Float32Array. */
async function openSprite(element, [h, w, c], count) {
  const {data, width} = await pixelsOf(element), columns = Math.ceil(Math.sqrt(count));
  const below = c === 3 ? 1 : c;  // channels are stacked vertically, except red, green and blue
  return (i) => {
    const top = Math.floor(i / columns) * h * below, left = (i % columns) * w, image = new Float32Array(h * w * c);
    for (let y = 0, p = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        for (let channel = 0; channel < c; channel++, p++) {
          const row = top + y + (c === 3 ? 0 : channel * h);
          image[p] = data[4 * (row * width + left + x) + (c === 3 ? channel : 0)] / 255;
        }
      }
    }
    return image;
  };
}

/* The bytes of the shading, tile after tile. */
async function openShading(element, cells, count) {
  const tile = await openSprite(element, [cells, cells, 1], count), bytes = new Uint8Array(count * cells ** 2);
  for (let i = 0; i < count; i++) bytes.set(tile(i).map((value) => Math.round(255 * value)), i * cells ** 2);
  return bytes;
}

/* Draw an image onto a canvas, pixel for pixel: three channels in colour, else the first in grey. */
function paint(canvas, image, [h, w, c]) {
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
  const context = canvas.getContext("2d"), pixels = context.createImageData(w, h), {data} = pixels;
  for (let p = 0, q = 0; p < data.length; p += 4, q += c) {
    data[p] = 255 * image[q];  // the canvas rounds and clips to 0..255
    data[p + 1] = 255 * image[c === 3 ? q + 1 : q];
    data[p + 2] = 255 * image[c === 3 ? q + 2 : q];
    data[p + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

function wipe(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}
