// Elements and texts. Whatever comes from files of users reaches the page as text, never as HTML.

const ACTING = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** Text in which every character that acts is written as an escape. */
export function shown(text) {
  return String(text).replace(ACTING, (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
}

/** An element with properties, listeners (on...) and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : shown(c))));
  return made;
}

/** Several lines as a block of code. */
export function code(text, id) {
  const block = el("pre", id ? { id } : {});
  block.textContent = text.split("\n").map(shown).join("\n");
  return block;
}

/** A number as tables show it; a dash for what is missing. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value).replace("-", "−");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("-", "−").replace("e-", "e−").replace("e+", "e");
  let text = value.toPrecision(4);
  if (Number.isInteger(Number(text))) text = value.toPrecision(7); // 0.99996 is not 1
  return text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`;
}

/** "1 run", "2 runs". */
export function counted(n, one) {
  return `${n.toLocaleString("en-US")} ${one}${n === 1 ? "" : "s"}`;
}

/** A text as a Python literal: JSON's escapes are Python's, too. */
export function literal(text) {
  return shown(JSON.stringify(text));
}

/** A button that copies what `text()` returns, and says so. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", className: "copy", onclick: copy }, label);
  async function copy() {
    const wanted = text();
    try {
      await navigator.clipboard.writeText(wanted);
    } catch {
      const area = el("textarea", { value: wanted });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "copied";
    setTimeout(() => (button.textContent = label), 1500);
  }
  return button;
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : shown(c))));
}
