// Means of repeats, and how far they are to be believed.

// Student's t for a two-sided 95 % interval, by degrees of freedom from 1.
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
  2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056,
  2.052, 2.048, 2.045, 2.042];
const T95_MANY = 1.96;

// The mean of what is known of `values` with its 95 % confidence interval; null: nothing is known.
// Without a second repeat there is no interval, and low and high are null.
export function meanWithInterval(values) {
  const known = values.filter(Number.isFinite);
  const count = known.length;
  if (count === 0) return null;
  const mean = known.reduce((sum, value) => sum + value, 0) / count;
  if (count === 1) return { mean, low: null, high: null, count };
  const squares = known.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const half = (T95[count - 2] ?? T95_MANY) * Math.sqrt(squares / (count - 1) / count);
  return { mean, low: mean - half, high: mean + half, count };
}

// Whether two intervals leave no value to both; unknown (false) where one has no interval.
export function areDisjoint(a, b) {
  if (!a || !b || a.low === null || b.low === null) return false;
  return a.high < b.low || b.high < a.low;
}
