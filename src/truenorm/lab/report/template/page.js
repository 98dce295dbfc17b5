// Draws the charts, and shows the setting that is chosen. Colours are the page's own, so light and dark need no redrawing.
const at = (id) => document.getElementById(id);

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const options = { actions: false, renderer: "svg" };

async function draw(name, spec, view) {
  const figure = at(name);
  figure.hidden = view.chart.datasets.rows.length === 0;
  if (figure.hidden) return;
  at(`${name}-title`).textContent = view.title;
  const caption = figure.closest("figure:has(> figcaption)").querySelector(":scope > figcaption");
  const description = [view.title, caption.textContent].filter(Boolean).join(". ");
  const shown = { ...spec, ...view.chart, description };
  figure.drawn?.finalize();
  figure.drawn = await vegaEmbed(figure.querySelector(".chart"), shown, options);
  await figure.drawn.view.resize().runAsync(); // a legend in fewer columns is higher: known once the width is
}

function show(specs, views, setting) {
  for (const part of document.querySelectorAll("[data-setting]")) part.hidden = part.dataset.setting !== String(setting);
  // What is of all settings alike has one view.
  return Promise.all(Object.keys(specs).map((name) => draw(name, specs[name], views[name][setting] ?? views[name][0])));
}

document.documentElement.classList.add("script");

if (at("specs")) {
  new Function(await unpacked("library"))();
  const specs = JSON.parse(at("specs").textContent);
  const views = JSON.parse(await unpacked("views"));
  const choice = at("setting");
  const shown = () => show(specs, views, choice?.selectedIndex ?? 0);
  choice?.addEventListener("change", shown);
  await shown();
}

for (const button of document.querySelectorAll(".command button")) {
  const code = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code); // what is left to do by hand where the page may not copy
    const copied = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
    button.textContent = copied ? "Copied" : "Ctrl+C copies";
  });
}

document.documentElement.dataset.drawn = "true";
