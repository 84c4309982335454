(() => {
  const data = JSON.parse(document.getElementById("scenes").textContent);
  const [stage, play, slider, choice, now, moves] =
    ["stage", "play", "frame", "scene", "now", "moves"].map((id) => document.getElementById(id));
  const colours = ["--expert", "--student", "--ceiling", "--random"].map((name) => `var(${name})`);
  const sources = ["", " (noise)", " (another policy)"];
  let scene, timer = null;

  function draw(tag, attributes, text = "") {
    const element = document.createElementNS(stage.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    stage.append(element);
  }

  function frameTheStage() {
    const points = [...scene.places.flat().filter(Boolean), ...scene.landmarks];
    const [xs, ys] = [points.map((p) => p[0]), points.map((p) => -p[1])];
    const margin = 2 * scene.radius;
    const [left, top] = [Math.min(...xs) - margin, Math.min(...ys) - margin];
    const size = Math.max(Math.max(...xs) - left, Math.max(...ys) - top) + margin;
    stage.setAttribute("viewBox", `${left} ${top} ${size} ${size}`);
    return size;
  }

  function show(step) {
    stage.replaceChildren();
    const size = frameTheStage(), r = scene.radius;
    scene.landmarks.forEach(([x, y], k) => {
      const goal = k === scene.goal;
      draw("rect", { x: x - r / 2, y: -y - r / 2, width: r, height: r, fill: "var(--muted)",
        stroke: goal ? "var(--ink)" : "none", "stroke-width": size / 120 });
    });
    data.agents.forEach((agent, row) => {
      const path = scene.places.slice(0, step + 1).map((places) => places[row]).filter(Boolean);
      if (!path.length) return;
      const [x, y] = path[path.length - 1], fill = colours[data.sides[row] % colours.length];
      draw("polyline", { points: path.map((p) => `${p[0]},${-p[1]}`).join(" "), fill: "none",
        stroke: fill, "stroke-width": size / 200, opacity: 0.6 });
      draw("circle", { cx: x, cy: -y, r, fill, opacity: 0.8 });
      draw("text", { x, y: -y + size / 90, "font-size": size / 32, "text-anchor": "middle",
        fill: "var(--paper)" }, row);
    });
    if (scene.goal !== null) {
      const [x, y] = scene.landmarks[scene.goal];
      draw("text", { x, y: -y - 1.3 * r, "font-size": size / 32, "text-anchor": "middle",
        fill: "var(--ink)" }, "goal");
    }
    const last = scene.actions.length, gained = scene.rewards.slice(0, step);
    const total = gained.reduce((sum, reward) => sum + reward, 0);
    now.textContent = `step ${step} of ${last}, reward so far ${total.toFixed(2)}`;
    moves.replaceChildren(...data.agents.map((agent, row) => {
      const item = document.createElement("li");
      const source = step < last ? sources[scene.sources[step][row]] : "";
      const action = step < last ? data.actions[row][scene.actions[step][row]] : "the end";
      item.textContent = `${row} ${agent}: ${action}${source}`;
      item.style.color = colours[data.sides[row] % colours.length];
      return item;
    }));
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function advance() {
    if (+slider.value >= +slider.max) return stop();
    slider.value = +slider.value + 1;
    show(+slider.value);
  }

  function choose() {
    stop();
    scene = data.scenes[+choice.value];
    slider.max = scene.places.length - 1;
    slider.value = 0;
    show(0);
  }

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (+slider.value >= +slider.max) slider.value = 0;
    play.textContent = "Pause";
    timer = setInterval(advance, 160);
  });
  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  choice.addEventListener("change", choose);
  choose();
})();
