// One animation-frame loop for the whole page: everything that changes with a stream changes here.

const tasks = new Set();
let scheduled = false;
const times = [];

function tick(now) {
  scheduled = false;
  times.push(now);
  while (times.length > 0 && times[0] < now - 1000) times.shift();
  for (const task of [...tasks]) task(performance.now());
  schedule();
}

function schedule() {
  if (!scheduled && tasks.size > 0) {
    scheduled = true;
    requestAnimationFrame(tick);
  }
}

// Calls `task(now)` every frame until the returned function is called.
export function everyFrame(task) {
  tasks.add(task);
  schedule();
  return () => tasks.delete(task);
}

// Frames of the last second; meaningful while something runs.
export function framesPerSecond() {
  const span = times.at(-1) - times[0];
  return span > 100 ? ((times.length - 1) / span) * 1000 : NaN;
}
