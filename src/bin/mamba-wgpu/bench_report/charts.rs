//! The charts, as SVG by plotters: bars by shape or model size, and the roofline.

use anyhow::anyhow;
use mamba_wgpu::bench::{compare, Report, Row, Suite};
use plotters::coord::Shift;
use plotters::prelude::*;

/// A chart and where it belongs.
pub struct Chart {
    /// Also its file's name.
    pub id: &'static str,
    pub title: &'static str,
    /// What the reader is to see in it.
    pub caption: &'static str,
    pub svg: String,
}

/// A report's, readable on white and on black; told apart by those who see few colours too (Okabe and Ito). Variants of one report
/// are shades.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(150, 150, 150),
];
const INK: RGBColor = RGBColor(128, 128, 128);
const WIDTH: u32 = 860;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Where a series comes from: a report, and which of the variants it has.
#[derive(Clone)]
struct Series {
    name: String,
    report: usize,
    variant: usize,
}

impl Series {
    fn colour(&self) -> RGBAColor {
        COLOURS[self.report % COLOURS.len()].mix([1.0, 0.7, 0.45, 0.25][self.variant % 4])
    }
}

/// Bars that belong together, under one label.
struct Group {
    label: String,
    /// By series.
    values: Vec<Option<f64>>,
}

fn draw<F>(height: u32, body: F) -> anyhow::Result<String>
where
    F: FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        body(&area).map_err(|e| anyhow!("a chart cannot be drawn: {e}"))?;
        area.present().map_err(|e| anyhow!("a chart cannot be drawn: {e}"))?;
    }
    Ok(svg)
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Three digits.
fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// Horizontal bars; on a logarithmic scale where they span more than a factor of thirty.
fn bars(series: &[Series], groups: &[Group], unit: &str) -> anyhow::Result<String> {
    const BAR: i32 = 13;
    const LEFT: i32 = 150;
    const RIGHT: i32 = 90;
    let legend = 20 * series.len() as i32 + 10;
    let shown = |g: &Group| g.values.iter().flatten().count() as i32;
    let height = legend + groups.iter().map(|g| shown(g) * BAR + 14).sum::<i32>() + 24;
    let all = || groups.iter().flat_map(|g| g.values.iter().flatten().copied()).filter(|x| *x > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let logarithmic = high / low > 30.0;
    let length = |x: f64| {
        let share = if logarithmic { 0.05 + 0.95 * (x / low).ln() / (high / low).ln() } else { x / high };
        (share * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32
    };
    draw(height as u32, |area| {
        for (i, one) in series.iter().enumerate() {
            let y = 4 + 20 * i as i32;
            area.draw(&Rectangle::new([(LEFT, y), (LEFT + 12, y + 12)], one.colour().filled()))?;
            area.draw(&Text::new(one.name.clone(), (LEFT + 18, y), text(14)))?;
        }
        let mut y = legend;
        for group in groups {
            let middle = y + (shown(group) * BAR - 14) / 2;
            area.draw(&Text::new(group.label.clone(), (4, middle), text(13)))?;
            for (i, value) in group.values.iter().enumerate() {
                let Some(value) = value else { continue };
                let end = LEFT + length(*value).max(1);
                let bar = Rectangle::new([(LEFT, y), (end, y + BAR - 2)], series[i].colour().filled());
                area.draw(&bar)?;
                area.draw(&Text::new(short(*value), (end + 5, y - 1), text(12)))?;
                y += BAR;
            }
            y += 14;
        }
        let scale = if logarithmic { ", logarithmic" } else { "" };
        area.draw(&Text::new(format!("{unit}{scale}"), (LEFT, y - 4), text(12)))?;
        Ok(())
    })
}

/// Groups of a suite's rows: by name, a series for each report and variant that `keep` lets through.
fn grouped(
    reports: &[Report],
    suite: Suite,
    keep: impl Fn(&Row) -> bool,
    value: impl Fn(&Row) -> Option<f64>,
) -> (Vec<Series>, Vec<Group>) {
    let names = compare::names(reports);
    let all = compare::side_by_side(reports);
    let rows = || all.iter().filter(|c| c.suite == suite && c.rows.iter().flatten().any(|row| keep(row)));
    let label = |c: &compare::Compared<'_>| match (suite, c.rows.iter().flatten().next().and_then(|row| row.l)) {
        (Suite::Prefill, Some(l)) => format!("{}, {l} tokens", c.name),
        _ => c.name.to_owned(),
    };
    let mut variants: Vec<&str> = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    for c in rows() {
        if !variants.contains(&c.variant) {
            variants.push(c.variant);
        }
        if !labels.contains(&label(c)) {
            labels.push(label(c));
        }
    }
    let keys: Vec<(usize, &str)> = (0..reports.len()).flat_map(|i| variants.iter().map(move |v| (i, *v))).collect();
    let groups = labels.into_iter().map(|wanted| {
        let of = |(i, variant): &(usize, &str)| {
            let row = rows().find(|c| label(c) == wanted && c.variant == *variant)?.rows[*i]?;
            value(row)
        };
        Group { values: keys.iter().map(of).collect(), label: wanted }
    });
    let groups: Vec<Group> = groups.filter(|g| g.values.iter().any(Option::is_some)).collect();
    let used: Vec<bool> = (0..keys.len()).map(|i| groups.iter().any(|g| g.values[i].is_some())).collect();
    let series = keys.iter().zip(&used).filter(|(_, used)| **used).map(|((i, v), _)| Series {
        name: format!("{}, {v}", names[*i]),
        report: *i,
        variant: variants.iter().position(|other| other == v).unwrap_or(0),
    });
    let only_used = |g: Group| Group {
        values: g.values.into_iter().zip(&used).filter(|(_, used)| **used).map(|(value, _)| value).collect(),
        ..g
    };
    (series.collect(), groups.into_iter().map(only_used).collect())
}

/// Operations for each byte that must move, of a linear layer.
fn intensity(row: &Row) -> Option<f64> {
    let (l, n, k) = (row.l? as f64, row.n? as f64, row.k? as f64);
    let weight = match row.variant.split(',').next()? {
        "f32" => 4.0,
        "f16" => 2.0,
        "q8" => 34.0 / 32.0,
        "q4" => 18.0 / 32.0,
        _ => return None,
    };
    let activation = if row.variant.contains("activations f16") { 2.0 } else { 4.0 };
    Some(2.0 * l * n * k / (weight * n * k + activation * l * (n + k)))
}

/// Operations a second, of a linear layer.
fn tflops(row: &Row) -> Option<f64> {
    Some(2.0 * row.l? as f64 * row.n? as f64 * row.k? as f64 / row.median_us()? / 1e6)
}

/// Linear layers under each adapter's own ceilings.
fn roofline(reports: &[Report]) -> anyhow::Result<Option<String>> {
    let names = compare::names(reports);
    let points: Vec<Vec<(f64, f64)>> = reports
        .iter()
        .map(|r| {
            let rows = r.rows.iter().filter(|row| row.suite == Suite::Matmul && row.skipped.is_none());
            rows.filter_map(|row| Some((intensity(row)?, tflops(row)?))).collect()
        })
        .collect();
    let all = || points.iter().flatten().copied();
    if all().next().is_none() {
        return Ok(None);
    }
    let roofs = || reports.iter().filter_map(|r| r.ceilings.fma_tflops);
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)))
    };
    let (x0, x1) = bounds(&mut all().map(|p| p.0));
    let (y0, y1) = bounds(&mut all().map(|p| p.1).chain(roofs()));
    let (x, y) = (x0 / 2.0..x1 * 2.0, y0 / 2.0..y1 * 2.0);
    let svg = draw(420, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x.clone().log_scale(), y.log_scale())?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_mesh().axis_style(INK).label_style(text(12)).axis_desc_style(text(13));
        mesh.x_desc("operations a byte").y_desc("TFLOP/s").draw()?;
        for (i, report) in reports.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if let (Some(copy), Some(fma)) = (report.ceilings.copy_gbps, report.ceilings.fma_tflops) {
                let corner = (fma * 1e3 / copy).clamp(x.start, x.end);
                let at = |x: f64| (x, (copy * x / 1e3).min(fma));
                chart.draw_series(LineSeries::new([x.start, corner, x.end].map(at), colour.stroke_width(2)))?;
            }
            let dots = points[i].iter().map(|p| Circle::new(*p, 4, colour.filled()));
            chart
                .draw_series(dots)?
                .label(names[i].clone())
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        }
        chart.configure_series_labels().label_font(text(13)).border_style(INK).draw()?;
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Every chart for which the reports have rows.
pub fn all(reports: &[Report]) -> anyhow::Result<Vec<Chart>> {
    let mut charts = Vec::new();
    let mut add = |id, title, caption, (series, groups): (Vec<Series>, Vec<Group>), unit: &str| -> anyhow::Result<()> {
        if !groups.is_empty() {
            charts.push(Chart { id, title, caption, svg: bars(&series, &groups, unit)? });
        }
        Ok(())
    };
    let micro = |row: &Row| row.median_us();
    let rate = |row: &Row| row.tokens_per_s;
    let share = |row: &Row| row.share_of_copy.or(row.share_of_fma).map(|x| 100.0 * x);
    let any = |_: &Row| true;
    let whole = |row: &Row| row.variant == "f16" || row.variant == "f32";
    let scan = "The ladder from one token after the other to the fused scan; less is better.";
    add("scan", "Selective scan", scan, grouped(reports, Suite::Scan, any, micro), "us")?;
    let decode = "Tokens a second by model size and weight format; more is better.";
    add("decode", "Decode", decode, grouped(reports, Suite::Decode, any, rate), "tokens/s")?;
    let prefill = "Reading a prompt; more is better.";
    add("prefill", "Prefill", prefill, grouped(reports, Suite::Prefill, whole, rate), "tokens/s")?;
    let shares =
        "Linear layers as a share of what the same adapter copies (matvec) or multiplies in f32 (matmul; cooperative \
                  matrices exceed it).";
    add("share", "Share of the adapter's own ceilings", shares, grouped(reports, Suite::Matmul, any, share), "%")?;
    if let Some(svg) = roofline(reports)? {
        let caption = "Linear layers by operations a byte, under each adapter's copy and f32 multiply-add ceilings.";
        charts.push(Chart { id: "roofline", title: "Roofline", caption, svg });
    }
    Ok(charts)
}
