/* What the page shows is a function of a few values, and what takes time is done frame by frame. */
"use strict";

/* Values, and functions that run when some of them change. */
function openStore(values) {
  const watchers = [];
  return {
    values,
    on(names, run) {
      watchers.push({names: names.split(" "), run});
    },
    set(changes) {
      Object.assign(values, changes);
      for (const {names, run} of watchers) if (names.some((name) => name in changes)) run(values);
    },
  };
}

/* Functions that are run in frames, each replaced by the next of its name.
 *
 * Those of `now` are run in the next frame, once. `ask` takes lists, one after the other and as many in a frame as 8 ms
 * allow. A list that has begun is done before the next of its name, so that a row of images that follows the pointer
 * is whole every few frames; but not where a function takes so long that one could not follow at all.
 */
function openQueue() {
  const urgent = new Map(), lists = new Map();
  let waiting = false, longest = 0;

  function take() {
    for (const [name, list] of lists) {
      if (list.left.length) {
        list.begun = true;
        return list.left.shift();
      }
      lists.delete(name);
      if (list.next) lists.set(name, {left: list.next, begun: false, next: null});
    }
    return null;
  }

  function timed(run) {
    const began = performance.now();
    run();
    longest = Math.max(0.9 * longest, performance.now() - began);
  }

  function frame() {
    waiting = false;
    const began = performance.now(), runs = [...urgent.values()];
    urgent.clear();
    runs.forEach(timed);
    while (performance.now() - began < 8) {
      const run = take();
      if (!run) break;
      timed(run);
    }
    if (urgent.size || lists.size) wake(performance.now() - began);
  }

  /* After a slow frame the page is free for as long: a pointer is heard, and what it asks for goes first. */
  function wake(took = 0) {
    if (waiting) return;
    waiting = true;
    if (took > 50) setTimeout(() => requestAnimationFrame(frame), Math.min(took, 500));
    else requestAnimationFrame(frame);
  }

  return {
    now(name, run) {
      urgent.set(name, run);
      wake();
    },
    ask(name, runs) {
      const list = lists.get(name);
      if (list?.begun && list.left.length && longest < 40) list.next = runs;
      else lists.set(name, {left: runs, begun: false, next: null});
      wake();
    },
  };
}

/* Numbers of N(0, 1), by Box and Muller. */
function gaussians(count) {
  return Float32Array.from({length: count}, () => (
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random())
  ));
}
