/* The latent space of a page: points, axes and planes from planes.py, and the geometry on them. */
/* uses: engine (compiler/engine.js) */
"use strict";

const DIGITS = "₀₁₂₃₄₅₆₇₈₉";
const REGIONS = [
  {share: 0.5, word: "high", meaning: "densest 50 %"},
  {share: 0.9, word: "medium", meaning: "densest 90 %"},
  {share: 0.99, word: "low", meaning: "densest 99 %"},
  {share: Infinity, word: "very low", meaning: "outermost 1 %"},
];

/* "−1.20", with a minus sign as wide as a digit. */
const number = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");

const product = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

/* The semi-axes of {x: xᵀ covariance⁻¹ x = 1} and the angle of the longer one, for a covariance [[a, b], [b, c]]. */
function ellipseOf(a, b, c) {
  const middle = (a + c) / 2, apart = Math.hypot((a - c) / 2, b);
  return {
    major: Math.sqrt(middle + apart),
    minor: Math.sqrt(Math.max(0, middle - apart)),
    angle: Math.atan2(2 * b, a - c) / 2,
  };
}

/* Functions of latent vectors. A plane is spanned by two axes of a basis, see `plane`. */
function openLatents({size, points, axes, planes, cells, depth}) {
  const centres = engine.weightsOf(engine.bytesOf(points.weights), points.table)[0];
  const count = centres.length / size;
  const centre = (i) => centres.subarray(i * size, (i + 1) * size);
  const directions = axes.map(({directions}) => directions
    ? directions.map((direction) => Float32Array.from(direction))
    : Array.from({length: size}, (_, i) => Float32Array.from({length: size}, (_, j) => Number(i === j))));
  const origins = axes.map(({origin, directions: stored}, basis) => stored
    ? directions[basis].map((direction) => product(direction, origin)) : Array(size).fill(0));

  const name = (basis, i) => (axes[basis].name === "principal" ? "p" : "z")
    + String(i + 1).replace(/\d/g, (digit) => DIGITS[digit]);
  const along = (z, basis, i) => product(directions[basis][i], z) - origins[basis][i];

  /* z, moved along one axis to a coordinate. */
  function moved(z, basis, i, to) {
    const by = to - along(z, basis, i);
    return z.map((value, j) => value + by * directions[basis][i][j]);
  }

  /* The plane of the axes `across` and `up`; for one dimension it is a line, and rows have no meaning. */
  function plane(basis, across, up) {
    const {middle, reach} = axes[basis];
    const shade = planes.findIndex(({axes: of, pair}) => of === basis && pair.includes(across) && pair.includes(up));
    return {
      basis, across, up, shade, line: across === up, turned: shade >= 0 && planes[shade].pair[0] !== across,
      middle: [middle[across], across === up ? 0 : middle[up]],
      half: Math.max(reach[across], reach[up]),
      names: [name(basis, across), name(basis, up)],
    };
  }

  const place = (z, {basis, across, up, line}) => [along(z, basis, across), line ? 0 : along(z, basis, up)];

  /* z, moved within the plane to a position. */
  function at(z, {basis, across, up, line}, [u, v]) {
    const shifted = moved(z, basis, across, u);
    return line ? shifted : moved(shifted, basis, up, v);
  }

  /* The ellipse of N(·, scale scaleᵀ) on the plane, one standard deviation from its centre. */
  function ellipse(scale, {basis, across, up, line}) {
    const columns = scale.length / size;
    const row = (direction) => Float32Array.from({length: columns}, (_, k) => {
      let sum = 0;
      for (let j = 0; j < size; j++) sum += direction[j] * scale[j * columns + k];
      return sum;
    });
    const a = row(directions[basis][across]), b = line ? a.map(() => 0) : row(directions[basis][up]);
    return ellipseOf(product(a, a), product(a, b), product(b, b));
  }

  /* The `wanted` allowed points nearest to z in the full space, nearest first. */
  function nearest(z, wanted, allowed = () => true) {
    const best = [];
    for (let i = 0; i < count; i++) {
      if (!allowed(i)) continue;
      let distance = 0;
      for (let j = 0, p = i * size; j < size; j++, p++) distance += (z[j] - centres[p]) ** 2;
      if (best.length === wanted && distance >= best[wanted - 1].distance) continue;
      best.push({i, distance});
      best.sort((one, other) => one.distance - other.distance);
      if (best.length > wanted) best.pop();
    }
    return best.map(({i}) => i);
  }

  /* The density of the planes from the bytes of their shading: `cells` rows for each plane, the top row first. */
  function openDensity(bytes) {
    const relative = Float32Array.from({length: 256}, (_, byte) => byte ? Math.exp(depth * (byte / 255 - 1)) : 0);
    const ends = planes.map((_, shade) => {  // the least byte of each of the densest regions
      const counts = new Float64Array(256);
      for (let p = shade * cells ** 2; p < (shade + 1) * cells ** 2; p++) counts[bytes[p]] += relative[bytes[p]];
      const total = counts.reduce((sum, value) => sum + value, 0);
      return REGIONS.map(({share}) => {
        let byte = 255;
        for (let mass = counts[255]; mass < share * total && byte > 0; mass += counts[byte]) byte--;
        return byte;
      });
    });

    /* The byte of a cell, indexed from the lower left. */
    function byte({shade, turned}, i, j) {
      const [column, row] = turned ? [j, i] : [i, j];
      return bytes[(shade * cells + cells - 1 - row) * cells + column];
    }

    /* The density at a position and its region: "high" within the densest half of the mass, and so on. */
    function density(plane, [u, v]) {
      if (plane.shade < 0) return null;
      const cell = (value, middle) => Math.floor(((value - middle) / plane.half + 1) / 2 * cells);
      const i = cell(u, plane.middle[0]), j = plane.line ? 0 : cell(v, plane.middle[1]);
      const shade = i >= 0 && j >= 0 && i < cells && j < cells ? byte(plane, i, j) : 0;
      const region = shade ? ends[plane.shade].findIndex((least) => shade >= least) : 3;
      return {value: planes[plane.shade].peak * relative[shade], ...REGIONS[region]};
    }

    return {byte, density, relative, cells};
  }

  return {size, count, axes, name, centre, along, moved, plane, place, at, ellipse, nearest, openDensity};
}
