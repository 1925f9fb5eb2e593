// Markdown as models write it, turned into elements. Everything that is not a construct below stays text: HTML, images and
// addresses other than http and https included. Time is linear in the text but for nesting, which has bounds.
const Markdown = (() => {
  const MAX_DEPTH = 12, MAX_DELIMITERS = 400, MAX_COLUMNS = 64, MAX_ADDRESS = 2048;

  // ---- Inline ----
  const PUNCTUATION = /[!-\/:-@[-`{-~]/;
  const isSpace = (c) => c === undefined || /\s/.test(c);
  const isMark = (c) => c !== undefined && /[\p{P}\p{S}]/u.test(c);

  // The address if a link may have it.
  function webAddress(text) {
    if (text.length > MAX_ADDRESS || !/^https?:\/\//i.test(text)) return null;
    try {
      const url = new URL(text);
      return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
    } catch {
      return null;
    }
  }
  const link = (href, children) =>
    h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", referrerpolicy: "no-referrer" }, children);

  // Where each run of backticks ends, by the length of the run: what closes code is found without a search.
  function backtickRuns(text) {
    const runs = new Map();
    for (const match of text.matchAll(/`+/g)) {
      const length = match[0].length;
      if (!runs.has(length)) runs.set(length, { at: [], next: 0 });
      runs.get(length).at.push(match.index);
    }
    return runs;
  }

  const DESTINATION = /\(\s{0,8}(?:<([^<>\n]{0,2048})>|([^\s()<>]{0,2048}(?:\([^\s()<>]{0,512}\)[^\s()<>]{0,512})?))(?:\s{1,8}(?:"[^"\n]{0,512}"|'[^'\n]{0,512}'))?\s{0,8}\)/y;
  const BARE = /https?:\/\/[^\s<>"'`\]]{1,2048}/iy;
  const ANGLE = /<(https?:\/\/[^\s<>]{1,2048})>/iy;

  // The pieces of a text: { text } or { node } or { mark, count, opens, closes }.
  function pieces(text) {
    const list = [], brackets = [], runs = backtickRuns(text);
    let plain = "", marks = 0;
    const flush = () => { if (plain) list.push({ text: plain }); plain = ""; };
    const match = (pattern, at) => { pattern.lastIndex = at; return pattern.exec(text); };
    for (let i = 0; i < text.length;) {
      const c = text[i];
      if (c === "\\" && text[i + 1] === "\n") { flush(); list.push({ node: h("br") }); i += 2; continue; }
      if (c === "\\" && PUNCTUATION.test(text[i + 1] || "")) { plain += text[i + 1]; i += 2; continue; }
      if (c === "\n") { flush(); list.push({ node: h("br") }); i += 1; continue; }
      if (c === "`") {
        let length = 1;
        while (text[i + length] === "`") length += 1;
        const run = runs.get(length);
        while (run.next < run.at.length && run.at[run.next] <= i) run.next += 1;
        const end = run.at[run.next];
        if (end === undefined) { plain += "`".repeat(length); i += length; continue; }
        let code = text.slice(i + length, end).replaceAll("\n", " ");
        if (code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
        flush();
        list.push({ node: h("code", {}, code) });
        i = end + length;
        continue;
      }
      if (c === "*" || c === "_" || c === "~") {
        let count = 1;
        while (text[i + count] === c) count += 1;
        const before = text[i - 1], after = text[i + count];
        const left = !isSpace(after) && (!isMark(after) || isSpace(before) || isMark(before));
        const right = !isSpace(before) && (!isMark(before) || isSpace(after) || isMark(after));
        const word = c === "_";
        const opens = left && (!word || !right || isMark(before)), closes = right && (!word || !left || isMark(after));
        if ((opens || closes) && (c !== "~" || count === 2) && marks < MAX_DELIMITERS) {
          marks += 1;
          flush();
          list.push({ mark: c, count, opens, closes });
        } else plain += c.repeat(count);
        i += count;
        continue;
      }
      if (c === "[" || (c === "!" && text[i + 1] === "[")) {
        if (brackets.length < MAX_DELIMITERS) {
          flush();
          brackets.push(list.length);
          list.push({ text: c === "!" ? "![" : "[", bracket: true });
        } else plain += c === "!" ? "![" : "[";
        i += c === "!" ? 2 : 1;
        continue;
      }
      if (c === "]" && brackets.length) {
        const open = brackets.pop(), found = text[i + 1] === "(" ? match(DESTINATION, i + 1) : null;
        const href = found && webAddress(found[1] ?? found[2]);
        if (href) {
          flush();
          const inner = list.splice(open).slice(1);
          // A link in a link is text.
          brackets.length = 0;
          list.push({ node: link(href, nest(inner)) });
          i = DESTINATION.lastIndex;
          continue;
        }
      }
      if (c === "<") {
        const found = match(ANGLE, i), href = found && webAddress(found[1]);
        if (href) { flush(); list.push({ node: link(href, [found[1]]) }); i = ANGLE.lastIndex; continue; }
      }
      if ((c === "h" || c === "H") && !brackets.length && !/\w/.test(text[i - 1] || " ")) {
        const found = match(BARE, i);
        if (found) {
          // What ends a sentence does not belong to the address.
          let address = found[0].replace(/[.,:;!?*_~]+$/, "");
          if (address.endsWith(")") && !address.includes("(")) address = address.replace(/\)+[.,:;!?*_~]*$/, "");
          const href = webAddress(address);
          if (href) { flush(); list.push({ node: link(href, [address]) }); i += address.length; continue; }
        }
      }
      plain += c;
      i += 1;
    }
    flush();
    return list;
  }

  // Pairs the marks of emphasis; the nodes of the pieces.
  function nest(list) {
    const out = [], open = [];
    for (const piece of list) {
      if (piece.mark === undefined) { out.push(piece.node ?? piece.text); continue; }
      let { count } = piece;
      while (piece.closes && count > 0) {
        let at = open.length - 1;
        while (at >= 0 && open[at].mark !== piece.mark) at -= 1;
        if (at < 0) break;
        const opener = open[at], used = piece.mark === "~" ? 2 : Math.min(2, opener.count, count);
        const name = piece.mark === "~" ? "del" : used === 2 ? "strong" : "em";
        // Marks between the two have no partner: they stay text.
        open.length = at + 1;
        const inner = out.splice(opener.at + 1);
        opener.count -= used;
        count -= used;
        out[opener.at] = opener.mark.repeat(opener.count);
        out.push(h(name, {}, inner));
        if (opener.count === 0) open.pop();
      }
      if (count === 0) continue;
      if (piece.opens) open.push({ mark: piece.mark, count, at: out.length });
      out.push(piece.mark.repeat(count));
    }
    return out;
  }
  const inline = (text) => nest(pieces(text));

  // ---- Blocks ----
  const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/, HEADING = /^ {0,3}(#{1,6})(?![^ ])(.*)$/;
  const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/, QUOTE = /^ {0,3}> ?/;
  const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/, DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?(?:[ \t]*\|[ \t]*:?-+:?)*(?:[ \t]*\|)?$/;
  const blank = (line) => /^\s*$/.test(line);
  const indent = (line) => line.length - line.trimStart().length;

  const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);

  // The cells of a row of a table: bars in code and after backslashes do not divide.
  function cells(line) {
    const found = [];
    let cell = "", code = false;
    const row = line.trim().replace(/^\|/, "");
    for (let i = 0; i < row.length; i += 1) {
      if (row[i] === "\\" && row[i + 1] === "|") { cell += "|"; i += 1; }
      else if (row[i] === "|" && !code) { found.push(cell.trim()); cell = ""; }
      else { if (row[i] === "`") code = !code; cell += row[i]; }
    }
    if (cell.trim()) found.push(cell.trim());
    return found.slice(0, MAX_COLUMNS);
  }

  // The blocks of these lines: { kind, source, … }. `source` tells whether a block has changed since it was drawn.
  function blocks(lines) {
    const list = [];
    let at = 0;
    const add = (kind, from, more) => list.push({ kind, source: lines.slice(from, at).join("\n"), ...more });
    const isTable = (i) => i + 1 < lines.length && lines[i].includes("|") && lines[i + 1].includes("|") && DELIMITER.test(lines[i + 1].trimEnd());
    while (at < lines.length) {
      const from = at, line = lines[at];
      const fence = FENCE.exec(line), heading = HEADING.exec(line), item = ITEM.exec(line);
      if (blank(line)) { at += 1; continue; }
      if (fence) {
        const end = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`), margin = indent(line), body = [];
        for (at += 1; at < lines.length && !end.test(lines[at]); at += 1) body.push(lines[at].slice(Math.min(margin, indent(lines[at]))));
        const closed = at < lines.length;
        at += 1;
        add("code", from, { language: fence[2].trim().split(/\s/)[0], body: body.join("\n"), closed });
      } else if (heading) {
        at += 1;
        add("heading", from, { level: heading[1].length, body: heading[2].trim() });
      } else if (RULE.test(line)) {
        at += 1;
        add("rule", from, {});
      } else if (QUOTE.test(line)) {
        const body = [];
        for (; at < lines.length && QUOTE.test(lines[at]); at += 1) body.push(lines[at].replace(QUOTE, ""));
        add("quote", from, { body });
      } else if (item) {
        list.push(readList(lines, at, item));
        at = list.at(-1).end;
      } else if (isTable(at)) {
        const head = cells(line), align = cells(lines[at + 1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "left"));
        const rows = [];
        for (at += 2; at < lines.length && lines[at].includes("|") && !blank(lines[at]); at += 1) rows.push(cells(lines[at]));
        add("table", from, { head, align, rows });
      } else {
        const body = [];
        do { body.push(lines[at].trim()); at += 1; }
        while (at < lines.length && !blank(lines[at]) && !startsBlock(lines[at]) && !isTable(at) && !ITEM.test(lines[at]));
        add("text", from, { body: body.join("\n") });
      }
    }
    return list;
  }

  // The list that begins at a line: items of one kind of mark, each with the lines that are indented below its mark.
  function readList(lines, from, first) {
    const ordered = /\d/.test(first[2]), kind = first[2].at(-1), items = [];
    let at = from, loose = false;
    while (at < lines.length) {
      const item = ITEM.exec(lines[at]);
      if (!item || item[2].at(-1) !== kind || RULE.test(lines[at])) break;
      const width = item[3].length > 4 ? item[1].length + item[2].length + 1 : item[0].length;
      const body = [lines[at].slice(item[0].length)];
      let gap = 0;
      for (at += 1; at < lines.length; at += 1) {
        const line = lines[at];
        if (blank(line)) { gap += 1; continue; }
        const deep = indent(line), deeper = deep >= item[1].length + 2;
        // Models indent by two where the mark is wider; a line that only continues a sentence needs no indent.
        if (deep < width && !deeper && (gap > 0 || ITEM.test(line) || startsBlock(line))) break;
        for (; gap > 0; gap -= 1) body.push("");
        body.push(line.slice(Math.min(deep, width)));
      }
      if (gap > 0 && at < lines.length && ITEM.exec(lines[at])?.[2].at(-1) === kind) loose = true;
      items.push(body);
    }
    return { kind: "list", source: lines.slice(from, at).join("\n"), ordered, start: Number.parseInt(first[2], 10), items, loose, end: at };
  }

  // ---- Elements ----
  const KEYWORDS = new Set(("as async await bool break case catch char class const continue def default defer del do double elif else enum except export extends extern "
    + "false finally float fn for from func function global go if impl import in include int interface is lambda let long loop match mod module mut namespace new nil none not null "
    + "or and pass private protected pub public raise return self Self short signed sizeof static str string struct super switch template this throw trait true True False None try type typedef "
    + "typeof undefined union unsafe unsigned use using var virtual void volatile where while with yield select insert update delete create table join on group order by then fi done esac echo").split(" "));
  const HASH_COMMENTS = /^(?:py|python|sh|bash|shell|zsh|console|rb|ruby|yaml|yml|toml|r|perl|pl|make|makefile|dockerfile|conf|ini|nix|elixir)$/i;
  const COLOURED = 60_000;

  // Comments, strings, numbers and keywords of most languages; the rest is text.
  function coloured(code, language) {
    if (!language || /^(?:text|txt|plain|plaintext|output|md|markdown|diff)$/i.test(language) || code.length > COLOURED) return [code];
    const comment = HASH_COMMENTS.test(language) ? "#[^\\n]*" : /^(?:sql|lua|hs|haskell|ada)$/i.test(language) ? "--[^\\n]*" : "//[^\\n]*|/\\*[^]*?(?:\\*/|$)";
    const pattern = new RegExp(`(${comment})|("(?:[^"\\\\\\n]|\\\\[^])*"?|'(?:[^'\\\\\\n]|\\\\[^])*'?|\`(?:[^\`\\\\]|\\\\[^])*\`?)|\\b(\\d[\\w.]*)|([A-Za-z_]\\w*)`, "g");
    const rust = /^(?:rs|rust)$/i.test(language), nodes = [];
    let last = 0;
    for (const found of code.matchAll(pattern)) {
      // A lifetime is no string.
      if (rust && found[2]?.startsWith("'") && found[2].length !== 3 && !found[2].startsWith("'\\")) continue;
      const name = found[1] ? "comment" : found[2] ? "string" : found[3] ? "number" : KEYWORDS.has(found[4]) ? "keyword" : null;
      if (!name) continue;
      nodes.push(code.slice(last, found.index), h("span", { class: `code-${name}` }, found[0]));
      last = found.index + found[0].length;
    }
    nodes.push(code.slice(last));
    return nodes;
  }

  function codeBlock(block) {
    const language = block.language.slice(0, 40);
    return h("div", { class: "code" },
      h("div", { class: "code-head" }, h("span", {}, language || "text"), copyButton(() => block.body, { "aria-label": "Copy the code" })),
      h("pre", { tabindex: 0, "aria-label": language ? `Code in ${language}` : "Code" }, h("code", {}, coloured(block.body, language))));
  }

  function item(body, loose, depth) {
    const task = /^\[([ xX])\][ \t]+/.exec(body[0]);
    const lines = task ? [body[0].slice(task[0].length), ...body.slice(1)] : body;
    const children = blocks(lines).flatMap((block) =>
      block.kind === "text" && !loose ? inline(block.body) : [element(block, depth + 1)]);
    return h("li", { class: task && "task" }, task && (task[1] === " " ? "☐ " : "☑ "), children);
  }

  function table(block) {
    const cell = (name, text, i) => h(name, { class: block.align[i] === "right" ? "right" : block.align[i] === "center" && "center", scope: name === "th" && "col" }, inline(text ?? ""));
    const row = (list) => h("tr", {}, block.head.map((_, i) => cell("td", list[i], i)));
    return h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" },
      h("table", {}, h("thead", {}, h("tr", {}, block.head.map((text, i) => cell("th", text, i)))), h("tbody", {}, block.rows.map(row))));
  }

  function element(block, depth) {
    if (depth > MAX_DEPTH) return h("p", {}, block.source);
    switch (block.kind) {
      case "code": return codeBlock(block);
      // The page has the first levels.
      case "heading": return h(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, inline(block.body));
      case "rule": return h("hr");
      case "quote": return h("blockquote", {}, blocks(block.body).map((inner) => element(inner, depth + 1)));
      case "list": return h(block.ordered ? "ol" : "ul", { start: block.ordered && block.start !== 1 && block.start }, block.items.map((body) => item(body, block.loose, depth)));
      case "table": return table(block);
      default: return h("p", {}, inline(block.body));
    }
  }

  // Draws a text into `root`. Blocks that have not changed since the last call keep their elements, and with them a selection.
  function draw(root, text) {
    const next = blocks(text.replace(/\r\n?/g, "\n").replaceAll("\t", "    ").split("\n"));
    const drawn = root.drawn || [];
    let same = 0;
    while (same < next.length && same < drawn.length && next[same].kind === drawn[same].kind && next[same].source === drawn[same].source
      && next[same].closed === drawn[same].closed) same += 1;
    while (root.childNodes.length > same) root.lastChild.remove();
    for (const block of next.slice(same)) root.append(element(block, 0));
    root.drawn = next;
  }
  return { draw };
})();
