// The waterfall of the chosen design: one row an Einsum, a bar from its begin to its end, coloured by lane.

function drawSchedule(i) {
  const slots = page.schedules[i], canvas = $("schedule");
  canvas.style.height = slots ? `${18 * slots.length + 40 + 18}px` : "0";
  const some = Object.keys(page.schedules).length, kept = "the designs of the front over the objectives of the sweep";
  $("schedule-advice").textContent = slots ? "" : some ? `This page keeps the schedules of ${kept} only.`
    : "This page keeps no schedules: the sweep has none, or was made by another version of the model.";
  if (!slots) return;
  const { pen, width } = sized(canvas), left = 64, right = width - 8;
  const most = Math.max(...slots.map((s) => s[3])), lanes = [...new Set(slots.map((s) => s[0]))];
  const at = (seconds) => left + (seconds / most) * (right - left);
  lanes.forEach((lane, k) => {
    pen.fillStyle = WORDS[k % WORDS.length];
    pen.fillRect(left + 90 * k, 3, 10, 10);
    pen.fillStyle = "#1c2430";
    pen.fillText(lane, left + 90 * k + 14, 12);
  });
  slots.forEach(([lane, einsum, begin, end], k) => {
    const top = 20 + 18 * k;
    pen.fillStyle = "#1c2430";
    pen.textAlign = "right";
    pen.fillText(einsum.slice(0, 9), left - 6, top + 12);
    pen.fillStyle = WORDS[lanes.indexOf(lane) % WORDS.length];
    pen.fillRect(at(begin), top + 2, Math.max(1, at(end) - at(begin)), 14);
  });
  pen.fillStyle = "#5d6875";
  pen.textAlign = "left";
  pen.fillText("0", left, 20 + 18 * slots.length + 14);
  pen.textAlign = "right";
  pen.fillText(`${shownNumber(most)} s`, right, 20 + 18 * slots.length + 14);
}
