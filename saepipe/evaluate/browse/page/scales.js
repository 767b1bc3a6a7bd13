"use strict";
// Scales of a chart: `of` turns a value into a share of the axis, 0 to 1; `ticks` are values to label.

const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
const EDGE = 0.02; // share of the axis left free at both ends

function linear(values) {
  const [low, high] = extent(values);
  const step = STEPS.find((size) => (high - low) / size <= 6) ?? (high - low) / 5;
  const ticks = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(tick * step);
  return { of: (value) => (value - low) / (high - low), ticks };
}

// Labels powers of ten, and with fewer than three of them also 2 and 5 times those, or more multiples.
function logarithmic(values) {
  const [low, high] = extent(values.map(Math.log10));
  const within = (tick) => Math.log10(tick) >= low && Math.log10(tick) <= high;
  const multiples = (marks) => {
    const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) }, (_, i) => 10 ** (Math.floor(low) + i));
    return powers.flatMap((power) => marks.map((mark) => mark * power)).filter(within);
  };
  const choices = [[1, 10], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]].map(multiples);
  const ticks = choices.find((found) => new Set(found).size >= 3) ?? choices.at(-1);
  return { of: (value) => (Math.log10(value) - low) / (high - low), ticks: [...new Set(ticks)] };
}

// The least and the largest value, with free edges.
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const edge = (high - low || 1) * EDGE;
  return [low - edge, high + edge];
}
