/* The page is a function of a few values; expensive work is spread over frames. */
/* uses: nothing */
"use strict";

/* Values, and functions that run when certain values change. */
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

/* A queue of functions that run in animation frames; a function or list replaces the waiting one of its name.
 *
 * A function of `now` runs once, in the next frame. The functions of a list of `ask` run in order, as many per frame as
 * fit in 8 ms. A list that has begun is completed before the next of its name, so that a row of images that follows the
 * pointer is complete every few frames, unless a function is so slow that the row could not follow.
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

  /* After a slow frame the page idles for as long, so that pointer events are handled and their work runs first. */
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

/* Draws from N(0, 1), by the Box-Muller transform. */
function gaussians(count) {
  return Float32Array.from({length: count}, () => (
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random())
  ));
}
