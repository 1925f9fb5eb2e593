// Charts of tests: scales, lines with points that explain themselves, and the roofline.

// Round values for the ticks of a linear axis from 0.
function ticks(most, number) {
  const rough = most / number, power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= rough) || power;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => i * step);
}
// Powers of ten between two positive numbers.
function decades(least, most) {
  const all = [];
  for (let e = Math.floor(Math.log10(least)); e <= Math.ceil(Math.log10(most)); e += 1) if (10 ** e >= least * 0.999 && 10 ** e <= most * 1.001) all.push(10 ** e);
  return all;
}
// A point with its explanation, for mouse, keyboard and finger.
const point = (x, y, old, color, text) => s("g", { class: `point c${color}`, ...tip(text) },
  s("circle", { cx: x, cy: y, r: 13, fill: "transparent" }), s("circle", { class: `dot${old ? " old" : ""}`, cx: x, cy: y, r: 5 }));

// Lines over a few values of x, which stand at equal distances; y from 0.
function lineChart(card, title, unit, series) {
  const xs = [...new Set(series.flatMap((line) => line.points.map((p) => p.x)))].sort((a, b) => a - b);
  const most = Math.max(...series.flatMap((line) => line.points.map((p) => p.y + p.error)), 1e-9) * 1.08;
  const w = Math.max(260, card.clientWidth - 34), tall = 230, left = 52, right = 14, top = 12, bottom = 40;
  const x = (value) => left + (w - left - right) * (xs.length === 1 ? 0.5 : xs.indexOf(value) / (xs.length - 1));
  const y = (value) => top + (tall - top - bottom) * (1 - value / most);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${w} ${tall}`, height: tall, role: "group", "aria-label": title });
  for (const value of ticks(most, 5)) svg.append(s("line", { class: "grid", x1: left, x2: w - right, y1: y(value), y2: y(value) }),
    s("text", { class: "small", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, count(value)));
  const shown = xs.length > 8 ? xs.filter((_, i) => i % Math.ceil(xs.length / 8) === 0) : xs;
  for (const value of shown) svg.append(s("text", { class: "small", x: x(value), y: tall - bottom + 17, "text-anchor": "middle" }, String(value)));
  svg.append(s("text", { class: "small", x: (left + w - right) / 2, y: tall - 5, "text-anchor": "middle" }, unit));
  for (const line of series) {
    const points = [...line.points].sort((a, b) => a.x - b.x);
    if (points.length > 1) svg.append(s("path", { class: `line c${line.color}${line.old ? " old" : ""}`, d: points.map((p, i) => `${i ? "L" : "M"}${x(p.x)} ${y(p.y)}`).join("") }));
    for (const p of points) {
      if (p.error > 0) svg.append(s("line", { class: `error c${line.color}`, x1: x(p.x), x2: x(p.x), y1: y(Math.max(0, p.y - p.error)), y2: y(p.y + p.error) }));
      svg.append(point(x(p.x), y(p.y), line.old, line.color, p.text));
    }
  }
  card.append(svg);
}

// Multiply-adds per second over multiply-adds per byte, both logarithmic, under the limits of the machine.
function rooflineChart(card, limits, points) {
  const intensities = points.map((p) => p.x).concat(limits.map((l) => l.int8_macs_per_second / l.read_bytes_per_second));
  const rates = points.map((p) => p.y).concat(limits.map((l) => l.int8_macs_per_second));
  const x0 = Math.min(...intensities) / 2, x1 = Math.max(...intensities) * 2.5;
  const y0 = Math.min(...rates, ...limits.map((l) => l.read_bytes_per_second * x0)) / 1.6, y1 = Math.max(...rates) * 1.8;
  const w = Math.max(280, card.clientWidth - 34), tall = Math.max(280, Math.min(430, w * 0.55)), left = 58, right = 14, top = 12, bottom = 44;
  const log = (value, least, most) => (Math.log(value) - Math.log(least)) / (Math.log(most) - Math.log(least));
  const x = (value) => left + (w - left - right) * log(value, x0, x1);
  const y = (value) => top + (tall - top - bottom) * (1 - log(value, y0, y1));
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${w} ${tall}`, height: tall, role: "group", "aria-label": "Roofline" });
  for (const value of decades(x0, x1)) svg.append(s("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: tall - bottom }),
    s("text", { class: "small", x: x(value), y: tall - bottom + 16, "text-anchor": "middle" }, value >= 1 ? count(value) : String(value)));
  for (const value of decades(y0, y1)) svg.append(s("line", { class: "grid", x1: left, x2: w - right, y1: y(value), y2: y(value) }),
    s("text", { class: "small", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, count(value)));
  svg.append(s("text", { class: "small", x: (left + w - right) / 2, y: tall - 8, "text-anchor": "middle" }, "multiply-adds per byte read"),
    s("text", { class: "small", x: -(top + tall - bottom) / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle" }, "multiply-adds/s"));
  const taken = [];
  const label = (at, up, text, anchor) => {
    const wide = text.length * 6.2, box = [anchor === "end" ? at - wide : at, up - 11, wide, 14];
    if (box[0] < left || box[0] + wide > w || taken.some((t) => box[0] < t[0] + t[2] && t[0] < box[0] + box[2] && box[1] < t[1] + t[3] && t[1] < box[1] + box[3])) return;
    taken.push(box);
    svg.append(s("text", { class: "small", x: at, y: up, "text-anchor": anchor }, text));
  };
  for (const p of points) taken.push([x(p.x) - 7, y(p.y) - 7, 14, 14]);
  for (const l of limits) {
    const ridge = Math.min(x1, Math.max(x0, l.int8_macs_per_second / l.read_bytes_per_second));
    svg.append(s("path", { class: "line limit", d: `M${x(x0)} ${y(l.read_bytes_per_second * x0)}L${x(ridge)} ${y(Math.min(l.int8_macs_per_second, l.read_bytes_per_second * ridge))}L${x(x1)} ${y(l.int8_macs_per_second)}` }));
    const threads = l.threads === 1 ? "1 thread" : `${l.threads} threads`;
    label(w - right - 2, y(l.int8_macs_per_second) - 6, `${count(l.int8_macs_per_second)} MAC/s, ${threads}`, "end");
    const middle = Math.sqrt(x0 * ridge);
    label(x(middle) - 8, y(l.read_bytes_per_second * middle) - 5, `${rate(l.read_bytes_per_second)}, ${threads}`, "end");
  }
  for (const p of points) {
    svg.append(point(x(p.x), y(p.y), p.old, p.color, p.text));
    if (!p.old) label(x(p.x) + 9, y(p.y) + 4, p.name, "start");
  }
  card.append(svg);
}
