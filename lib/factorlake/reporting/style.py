"""The report's one style sheet, written by hand: system fonts, light and dark, from a phone to paper."""

CSS = """
:root{color-scheme:light dark;--page:#f6f5f2;--card:#fff;--ink:#1c2126;--soft:#5a626c;--rule:#d9d7d1;
  --head:#14303f;--headink:#f4f7f8;--headsoft:#a9c0cb;--model:#0072b2;--live:#008f68;
  --popularity:#c77f00;--biases:#b0568a;--mean:#767c84;--warn:#c9510c;--good:#00714f;--wash:#eef3f5;
  --neighbours:#6f4fb5;--pyspark:#9a4a1d;--other:#2f8083}
@media (prefers-color-scheme:dark){:root{--page:#121619;--card:#1b2126;--ink:#e6e9eb;--soft:#9aa5ae;
  --rule:#343c43;--head:#0d2532;--headink:#eef4f6;--headsoft:#8fabb8;--model:#56b4e9;--live:#2fc39a;
  --popularity:#e69f00;--biases:#e39cc6;--mean:#a2a9b0;--warn:#f0803c;--good:#3ecf9f;--wash:#20292f;
  --neighbours:#b3a4f5;--pyspark:#cf9167;--other:#6fc0c2}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
  Roboto,"Noto Sans","DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
header{background:var(--head);color:var(--headink);padding:2.2rem 0 4.6rem}
header>div,main,footer{max-width:72rem;margin:0 auto;padding:0 1.2rem}
h1{margin:0;font-size:clamp(1.6rem,4.5vw,2.4rem);line-height:1.15;letter-spacing:-.015em;
  overflow-wrap:anywhere}
.kicker,.when{margin:.2rem 0;color:var(--headsoft);font-size:.92rem;overflow-wrap:anywhere}
.kicker{text-transform:uppercase;letter-spacing:.12em;font-size:.75rem;font-weight:600}
.badge{display:inline-block;border-radius:1rem;padding:.12rem .75rem;font-size:.85rem;font-weight:600;
  background:#2fc39a;color:#08231a;margin-right:.6rem}
.badge.bad{background:#f0803c;color:#2b1203}
.badge.calm{background:#c5d3da;color:#14303f}
.verdict{margin:.9rem 0 0;max-width:60rem;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.8rem;
  margin:-3.1rem 0 0;padding:0}
.figures>div,section{background:var(--card);border:1px solid var(--rule);border-radius:.7rem}
.figures>div{padding:.9rem 1.1rem;display:flex;flex-direction:column}
.figures dt{color:var(--soft);font-size:.82rem}
.figures dd{margin:0}
.figures .big{font-size:1.75rem;font-weight:650;line-height:1.25;letter-spacing:-.02em;
  font-variant-numeric:tabular-nums}
.figures .note{font-size:.82rem;color:var(--soft);line-height:1.35;overflow-wrap:anywhere;
  text-wrap:balance}
section{margin:1.1rem 0;padding:1.2rem 1.4rem 1.4rem}
h2{margin:0 0 .2rem;font-size:1.25rem;letter-spacing:-.01em}
h3{margin:1.2rem 0 .3rem;font-size:1rem}
.lead{margin:.1rem 0 .9rem;color:var(--soft);max-width:60rem;text-wrap:pretty}
.two{display:grid;grid-template-columns:minmax(0,1fr);gap:1.2rem 2rem;align-items:start}
@media (min-width:56rem){.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
.scroll{overflow-x:auto}
.scroll+.scroll{margin-top:1.1rem}
.two+.two,.two+.scroll,details+.scroll{margin-top:1.4rem}
.under{display:block;color:var(--soft);font-size:.78rem;white-space:nowrap}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--model);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;color:var(--soft);font-size:.84rem;padding:.1rem 0 .35rem}
th,td{text-align:left;padding:.34rem .7rem .34rem 0;border-bottom:1px solid var(--rule);
  vertical-align:top;font-weight:400}
thead th{color:var(--soft);font-size:.8rem;font-weight:600;white-space:nowrap;vertical-align:bottom}
tbody tr:last-child>*{border-bottom:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
thead .n{padding-left:.4rem}
.equation{font-size:1.05rem;font-variant-numeric:tabular-nums;margin:.3rem 0 .7rem}
.equation b{font-weight:650}
.equation span{white-space:nowrap}
.bar{display:flex;height:.85rem;border-radius:.45rem;overflow:hidden;background:var(--wash);
  margin-bottom:1rem}
.bar i{display:block;min-width:2px}
.c-accepted{background:var(--model)}
.c-quarantined{background:var(--warn)}
.c-duplicates{background:var(--popularity)}
.c-superseded{background:var(--biases)}
.c-held_back{background:var(--mean)}
.key{display:inline-block;width:.7em;height:.7em;border-radius:.15em;margin-right:.5em}
.meter{display:block;min-width:4rem;height:.55rem;border-radius:.3rem;background:var(--wash);
  margin-top:.45rem}
.meter i{display:block;height:100%;border-radius:.3rem;background:var(--model)}
figure{margin:0}
figcaption{color:var(--soft);font-size:.84rem;margin-top:.2rem}
.plot{width:100%;max-width:34rem;height:auto;display:block;color:var(--ink)}
.plot text{font-family:inherit!important}
.people{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1rem}
.person{border:1px solid var(--rule);border-radius:.6rem;padding:.9rem 1.1rem;min-width:0}
.person h3{margin:0 0 .4rem}
.had{color:var(--soft);font-size:.88rem;margin:0 0 .6rem;overflow-wrap:anywhere}
.person ol{margin:0;padding:0 0 0 1.7rem}
.person li{padding:.12rem 0;overflow-wrap:anywhere}
.person li::marker{color:var(--soft);font-size:.85rem;font-variant-numeric:tabular-nums}
.score{float:right;color:var(--soft);font-size:.84rem;font-variant-numeric:tabular-nums;
  padding:.1rem 0 0 .6rem}
.tag{color:var(--soft);font-size:.8rem}
.ok{color:var(--good);font-weight:600}
.no{color:var(--warn);font-weight:600}
.planted{display:flex;gap:1rem;align-items:center;background:var(--wash);border-radius:.6rem;
  padding:.8rem 1.1rem;margin:0 0 1.1rem}
.planted b{font-size:1.7rem;letter-spacing:-.02em;white-space:nowrap}
details{border-top:1px solid var(--rule);padding:.7rem 0 0;margin-top:1.1rem}
details .scroll{margin-top:.6rem}
summary{cursor:pointer;font-weight:600}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  font-size:.86em;overflow-wrap:anywhere}
footer{padding-bottom:2.5rem;color:var(--soft);font-size:.84rem}
@media (max-width:40rem){section{padding:1rem}.figures{grid-template-columns:1fr 1fr}
  .figures .big{font-size:1.4rem}.figures>div:last-child:nth-child(odd){grid-column:1/-1}
  header{padding-top:1.4rem}}
@media print{body{background:#fff}header{padding-bottom:4rem}section{break-inside:avoid}}
""".strip()
