"""How a report looks: light, dark, narrow and in print; nothing is told by colour alone."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d3d8de; --band: #f5f7f9;
  --c1: #1f6fb4; --c2: #b8500a; --c3: #1a7f4e; --c4: #7a4fb5;
  --c5: #bf2f3c; --c6: #775718; --c7: #0b7a83; --c8: #b02f7c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e8eaed; --soft: #a5adb6; --line: #3a4149; --band: #1c2127;
    --c1: #6cb2f0; --c2: #f0a35a; --c3: #5fcf94; --c4: #b79cf0;
    --c5: #f2858b; --c6: #d1ad6a; --c7: #5cc9d3; --c8: #ee8fc4;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, li { max-width: 44rem; overflow-wrap: anywhere; }
dl { margin: 0; }
dl div { display: flex; gap: 0 1rem; padding: 0.2rem 0; }
dt { flex: 0 0 9.5rem; color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.digest { font-family: ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; font-size: 0.85em; }
.box { overflow-x: auto; max-width: 100%; width: fit-content; margin: 0.75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums lining-nums; font-size: 0.95rem; }
th, td { padding: 0.3rem 1rem 0.3rem 0.5rem; text-align: left; vertical-align: top; }
thead tr { background: var(--paper); }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; overflow-wrap: break-word; min-width: 13rem; max-width: 28rem; }
tbody tr { background: var(--paper); border-bottom: 1px solid var(--line); }
tbody tr:nth-child(even) { background: var(--band); }
th:first-child { position: sticky; left: 0; background: inherit; }
tbody td { overflow-wrap: break-word; max-width: 40rem; }
.number { text-align: right; white-space: nowrap; padding-left: 0.75rem; }
thead .number { white-space: normal; }
tbody th.number { min-width: 0; }
.faint { color: var(--soft); font-style: italic; }
figure { margin: 1.25rem 0 2rem; }
figcaption { max-width: 44rem; margin-bottom: 0.75rem; }
.plot { display: block; max-width: 100%; height: auto; overflow: visible; }
.narrow { display: none; }
.plot text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; }
.plot text { fill: var(--ink); font-variant-numeric: tabular-nums; }
.plot .axis { fill: var(--soft); }
.plot .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.plot path, .plot polyline { fill: none; stroke: var(--ink); stroke-width: 1; }
.plot .grid { stroke: var(--line); stroke-width: 0.75; }
.plot .zero, .plot .frame { stroke: var(--soft); stroke-width: 1.25; }
.plot .leader { stroke: var(--soft); stroke-width: 0.75; }
.plot .mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 4; }
.plot .main { stroke-width: 1.5; stroke-dasharray: none; }
.plot .bar { stroke: var(--c1); stroke-width: 1.5; }
.plot .dot { fill: var(--c1); stroke: var(--c1); stroke-width: 1.5; }
.plot .hollow { fill: var(--paper); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.sample { vertical-align: middle; }
svg .rest { stroke: var(--soft); stroke-width: 1; opacity: 0.55; }
svg .s1 { stroke: var(--c1); }
svg .s2 { stroke: var(--c2); stroke-dasharray: 8 3; }
svg .s3 { stroke: var(--c3); stroke-dasharray: 2 3; }
svg .s4 { stroke: var(--c4); stroke-dasharray: 9 3 2 3; }
svg .s5 { stroke: var(--c5); stroke-dasharray: 14 4; }
svg .s6 { stroke: var(--c6); stroke-dasharray: 4 3; }
svg .s7 { stroke: var(--c7); stroke-dasharray: 12 3 2 3 2 3; }
svg .s8 { stroke: var(--c8); stroke-dasharray: 1 4; stroke-linecap: round; }
.legend { list-style: none; margin: 0.75rem 0 0; padding: 0; columns: 22rem; font-size: 0.95rem; }
.legend li { break-inside: avoid; padding: 0.1rem 0; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; }
@media (max-width: 640px) {
  main { padding: 1rem 1rem 2rem; }
  .wide { display: none; }
  .narrow { display: block; }
  dl div { display: block; }
  th, td { padding-right: 0.75rem; }
  tbody th { min-width: 8rem; }
  tbody th.number { min-width: 0; }
  .number { padding-left: 0.5rem; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --band: #ffffff;
    --c1: #1f6fb4; --c2: #b8500a; --c3: #1a7f4e; --c4: #7a4fb5;
    --c5: #bf2f3c; --c6: #775718; --c7: #0b7a83; --c8: #b02f7c;
  }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .box { overflow: visible; }
  .plot { max-height: 20cm; }
  th:first-child { position: static; background: none; }
  h2, h3, figcaption { break-after: avoid; }
  tr, figure, figcaption, .plot { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""
