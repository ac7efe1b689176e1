"use strict";
// Draws the charts as they come into view and keeps them in step with the page's legend, theme and print.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const checked = (name) => all(`input[name="${name}"]:checked`).map((box) => box.value);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map(); // chart element -> Vega view
  const begun = new Set();
  const data = new Map();
  const legend = document.querySelector(".legend");
  let printing = false;

  const page = (window.metaeval = { views, errors: [] });

  function payload(name) {
    if (!data.has(name)) data.set(name, JSON.parse(document.getElementById(`data-${name}`).textContent));
    return data.get(name);
  }

  function theme() {
    return darkness.matches && !printing
      ? { foreground: "#e8e8ea", muted: "#a6abb3", lines: "#3a3f47", paper: "#16181c" }
      : { foreground: "#1c2024", muted: "#5d6570", lines: "#dfe3e8", paper: "#ffffff" };
  }

  function signals() {
    const bands = document.getElementById("bands");
    return { ...theme(), models: checked("model"), attacks: checked("attack"), bands: !bands || bands.checked };
  }

  const font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
  const expression = (expr) => ({ expr });
  const text = { labelColor: expression("foreground"), titleColor: expression("foreground") };
  const config = {
    background: null,
    font,
    view: { stroke: null },
    axis: {
      ...text,
      gridColor: expression("lines"),
      domainColor: expression("muted"),
      tickColor: expression("muted"),
      labelFontSize: 12,
      titleFontSize: 12,
      titleFontWeight: "normal",
    },
    axisY: { labelLimit: expression("label_width") },
    legend: text,
    header: text,
    title: { color: expression("foreground"), subtitleColor: expression("muted") },
  };

  function objects(name, panel) {
    const { columns, rows, panels } = payload(name);
    const place = columns.indexOf(panels);
    const wanted = panel === undefined ? rows : rows.filter((row) => row[place] === panel);
    return wanted.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }

  // Without legend (no check boxes) nothing is filtered out of reach: every model that occurs is chosen.
  async function draw(element) {
    if (begun.has(element)) return;
    begun.add(element);
    const { figure, panel } = element.dataset;
    const { spec } = payload(figure);
    const now = signals();
    const params = Object.entries(now).map(([name, value]) => ({ name, value }));
    const width = Math.max(80, Math.min(260, element.clientWidth * 0.38)); // of the names along an axis
    params.push({ name: "label_width", value: width }, { name: "label_half", value: Math.floor(width / 14) });
    try {
      const full = {
        ...spec,
        // Vega-Lite's own width "container" complains about heights that follow their rows; the patch
        // below sets the width instead.
        width: 300,
        params: [...(spec.params || []), ...params],
        datasets: { rows: objects(figure, panel) },
      };
      const result = await vegaEmbed(element, full, {
        mode: "vega-lite",
        renderer: "svg",
        actions: false,
        ast: true,
        patch: (vega) => ({ ...vega, width: element.clientWidth, autosize: { type: "fit-x", contains: "padding" } }),
        config,
        tooltip: { theme: "custom" },
      });
      views.set(element, result.view);
      element.dataset.drawn = "yes";
      const later = signals(); // the legend may have changed meanwhile
      if (JSON.stringify(later) !== JSON.stringify(now)) update(result.view, later);
    } catch (error) {
      page.errors.push(`${figure}: ${error}`);
      element.textContent = `This chart could not be drawn (${error.message}); the table beneath holds its numbers.`;
      console.error(error);
    }
  }

  function update(view, values) {
    for (const [name, value] of Object.entries(values)) {
      try {
        view.signal(name, value);
      } catch {
        // A chart that does not use a signal may not have it.
      }
    }
    return view.runAsync();
  }

  function refresh() {
    const values = signals();
    for (const panel of all(".panel[data-model]")) panel.hidden = !values.models.includes(panel.dataset.model);
    for (const view of views.values()) update(view, values);
    const shown = document.getElementById("shown");
    if (shown) {
      const total = all('input[name="model"]').length;
      shown.textContent = `${values.models.length} of ${total} models, ${values.attacks.join(", ") || "no attack"}`;
    }
    waiting();
  }

  // Charts in hidden panels have no width yet; they are drawn once they are shown.
  const visible = (element) => element.offsetParent !== null;
  const undrawn = () => all(".chart").filter((element) => !begun.has(element) && visible(element));
  page.drawAll = () => Promise.all(undrawn().map(draw));

  const observer = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "300px" },
  );
  function waiting() {
    undrawn().forEach((element) => observer.observe(element));
  }

  function csv(name) {
    const { columns, rows } = payload(name);
    const quote = (value) => {
      const cell = value === null ? "" : String(value);
      return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
    };
    return [columns, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
  }
  page.csv = csv;

  document.addEventListener("click", (event) => {
    const { csv: file, all: every, none } = event.target.dataset;
    if (file) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["\ufeff", csv(file)], { type: "text/csv;charset=utf-8" }));
      link.download = `${file}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } else if (every || none) {
      all(`input[name="${every || none}"]`).forEach((box) => (box.checked = Boolean(every)));
      refresh();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("input[type=checkbox]")) refresh();
  });
  darkness.addEventListener("change", refresh);
  let resizing = 0;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => {
      for (const [element, view] of views) if (visible(element)) view.width(element.clientWidth).runAsync();
    }, 100);
  });
  addEventListener("beforeprint", () => {
    printing = true;
    if (legend) legend.open = true;
    refresh();
    page.drawAll();
  });
  addEventListener("afterprint", () => {
    printing = false;
    refresh();
  });

  if (legend && innerWidth < 1000) legend.open = false;
  refresh();
  document.documentElement.dataset.ready = "yes";
})();
