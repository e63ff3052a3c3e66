//! The page around the charts: one file, no script, no request.

use std::fmt::Write as _;

use mamba_wgpu::bench::{compare, Report, Row, Suite};
use mamba_wgpu::html::escaped;

use super::charts::Chart;
use crate::bench_cells::{flags, rate, time};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b2333; --soft: #667085; --paper: #ffffff; --line: #d8dce4; --warn: #fff4d6; --flag: #a15c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --paper: #14181f; --line: #303846; --warn: #3d3314; --flag: #e8b04a; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1, h2 { line-height: 1.2; }
p.caption, small { color: var(--soft); }
small.flag { color: var(--flag); }
ul.warnings { background: var(--warn); border-radius: .5rem; padding: .75rem 1rem .75rem 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th.words, td.words { text-align: left; }
svg { max-width: 100%; height: auto; }
";

/// How every such page begins.
pub const BEGIN: &str =
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
                         <title>mamba-wgpu: ";

/// What a row says in a cell: its time, its rate or share, how many samples there are and how far they spread, and its flags.
fn cell(row: Option<&Row>) -> String {
    let Some(row) = row else { return "<td>–</td>".into() };
    let median = row.median_us().map_or_else(String::new, time);
    let speed = match (row.tokens_per_s, row.share_of_copy, row.share_of_fma) {
        (Some(rate), ..) => format!("{rate:.0} tok/s"),
        (_, Some(share), _) => format!("{:.1}% of copy", 100.0 * share),
        (_, _, Some(share)) => format!("{:.1}% of FMA", 100.0 * share),
        _ => String::new(),
    };
    let samples = row.spread().map_or_else(String::new, |s| format!("n {}, {} to {}", s.n, time(s.min), time(s.max)));
    let flags = flags(row);
    let flags = if flags.is_empty() { flags } else { format!("<br><small class=flag>{flags}</small>") };
    format!("<td>{median} <small>{speed}<br>{samples}</small>{flags}</td>")
}

fn devices(reports: &[Report], names: &[String]) -> String {
    let mut out =
        "<div class=scroll><table><tr><th>Adapter<th class=words>Driver<th class=words>Commit<th>Date<th class=words>Host<th>Copy\
                   <th>FMA</tr>"
            .to_owned();
    for (r, name) in reports.iter().zip(names) {
        let number = |x: Option<f64>, unit: &str| x.map_or_else(|| "–".into(), |x| format!("{} {unit}", rate(x)));
        let _ = write!(
            out,
            "<tr><td>{}<td class=words>{} {}<td class=words>{} {}<td>{}<td class=words>{}<td>{}<td>{}</tr>",
            escaped(name),
            escaped(&r.device.adapter.driver),
            escaped(&r.device.adapter.driver_info),
            escaped(&r.version),
            escaped(r.commit.get(..8).unwrap_or(&r.commit)),
            escaped(r.date.get(..10).unwrap_or(&r.date)),
            r.host.as_ref().map_or_else(
                || "–".into(),
                |host| { escaped(&format!("{}, {}", host.cpu.as_deref().unwrap_or("?"), host.system)) }
            ),
            number(r.ceilings.copy_gbps, "GB/s"),
            number(r.ceilings.fma_tflops, "TFLOP/s"),
        );
    }
    out + "</table></div>"
}

fn rows(reports: &[Report], names: &[String]) -> String {
    let mut out = String::new();
    let all = compare::side_by_side(reports);
    for suite in Suite::ALL {
        let mut rows = all.iter().filter(|c| c.suite == suite).peekable();
        if rows.peek().is_none() {
            continue;
        }
        let heads: String = names.iter().map(|name| format!("<th>{}", escaped(name))).collect();
        let _ = write!(out, "<h3>{suite}</h3><div class=scroll><table><tr><th>What<th class=words>Variant{heads}</tr>");
        for c in rows {
            let tokens = match (suite, c.rows.iter().flatten().next().and_then(|row| row.l)) {
                (Suite::Prefill | Suite::Decode, Some(l)) => format!(", {l} tokens"),
                _ => String::new(),
            };
            let cells: String = c.rows.iter().map(|row| cell(*row)).collect();
            let (name, variant) = (escaped(c.name), escaped(c.variant));
            let _ = write!(out, "<tr><td>{name}{tokens}<td class=words>{variant}{cells}</tr>");
        }
        out.push_str("</table></div>");
    }
    out
}

/// The whole page.
///
/// # Errors
/// A chart that plotters cannot draw.
pub fn html(reports: &[Report], charts: &[Chart]) -> anyhow::Result<String> {
    let names = compare::names(reports);
    let mut adapters: Vec<&str> = reports.iter().map(|r| r.device.adapter.name.as_str()).collect();
    adapters.dedup();
    let warnings: String = compare::warnings(reports).iter().map(|w| format!("<li>{}</li>", escaped(w))).collect();
    let warnings = if warnings.is_empty() { warnings } else { format!("<ul class=warnings>{warnings}</ul>") };
    let charts: String = charts
        .iter()
        .map(|c| {
            let (id, title) = (c.id, escaped(c.title));
            Ok(format!(
                "<section id={id}><h2>{title}</h2><p class=caption>{}</p><div role=img aria-label=\"{title}\">{}</div></section>",
                escaped(c.caption),
                c.svg()?,
            ))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(format!(
        "{BEGIN}{title}</title><style>{STYLE}</style><h1>mamba-wgpu on {title}</h1>{warnings}{devices}{charts}\
         <h2>All rows</h2><p class=caption>Medians: the device's clock where there is one, else the host's; rates of whole models \
         by the host's.</p>{rows}</html>\n",
        title = escaped(&adapters.join(", ")),
        devices = devices(reports, &names),
        rows = rows(reports, &names),
    ))
}
