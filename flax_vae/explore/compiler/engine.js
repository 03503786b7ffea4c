/* Runs the graphs that tracer.py compiles and describes. No network. uses: nothing.
 *
 *     const {decode} = engine.open(program)             // the JSON value of packing.py
 *     const [image] = decode([Float32Array.of(0, 1)])   // arrays in, arrays out, in the order of the graph
 *
 * Every array is a Float32Array, and memory is allocated once. An instruction becomes a function without arguments, with
 * all offsets computed in advance; a graph is a list of such functions.
 */
"use strict";

const engine = (() => {
  /* The offsets of all elements of a view, in order: [first + Σ_d i_d strides_d for each index i]. */
  function offsets(shape, strides, first = 0) {
    let current = [first];
    shape.forEach((size, axis) => {
      const next = [];
      for (const begin of current) for (let i = 0; i < size; i++) next.push(begin + i * strides[axis]);
      current = next;
    });
    return Int32Array.from(current);
  }

  /* erfc(x) = t exp(-x² + polynomial(t)), t = 1 / (1 + |x| / 2), with a relative error below 1.2e-7 (Press et al. 1992, section 6.2). */
  const ERFC = [
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
  ];

  function erfc(x) {
    const t = 1 / (1 + 0.5 * Math.abs(x));
    const sum = ERFC.reduceRight((rest, coefficient) => coefficient + t * rest, 0);
    const above = t * Math.exp(-x * x + sum);
    return x < 0 ? 2 - above : above;
  }

  /* erf(x); near 0, where 1 - erfc(x) loses digits, by the series 2/√π Σ_n (-1)ⁿ x²ⁿ⁺¹ / (n! (2n + 1)). */
  function erf(x) {
    if (Math.abs(x) > 0.5) return 1 - erfc(x);
    let power = x, sum = x;
    for (let n = 1; n < 8; n++) {
      power *= (-x * x) / n;
      sum += power / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }

  /* One row of an elementwise operation, out = op(a, b, c): p, q, r and s are the offsets in each array, dp ... the
   * strides. Each operation has its own loop, which the browser compiles to a few machine instructions; the most
   * frequent operations come first. */
  function row(op, n, out, p, dp, a, q, dq, b, r, dr, c, s, ds) {
    let i = 0;
    switch (op) {
      case "copy": for (; i < n; i++, p += dp, q += dq) out[p] = a[q]; break;
      case "add": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] + b[r]; break;
      case "mul": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] * b[r]; break;
      case "max": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = Math.max(a[q], b[r]); break;
      case "logistic": for (; i < n; i++, p += dp, q += dq) out[p] = 1 / (1 + Math.exp(-a[q])); break;
      case "sub": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] - b[r]; break;
      case "div": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] / b[r]; break;
      case "min": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = Math.min(a[q], b[r]); break;
      case "exp": for (; i < n; i++, p += dp, q += dq) out[p] = Math.exp(a[q]); break;
      case "select": for (; i < n; i++, p += dp, q += dq, r += dr, s += ds) out[p] = a[q] ? b[r] : c[s]; break;
      case "tanh": for (; i < n; i++, p += dp, q += dq) out[p] = Math.tanh(a[q]); break;
      case "neg": for (; i < n; i++, p += dp, q += dq) out[p] = -a[q]; break;
      case "abs": for (; i < n; i++, p += dp, q += dq) out[p] = Math.abs(a[q]); break;
      case "sign": for (; i < n; i++, p += dp, q += dq) out[p] = Math.sign(a[q]); break;
      case "floor": for (; i < n; i++, p += dp, q += dq) out[p] = Math.floor(a[q]); break;
      case "ceil": for (; i < n; i++, p += dp, q += dq) out[p] = Math.ceil(a[q]); break;
      case "trunc": for (; i < n; i++, p += dp, q += dq) out[p] = Math.trunc(a[q]); break;
      case "expm1": for (; i < n; i++, p += dp, q += dq) out[p] = Math.expm1(a[q]); break;
      case "log": for (; i < n; i++, p += dp, q += dq) out[p] = Math.log(a[q]); break;
      case "log1p": for (; i < n; i++, p += dp, q += dq) out[p] = Math.log1p(a[q]); break;
      case "sqrt": for (; i < n; i++, p += dp, q += dq) out[p] = Math.sqrt(a[q]); break;
      case "rsqrt": for (; i < n; i++, p += dp, q += dq) out[p] = 1 / Math.sqrt(a[q]); break;
      case "sin": for (; i < n; i++, p += dp, q += dq) out[p] = Math.sin(a[q]); break;
      case "cos": for (; i < n; i++, p += dp, q += dq) out[p] = Math.cos(a[q]); break;
      case "erf": for (; i < n; i++, p += dp, q += dq) out[p] = erf(a[q]); break;
      case "erfc": for (; i < n; i++, p += dp, q += dq) out[p] = erfc(a[q]); break;
      case "not": for (; i < n; i++, p += dp, q += dq) out[p] = a[q] ? 0 : 1; break;
      case "pow": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = Math.pow(a[q], b[r]); break;
      case "rem": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] % b[r]; break;
      case "quotient": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = Math.trunc(a[q] / b[r]); break;
      case "eq": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] === b[r] ? 1 : 0; break;
      case "ne": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] !== b[r] ? 1 : 0; break;
      case "lt": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] < b[r] ? 1 : 0; break;
      case "le": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] <= b[r] ? 1 : 0; break;
      case "gt": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] > b[r] ? 1 : 0; break;
      case "ge": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] >= b[r] ? 1 : 0; break;
      case "and": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] && b[r] ? 1 : 0; break;
      case "or": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] || b[r] ? 1 : 0; break;
      case "xor": for (; i < n; i++, p += dp, q += dq, r += dr) out[p] = a[q] !== b[r] ? 1 : 0; break;
      default: throw new Error(`unknown operation ${op}`);
    }
  }

  /* An elementwise operation, row by row; the last axis is a row. An operation of fewer than three arrays gets the last
   * one again, and ignores it. */
  function elementwise({op, shape, places}, memories) {
    const outer = shape.slice(0, -1), n = shape.length ? shape[shape.length - 1] : 1;
    const views = [0, 1, 2, 3].map((i) => {
      const [memory, first, ...strides] = places[Math.min(i, places.length - 1)];
      return {memory: memories[memory], step: strides[outer.length] ?? 0, begin: offsets(outer, strides, first)};
    });
    const [out, a, b, c] = views, rows = out.begin.length;
    if (op === "copy" && rows === 1 && out.step === 1 && a.step === 1) {
      const source = a.memory.subarray(a.begin[0], a.begin[0] + n);
      return () => out.memory.set(source, out.begin[0]);
    }
    return () => {
      for (let i = 0; i < rows; i++) {
        row(op, n, out.memory, out.begin[i], out.step, a.memory, a.begin[i], a.step, b.memory, b.begin[i], b.step,
          c.memory, c.begin[i], c.step);
      }
    };
  }

  /* A copy whose ends are shifted by indices, which are read for each element of the first `outer` axes. */
  function move({shape, places, outer, indices}, memories) {
    const leads = shape.slice(0, outer), rest = shape.slice(outer);
    const [out, a] = places.map(([memory, first, ...strides]) => ({
      memory: memories[memory],
      begin: offsets(leads, strides, first),
      inner: offsets(rest, strides.slice(outer)),
    }));
    const shifts = indices.map(([side, stride, largest, memory, first, ...strides]) => (
      {side, stride, largest, memory: memories[memory], begin: offsets(leads, strides, first)}
    ));
    return () => {
      for (let i = 0; i < out.begin.length; i++) {
        let p = out.begin[i], q = a.begin[i];
        for (const {side, stride, largest, memory, begin} of shifts) {
          const by = stride * Math.min(Math.max(memory[begin[i]], 0), largest);
          if (side) q += by;
          else p += by;
        }
        for (let j = 0; j < out.inner.length; j++) out.memory[p + out.inner[j]] = a.memory[q + a.inner[j]];
      }
    };
  }

  /* Pack rows of factors contiguously. Products are computed in double precision, so packing as doubles saves repeated
   * conversions. */
  function pack(packed, memory, first, rows, begin, count, steps) {
    let p = 0;
    for (let i = begin; i < begin + count; i++) {
      const q = first + rows[i];
      for (let k = 0; k < steps.length; k++) packed[p++] = memory[q + steps[k]];
    }
  }

  /* out[i, j] = Σ_k a[i, k] b[j, k] for one or two rows i of a and all rows j of b, both packed. Two by four sums are
   * computed together, so that each number is read once for several. Zeros pad the rows of b to a multiple of 4. */
  function multiply(a, count, b, columns, sums, out, p0, p1, steps) {
    for (let j = 0; j < columns; j += 4) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      const b0 = j * sums, b1 = b0 + sums, b2 = b1 + sums, b3 = b2 + sums;
      if (count === 2) {
        for (let k = 0; k < sums; k++) {
          const x = a[k], y = a[k + sums], u0 = b[b0 + k], u1 = b[b1 + k], u2 = b[b2 + k], u3 = b[b3 + k];
          s0 += x * u0; s1 += x * u1; s2 += x * u2; s3 += x * u3;
          t0 += y * u0; t1 += y * u1; t2 += y * u2; t3 += y * u3;
        }
      } else {
        for (let k = 0; k < sums; k++) {
          const x = a[k];
          s0 += x * b[b0 + k]; s1 += x * b[b1 + k]; s2 += x * b[b2 + k]; s3 += x * b[b3 + k];
        }
      }
      const left = columns - j;
      out[p0 + steps[j]] = s0;
      if (left > 1) out[p0 + steps[j + 1]] = s1;
      if (left > 2) out[p0 + steps[j + 2]] = s2;
      if (left > 3) out[p0 + steps[j + 3]] = s3;
      if (count === 2) {
        out[p1 + steps[j]] = t0;
        if (left > 1) out[p1 + steps[j + 1]] = t1;
        if (left > 2) out[p1 + steps[j + 2]] = t2;
        if (left > 3) out[p1 + steps[j + 3]] = t3;
      }
    }
  }

  /* A sum of products, out[t, i, j] = Σ_k a[t, i, k] b[t, j, k]: the axes that the output lacks are k, those that one
   * factor lacks are the rows of the other, and the rest is t. The factor b is packed as a whole: the constant one, once,
   * or else the one with more rows. The other is packed two rows at a time. */
  function dot({shape, places}, memories, constant) {
    const axes = shape.map((size, axis) => ({size, strides: places.map((place) => place[2 + axis])}));
    const sized = (list) => list.reduce((product, {size}) => product * size, 1);
    const rowsOf = (i) => axes.filter(({strides}) => strides[0] && strides[i] && !strides[3 - i]);
    const [, one, other] = places;
    const swap = constant(one[0]) === constant(other[0]) ? sized(rowsOf(1)) > sized(rowsOf(2)) : constant(one[0]);
    const [A, B] = swap ? [2, 1] : [1, 2];
    const of = (list, i) => offsets(list.map(({size}) => size), list.map(({strides}) => strides[i]));
    const lines = axes.filter(({strides}) => strides[0] && !strides[B]);
    const columns = axes.filter(({strides}) => strides[0] && strides[B] && !strides[A]);
    const batch = axes.filter(({strides}) => strides[0] && strides[A] && strides[B]);
    const sums = axes.filter(({strides}) => !strides[0]);
    const view = (i) => ({memory: memories[places[i][0]], first: places[i][1], batch: of(batch, i), sums: of(sums, i)});
    const out = view(0), a = view(A), b = view(B);
    const outLines = of(lines, 0), aLines = of(lines, A), outColumns = of(columns, 0), bColumns = of(columns, B);
    const n = bColumns.length, length = a.sums.length;
    const packedA = new Float64Array(2 * length);
    const packB = (packed, t) => {
      pack(packed, b.memory, b.first + b.batch[t], bColumns, 0, n, b.sums);
      return packed;
    };
    const space = () => new Float64Array(4 * Math.ceil(n / 4) * length);
    const shared = constant(places[B][0]) ? null : space();
    const packed = shared ? null : Array.from(b.batch, (_, t) => packB(space(), t));
    return () => {
      for (let t = 0; t < out.batch.length; t++) {
        const packedB = packed ? packed[t] : packB(shared, t), first = out.first + out.batch[t];
        for (let i = 0; i < aLines.length; i += 2) {
          const count = Math.min(2, aLines.length - i);
          pack(packedA, a.memory, a.first + a.batch[t], aLines, i, count, a.sums);
          multiply(packedA, count, packedB, n, length, out.memory, first + outLines[i], first + outLines[i + count - 1],
            outColumns);
        }
      }
    };
  }

  function run(steps) {
    for (let i = 0; i < steps.length; i++) steps[i]();
  }

  function repeat({count, code}, compiled) {
    const steps = compiled(code);
    return () => {
      for (let i = 0; i < count; i++) run(steps);
    };
  }

  function whileLoop({flag: [memory, first], test, code}, memories, compiled) {
    const tests = compiled(test), steps = compiled(code);
    return () => {
      for (run(tests); memories[memory][first]; run(tests)) run(steps);
    };
  }

  /* Compile a graph to a function from arrays to arrays. */
  function compile(graph, weights) {
    const memories = graph.memories.map(({size, weight}) => size === undefined ? weights[weight] : new Float32Array(size));
    const constant = (memory) => graph.memories[memory].size === undefined;
    const compiled = (code) => code.map((instruction) => {
      switch (instruction.op) {
        case "dot": return dot(instruction, memories, constant);
        case "move": return move(instruction, memories);
        case "repeat": return repeat(instruction, compiled);
        case "while": return whileLoop(instruction, memories, compiled);
        default: return elementwise(instruction, memories);
      }
    });
    const steps = compiled(graph.code);
    return (inputs) => {
      graph.inputs.forEach(([memory, shape], i) => {
        if (inputs[i].length !== memories[memory].length) throw new Error(`input ${i} must have the shape [${shape}]`);
        memories[memory].set(inputs[i]);
      });
      run(steps);
      return graph.outputs.map(([memory]) => memories[memory].slice());
    };
  }

  /* The number that 16 bits represent (IEEE 754): sign, 5 bits of exponent, 10 of fraction. */
  function half(bits) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity)
      : (1024 + fraction) * 2 ** (exponent - 25);
    return bits & 0x8000 ? -size : size;
  }

  function bytesOf(base64) {
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  /* Read consecutive little-endian weights, each with its [number of elements, bytes per element] in the table. */
  function weightsOf(bytes, table) {
    const data = new DataView(bytes.buffer);
    let at = 0;
    return table.map(([count, width]) => {
      const weight = new Float32Array(count);
      for (let i = 0; i < count; i++, at += width) {
        weight[i] = width === 2 ? half(data.getUint16(at, true)) : data.getFloat32(at, true);
      }
      return weight;
    });
  }

  /* Open a program: its functions by name. The weights are base64 or bytes. */
  function open({graphs, weights, table}) {
    const numbers = weightsOf(typeof weights === "string" ? bytesOf(weights) : weights, table);
    return Object.fromEntries(Object.entries(graphs).map(([name, graph]) => [name, compile(graph, numbers)]));
  }

  return {bytesOf, compile, open, weightsOf};
})();
