"""The look of our pages: one HTML document that fetches nothing and runs no script."""

from __future__ import annotations

import html
from collections.abc import Iterable

GENERATOR = '<meta name="generator" content="mt0 report">'

_STYLE = """
:root { color-scheme:light dark; --ink:#1c2430; --soft:#5d6878; --line:#dde2e9; --paper:#fff;
  --wash:#f3f5f8; --ref:#b4bbc6; --link:#0069a8; --yes:#1b7f4d; --no:#b3361e; --noise:#6b7480;
  --above:0,105,168; --below:222,130,0; --mark:#eaf2f8; --other:#f7efdf; }
@media (prefers-color-scheme:dark) { :root { --ink:#e2e6ec; --soft:#98a3b3; --line:#303844;
  --paper:#171b21; --wash:#0e1116; --ref:#565f6c; --link:#6cbcf0; --yes:#1f8d57; --no:#c44a31;
  --noise:#6b7480; --above:60,150,220; --below:214,132,20; --mark:#1f2c38; --other:#352d1c; } }
* { box-sizing:border-box; }
html { scroll-behavior:smooth; -webkit-text-size-adjust:100%; }
body { margin:0; background:var(--wash); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif; }
main { max-width:1160px; margin:0 auto; padding:26px 40px 64px; background:var(--paper); }
h1 { font-size:28px; line-height:1.2; margin:6px 0 6px; letter-spacing:-.01em;
  overflow-wrap:anywhere; }
h2 { font-size:20px; margin:44px 0 8px; padding-top:14px; border-top:1px solid var(--line); }
h3 { font-size:14px; margin:0 0 4px; } h3 .soft { font-weight:400; margin-left:5px; }
h4 { font-size:13px; margin:18px 0 6px; color:var(--soft); font-weight:600; }
p { margin:6px 0 12px; max-width:760px; } a { color:var(--link); }
.soft, caption, figcaption { color:var(--soft); font-size:13px; }
caption { text-align:left; caption-side:bottom; padding-top:6px; }
nav { display:flex; flex-wrap:wrap; gap:2px 18px; margin:14px 0 4px; font-size:14px; }
nav a { text-decoration:none; } nav a:hover { text-decoration:underline; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; margin:10px 0; }
th, td { padding:4px 10px; text-align:right; border-bottom:1px solid var(--line); }
th { font-weight:600; } thead th { border-bottom:2px solid var(--ref); vertical-align:bottom; }
th[colspan] { text-align:center; }
th:first-child, td.text, th.text { text-align:left; }
thead tr + tr th:first-child { text-align:right; }
tr.base td, tr.base th, td.base, th.base { color:var(--soft); font-weight:400; }
td small { color:var(--soft); font-size:11px; margin-left:3px; }
.wide { overflow-x:auto; max-width:100%; }
.headline { width:100%; } .headline td, .headline th { padding:6px 10px; }
.arm::before { content:""; display:inline-block; width:11px; height:11px; border-radius:2px;
  background:var(--c,var(--ref)); margin-right:7px; }
ul.verdicts { list-style:none; padding:0; margin:14px 0; }
ul.verdicts li { display:flex; gap:12px; padding:7px 0; border-bottom:1px solid var(--line); }
ul.verdicts span.word { flex:0 0 96px; height:22px; line-height:22px; border-radius:11px;
  text-align:center; font-size:12px; font-weight:600; color:#fff; }
.yes { background:var(--yes); } .no { background:var(--no); } .noise { background:var(--noise); }
.panels { display:grid; gap:22px 28px; margin:12px 0 18px; align-items:start;
  grid-template-columns:repeat(auto-fill,minmax(min(310px,100%),1fr)); }
.panels > div { min-width:0; max-width:430px; }
.stack { columns:3 310px; column-gap:28px; margin:12px 0 18px; }
.stack > div { break-inside:avoid; padding-bottom:18px; max-width:430px; }
figure { margin:14px 0; }
.panels svg, .stack svg { display:block; width:100%; height:auto; font-size:11.5px;
  overflow:visible; }
svg text { fill:var(--soft); } svg text.own { fill:var(--ink); }
svg text.head { font-weight:600; font-size:11px; } svg .tick { font-size:10.5px; }
svg .end { text-anchor:end; } svg .mid { text-anchor:middle; }
.grid { stroke:var(--line); fill:none; } .bar { fill:var(--c,var(--ref)); }
.chance { stroke:var(--ink); stroke-dasharray:4 3; fill:none; opacity:.75; }
.majority { stroke:var(--ink); stroke-dasharray:1 3; stroke-linecap:round; stroke-width:1.6;
  fill:none; opacity:.75; }
.error { stroke:var(--ink); fill:none; } .seed { fill:var(--ink); }
.join { stroke:var(--c,var(--ref)); stroke-width:2; opacity:.4; fill:none; }
.dot { fill:var(--c,var(--ref)); } .ring { fill:none; stroke:var(--c,var(--ref));
  stroke-width:2; }
g .dot { fill-opacity:.75; } .median { stroke:var(--ink); stroke-width:2; }
.curve { stroke:var(--c,var(--ref)); fill:none; stroke-width:1.6; stroke-linejoin:round; }
.curve.again { stroke-dasharray:7 7; } .curve.marked { stroke-dasharray:3 3; opacity:.7; }
.heat td, .heat th { padding:2px 7px; font-size:12.5px; }
.heat td { min-width:48px; text-align:center; } .heat th { white-space:nowrap; }
.heat tr.group th { padding-top:9px; color:var(--soft); font-weight:400; }
.heat thead th { font-size:12px; text-align:center; }
.side { display:flex; flex-wrap:wrap; gap:20px 44px; align-items:flex-start; }
.side > div { max-width:100%; } .map th .soft { font-weight:400; font-size:12px; }
.map { margin:4px 0 6px; } .map td, .map th { padding:1px 0; font-size:11px; border:0; }
.map td { min-width:22px; text-align:center; border:1px solid var(--paper); }
.map th:first-child { padding-right:10px; white-space:nowrap; font-size:12px; position:sticky;
  left:0; background:var(--paper); } .map thead th { font-weight:400; color:var(--soft);
  text-align:center; border:0; } .map thead tr:first-child th { text-align:left; }
.map .gap { border-left:9px solid var(--paper); }
.tight td, .tight th { padding:2px 10px; line-height:1.35; }
.legend { display:flex; flex-wrap:wrap; gap:2px 20px; font-size:13.5px; max-width:none; }
.legend .key { color:var(--soft); }
p.finding { font-size:16.5px; font-weight:600; margin-top:14px; }
.question { border:1px solid var(--line); border-radius:8px; padding:10px 14px; margin:12px 0;
  break-inside:avoid; }
.question pre { white-space:pre-wrap; overflow-wrap:anywhere; margin:4px 0 8px;
  font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif; }
.question ol { margin:4px 0; padding-left:24px; list-style:upper-alpha; }
.question li { overflow-wrap:anywhere; } .question li.right { font-weight:600; }
.question table { width:100%; margin:4px 0; table-layout:fixed; }
.question td, .question th { vertical-align:top; text-align:start; overflow-wrap:anywhere; }
.question td { white-space:pre-wrap; }
.question th { width:26%; font-weight:400; font-size:13px; text-align:left; }
.hit, .miss { font-weight:600; } .hit { color:var(--yes); } .miss { color:var(--no); }
.pick { display:inline-block; font-size:12px; font-weight:400; color:var(--soft);
  margin-left:9px; }
code { font-size:12.5px; overflow-wrap:anywhere; }
pre.config { font-size:12px; overflow-x:auto; background:var(--wash); padding:10px 14px;
  border-radius:6px; }
details { margin:8px 0; } summary { cursor:pointer; color:var(--link); font-size:14px; }
td.changed { background:var(--other); }
@media (max-width:640px) { main { padding:16px 14px 40px; } h1 { font-size:23px; }
  th, td { padding:4px 7px; } th:first-child { overflow-wrap:anywhere; }
  .headline td, .headline th { padding:5px 7px; font-size:13.5px; }
  ul.verdicts li { flex-direction:column; gap:3px; } ul.verdicts span.word { flex-basis:22px;
  width:96px; } }
@media print { body { background:#fff; font-size:11px; } main { max-width:none; padding:0; }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact; }
  .panels > div, table, ul.verdicts { break-inside:avoid; } h2 { break-after:avoid; }
  nav { display:none; } }
"""


