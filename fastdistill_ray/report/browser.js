"use strict";
// Shows the groups that are asked for, some at a time; a group's completions once it is opened.
for (const browser of document.querySelectorAll(".browser")) {
  const data = JSON.parse(browser.querySelector("script").textContent);
  const part = (name) => browser.querySelector("." + name);
  const tools = part("tools"), found = part("found"), list = part("list"), more = part("more");
  const STEP = 20;
  let shown = [], end = 0;

  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const number = (value, digits, sign) => {
    if (value === null) return "–";
    const text = value.toFixed(digits);
    if (Number(text) === 0) return (0).toFixed(digits);
    return (sign && value > 0 ? "+" : "") + text;
  };
  const rewards = (group) => group.completions.map((one) => one.reward).filter((r) => r !== null);
  const spread = (group) => {
    const all = rewards(group);
    return all.length ? Math.max(...all) - Math.min(...all) : -1;
  };

  const groups = data.groups.map((row, place) => {
    const [id, question, reference, dropped, teacher, signals, rows] = row;
    const completions = rows.map(
      ([verdict, reward, advantage, weight, tokens, finish, answer, likelihood, scores, text]) => ({
        verdict: data.verdicts[verdict], reward, advantage, weight, tokens, finish, answer,
        likelihood, scores, text,
      }));
    const texts = completions.map((one) => one.text).join("\n");
    return {
      place, id, question, reference, dropped, teacher, signals, completions,
      correct: completions.filter((one) => one.verdict === "correct").length,
      longest: Math.max(...completions.map((one) => one.tokens)),
      words: [id, question, reference, texts].join("\n").toLowerCase(),
    };
  });
  for (const group of groups) group.spread = spread(group);

  const verdicts = {
    "any verdicts": () => true,
    "right and wrong": (g) => g.correct > 0 && g.correct < g.completions.length,
    "all correct": (g) => g.correct === g.completions.length,
    "none correct": (g) => g.correct === 0,
  };
  for (const name of data.verdicts)
    if (name !== "correct" && groups.some((g) => g.completions.some((c) => c.verdict === name)))
      verdicts["has " + name] = (g) => g.completions.some((c) => c.verdict === name);
  const kept = { "kept or dropped": () => true, kept: (g) => !g.dropped };
  for (const reason of new Set(groups.map((g) => g.dropped).filter(Boolean)))
    kept["dropped: " + reason.replaceAll("_", " ")] = (g) => g.dropped === reason;
  const orders = {
    "in the order of the store": (g) => g.place,
    "widest spread of rewards first": (g) => -g.spread,
    "fewest correct first": (g) => g.correct,
    "most correct first": (g) => -g.correct,
    "longest completion first": (g) => -g.longest,
  };

  const control = (label, node) => {
    const line = make("label", "", label + " ");
    line.append(node);
    tools.append(line);
    node.addEventListener("input", update);
    return node;
  };
  const choice = (label, choices) => {
    const node = make("select");
    for (const name of Object.keys(choices)) node.append(make("option", "", name));
    return control(label, node);
  };
  const search = control("Search", make("input"));
  search.type = "search";
  search.placeholder = "problem, answer or completion";
  const verdict = choice("Verdicts", verdicts), keep = choice("Kept", kept);
  const order = choice("Sort", orders);

  function update() {
    const words = search.value.toLowerCase();
    const by = orders[order.value];
    shown = groups.filter((g) =>
      (!words || g.words.includes(words)) && verdicts[verdict.value](g) && kept[keep.value](g));
    shown.sort((a, b) => by(a) - by(b) || a.place - b.place);
    found.textContent = `${shown.length} of ${groups.length} groups`;
    list.replaceChildren();
    end = 0;
    extend();
  }

  function extend() {
    for (const group of shown.slice(end, end + STEP)) list.append(row(group));
    end = Math.min(end + STEP, shown.length);
    more.hidden = end >= shown.length;
    more.textContent = `Show more: ${shown.length - end} are left`;
  }

  function row(group) {
    const node = make("details", "group"), line = make("summary");
    const question = group.question.replace(/\s+/g, " ");
    line.append(make("span", "asked", question.length > 140 ? question.slice(0, 139) + "…" : question));
    const share = `${group.correct} of ${group.completions.length} correct`;
    line.append(make("span", "fact", share));
    const all = rewards(group);
    if (all.length) {
      const low = number(Math.min(...all), 2), high = number(Math.max(...all), 2);
      line.append(make("span", "fact", low === high ? `reward ${low}` : `rewards ${low} to ${high}`));
    }
    if (group.dropped)
      line.append(make("span", "fact", "dropped: " + group.dropped.replaceAll("_", " ")));
    node.append(line);
    node.addEventListener("toggle", () => {
      if (node.open && node.childElementCount === 1) node.append(inside(group));
    });
    return node;
  }

  function inside(group) {
    const node = make("div", "inside");
    node.append(make("p", "question", group.question));
    const reference = make("p", "reference", "Reference answer: ");
    reference.append(make("b", "", group.reference));
    node.append(reference);
    const facts = [group.id];
    if (group.teacher) facts.push("written by " + group.teacher);
    facts.push("signals: " + (group.signals.join(", ") || "none"));
    node.append(make("p", "reference", facts.join(" · ")));
    const opened = new Set();
    group.completions.forEach((one, place) => node.append(completion(one, place, opened)));
    return node;
  }

  function completion(one, place, opened) {
    const node = make("details", "answer"), line = make("summary");
    node.open = !opened.has(one.verdict);
    opened.add(one.verdict);
    line.append(make("span", "author", `Completion ${place + 1}`));
    line.append(make("span", "verdict " + one.verdict, one.verdict));
    const facts = [
      `reward ${number(one.reward, 3)}`, `advantage ${number(one.advantage, 3, true)}`,
      `weight ${number(one.weight, 3)}`, `${one.tokens} tokens`,
    ];
    one.scores.forEach((value, i) => {
      if (value !== undefined) facts.push(`${data.scores[i].replaceAll("_", " ")} ${number(value, 3)}`);
    });
    if (one.likelihood !== null) facts.push(`likelihood of a token ${number(one.likelihood, 3)}`);
    if (one.answer) facts.push(`read: ${one.answer}`);
    if (one.finish !== "stop") facts.push(`finish: ${one.finish}`);
    for (const fact of facts) line.append(make("span", "", fact));
    node.append(line, make("pre", "", one.text));
    return node;
  }

  more.addEventListener("click", extend);
  part("plain").remove();
  tools.hidden = false;
  update();
}
