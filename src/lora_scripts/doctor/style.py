"""How the page looks: one column, light and dark, no script."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --raised: #f5f6f8; --line: #d9dde4; --ink: #1a1e25;
  --soft: #59616e; --mark: #0b62ba; --stop: #b3261e; --advice: #8a5300; --fine: #1b6e3c; --bar: #9cc3ec; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --raised: #1d2128; --line: #363c47;
  --ink: #e7eaf0; --soft: #a5aebb; --mark: #7ab8ff; --stop: #ff9d94; --advice: #f1c274; --fine: #7fd6a0;
  --bar: #2f5680; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 3rem; background: var(--ground);
  color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
h3 { margin: 0; font-size: 1.02rem; line-height: 1.4; overflow-wrap: anywhere; }
p { margin: .25rem 0; overflow-wrap: anywhere; }
a { color: var(--mark); }
.soft { color: var(--soft); font-size: .9rem; }
.verdict { margin: 1.25rem 0; padding: .8rem 1rem; border-left: .3rem solid var(--fine);
  background: var(--raised);
  border-radius: 0 .4rem .4rem 0; font-weight: 600; }
.verdict.warning { border-color: var(--advice); } .verdict.error { border-color: var(--stop); }
.numbers { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; }
.numbers div { display: flex; flex-direction: column-reverse; flex: 1 1 8rem; padding: .6rem .9rem;
  background: var(--raised); border-radius: .4rem; }
.numbers dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.numbers dt { color: var(--soft); font-size: .88rem; }
.toc { margin: 1.25rem 0 .5rem; padding: 0; list-style: none; display: flex; flex-direction: column;
  gap: .3rem; }
.finding { margin: 0 0 1.25rem; border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
.head { display: flex; gap: .7rem; align-items: baseline; }
.badge { flex: none; padding: .08rem .5rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: .8rem;
  color: var(--soft); white-space: nowrap; }
.toc .badge { min-width: 4.4rem; text-align: center; }
.badge.error { color: var(--stop); } .badge.warning { color: var(--advice); }
.todo { margin: .5rem 0 .25rem; } .todo::before { content: "→ "; color: var(--mark); font-weight: 700; }
details { margin: .25rem 0 .75rem; color: var(--soft); font-size: .92rem; }
summary { cursor: pointer; color: var(--mark); width: fit-content; }
ul.groups { list-style: none; margin: .75rem 0 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
ul.groups.several { grid-template-columns: 1fr; }
ul.lines { list-style: none; margin: .75rem 0 0; padding: 0; }
ul.lines li { padding: .5rem 0; border-top: 1px solid var(--line); }
.group { display: flex; flex-wrap: wrap; gap: .75rem; min-width: 0; }
.several > .group { padding: .75rem; background: var(--raised); border-radius: .4rem; }
figure { margin: 0; width: 11rem; min-width: 0; max-width: 100%; }
.frame { display: flex; align-items: center; justify-content: center; height: 11rem;
  background: var(--raised);
  border: 1px solid var(--line); border-radius: .3rem; overflow: hidden; color: var(--soft);
  font-size: .85rem; }
.several .frame { background: var(--ground); }
.frame img { max-width: 100%; max-height: 100%; display: block; }
figcaption { margin-top: .3rem; font-size: .82rem; line-height: 1.4; overflow-wrap: anywhere; }
figcaption b { font-weight: 600; display: block; } figcaption span { display: block; color: var(--soft); }
.more { margin-top: .75rem; color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .6rem; text-align: start; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; }
td.count { width: 45%; font-variant-numeric: tabular-nums; }
td.count i { display: inline-block; height: .7em; margin-inline-end: .5em; background: var(--bar);
  border-radius: .15em;
  vertical-align: baseline; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2.5rem; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
@media (max-width: 40rem) { body { padding: 1rem .85rem 2rem; } .two { grid-template-columns: 1fr; }
  ul.groups { grid-template-columns: repeat(2, minmax(0, 1fr)); } .finding { padding: .75rem; }
  ul.groups.several { grid-template-columns: 1fr; } figure { width: 100%; }
  .group figure { flex: 1 1 8rem; max-width: 11rem; } .frame { height: 8.5rem; }
  .finding .head { flex-direction: column; gap: .25rem; } }
@media print { details { display: none; } .finding { break-inside: avoid; } }
"""