def escaped(value: object) -> str:
    """Returns data as HTML text, also fit for an attribute.

    Characters that HTML and XML know no way to write (controls, half of a surrogate pair)
    become U+FFFD.
    """
    text = "".join(letter if _can_stand(letter) else "\ufffd" for letter in str(value))
    return html.escape(text, quote=True)


def _can_stand(letter: str) -> bool:
    code = ord(letter)
    return (code >= 32 and not 0x7F <= code < 0xA0 or letter in "\t\n") and not (
        0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF)
    )


def document(
    title: str, body: Iterable[str], more_style: str = "", generator: str = GENERATOR
) -> str:
    """Returns a page of our look, in one piece; empty parts of the body are left out."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{generator}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}{more_style}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in body if part) + "\n</main></body></html>\n"
    )


def plural(count: int, noun: str) -> str:
    """Returns '1 step' or '2 steps'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def panel(title: str, svg: str, note: str = "") -> str:
    """Returns a chart under its title; title and note are text."""
    more = f'<span class="soft">{escaped(note)}</span>' if note else ""
    return f"<div><h3>{escaped(title)}{more}</h3>{svg}</div>"


def panels(parts: Iterable[str], stacked: bool = False) -> str:
    """Lays charts side by side, as many as fit; stacked in columns where heights differ."""
    return f'<div class="{"stack" if stacked else "panels"}">{"".join(parts)}</div>'
