//! The charts, by plotters, as SVG and PNG: bars by shape or model size, and the roofline.

use anyhow::anyhow;
use mamba_wgpu::bench::{compare, Flag, Report, Row, Suite};
use mamba_wgpu::files::Kind;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A chart and where it belongs.
pub struct Chart {
    /// Also its file's name.
    pub id: &'static str,
    pub title: &'static str,
    /// What the reader is to see in it.
    pub caption: &'static str,
    picture: Picture,
}

/// What is drawn.
enum Picture {
    Bars { series: Vec<Series>, groups: Vec<Group>, unit: &'static str },
    Roofline(Roofline),
}

/// Where it is drawn, and pixels a unit of length.
struct Pen<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: i32,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Pixels of a PNG a unit of length.
const FINE: i32 = 2;
/// Bitstream Vera Sans, beside its licence: letters look alike, and are there, on every machine.
const FONT: &[u8] = include_bytes!("font/Vera.ttf");

/// Readable on white and on black; told apart by those who see few colours too (Okabe and Ito). Of one report each variant has
/// one; of several each report, and its variants are shades.
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

/// Where a series comes from: a report, and which of the variants it has.
#[derive(Clone)]
struct Series {
    name: String,
    report: usize,
    variant: usize,
    /// How many reports and variants there are.
    of: (usize, usize),
}

impl Series {
    fn colour(&self) -> RGBAColor {
        let (reports, variants) = self.of;
        if reports == 1 && variants <= COLOURS.len() {
            return COLOURS[self.variant].mix(1.0);
        }
        let paler = self.variant as f64 / (variants.max(2) - 1) as f64;
        COLOURS[self.report % COLOURS.len()].mix(1.0 - 0.8 * paler)
    }
}

/// Pixels (height, width, 3) as a PNG file's bytes.
pub fn encode_png(pixels: &[u8], (width, height): (u32, u32)) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.add_text_chunk("Software".into(), MARK.into())?;
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}

/// By which this program knows its own pictures again.
const MARK: &str = "written by mamba-wgpu";

/// Pictures that this program wrote: the mark stands at their beginning.
pub const PICTURE: Kind = Kind {
    name: "picture of mamba-wgpu",
    is: |bytes| bytes[..bytes.len().min(1024)].windows(MARK.len()).any(|part| part == MARK.as_bytes()),
};

/// An SVG with the mark.
pub fn marked_svg(svg: String) -> String {
    match svg.split_once('>') {
        Some((begin, rest)) => format!("{begin}><!-- {MARK} -->{rest}"),
        None => svg,
    }
}

/// Gives plotters the font that all charts are labelled in: it asks no system for one.
pub fn load_font() -> anyhow::Result<()> {
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| anyhow!("the font cannot be read"))
}

/// Bars that belong together, under one label.
struct Group {
    label: String,
    /// By series.
    values: Vec<Option<Bar>>,
}

/// A median, with the fastest and the slowest of its samples.
#[derive(Debug, Clone, Copy)]
struct Bar {
    value: f64,
    ends: [f64; 2],
    n: usize,
    /// Not to be trusted: too few samples, or of an adapter that was slower than it can be.
    doubtful: bool,
}

impl Bar {
    /// `rate`: whether a shorter time is a larger value.
    fn new(row: &Row, value: f64, rate: bool) -> Option<Self> {
        let spread = row.spread()?;
        let at = |us: f64| if rate { value * spread.median / us } else { value * us / spread.median };
        let doubtful = row.flags().iter().any(|flag| matches!(flag, Flag::FewSamples | Flag::Unsteady));
        Some(Self { value, ends: [at(spread.min), at(spread.max)], n: spread.n, doubtful })
    }
}

impl Chart {
    pub fn svg(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, (WIDTH, self.picture.height())), 1)?;
        Ok(svg)
    }

    /// The same on white, as a PNG file's bytes.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        let (width, height) = (WIDTH * FINE as u32, self.picture.height() * FINE as u32);
        let mut pixels = vec![255; 3 * (width * height) as usize];
        self.draw(BitMapBackend::with_buffer(&mut pixels, (width, height)), FINE)?;
        encode_png(&pixels, (width, height))
    }

    fn draw<B: DrawingBackend>(&self, backend: B, scale: i32) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        load_font()?;
        let area = backend.into_drawing_area();
        let pen = Pen { area: &area, scale };
        let drawn = match &self.picture {
            Picture::Bars { series, groups, unit } => bars(&pen, series, groups, unit),
            Picture::Roofline(roofline) => roofline.draw(&pen),
        };
        drawn.map_err(|e| anyhow!("the chart {} cannot be drawn: {e}", self.id))?;
        area.present().map_err(|e| anyhow!("the chart {} cannot be drawn: {e}", self.id))
    }
}

impl Picture {
    fn height(&self) -> u32 {
        match self {
            Picture::Bars { series, groups, .. } => bars_height(series, groups) as u32,
            Picture::Roofline(_) => 420,
        }
    }
}

impl<B: DrawingBackend> Pen<'_, B> {
    fn text(&self, size: i32) -> TextStyle<'static> {
        ("sans-serif", size * self.scale).into_font().color(&INK)
    }
    /// Text whose middle is at y.
    fn write(&self, text: String, (x, y): (i32, i32), size: i32) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let style = self.text(size).pos(Pos::new(HPos::Left, VPos::Center));
        Ok(self.area.draw(&Text::new(text, (x * self.scale, y * self.scale), style))?)
    }
    fn fill(&self, corners: [(i32, i32); 2], colour: RGBAColor) -> Drawn
    where
        B::ErrorType: 'static,
    {
        Ok(self.area.draw(&Rectangle::new(corners.map(|(x, y)| (x * self.scale, y * self.scale)), colour.filled()))?)
    }
}

/// Three digits.
fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

const BAR: i32 = 13;

/// Bars of a group that there are.
fn shown(group: &Group) -> i32 {
    group.values.iter().flatten().count() as i32
}

/// Room above the legend, for the upper parts of its letters.
const LEGEND_TOP: i32 = 12;

/// Where the first group begins: below the legend.
fn bars_top(series: &[Series]) -> i32 {
    LEGEND_TOP + 20 * series.len() as i32 + 6
}

fn bars_height(series: &[Series], groups: &[Group]) -> i32 {
    bars_top(series) + groups.iter().map(|g| shown(g) * BAR + 14).sum::<i32>() + 24
}

/// Horizontal bars; on a logarithmic scale where they span more than a factor of thirty.
fn bars<B: DrawingBackend>(pen: &Pen<'_, B>, series: &[Series], groups: &[Group], unit: &str) -> Drawn
where
    B::ErrorType: 'static,
{
    const LEFT: i32 = 150;
    const RIGHT: i32 = 110;
    let all = || groups.iter().flat_map(|g| g.values.iter().flatten().map(|bar| bar.value)).filter(|x| *x > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let logarithmic = high / low > 30.0;
    let length = |x: f64| {
        let share = if logarithmic { 0.05 + 0.95 * (x / low).ln() / (high / low).ln() } else { x / high };
        (share * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32
    };
    for (i, one) in series.iter().enumerate() {
        let y = LEGEND_TOP + 20 * i as i32;
        pen.fill([(LEFT, y), (LEFT + 12, y + 12)], one.colour())?;
        pen.write(one.name.clone(), (LEFT + 18, y + 6), 14)?;
    }
    let mut y = bars_top(series);
    for group in groups {
        pen.write(group.label.clone(), (4, y + shown(group) * BAR / 2), 13)?;
        for (i, value) in group.values.iter().enumerate() {
            let Some(bar) = value else { continue };
            let end = LEFT + length(bar.value).max(1);
            pen.fill([(LEFT, y), (end, y + BAR - 2)], series[i].colour())?;
            // A slow outlier may lie outside: its line ends at the edge.
            let [a, b] = bar.ends.map(|x| (LEFT + length(x)).clamp(LEFT, WIDTH as i32 - RIGHT + 8));
            let middle = y + (BAR - 2) / 2;
            pen.fill([(a.min(b), middle), (a.max(b) + 1, middle + 1)], INK.mix(1.0))?;
            let star = if bar.doubtful { " *" } else { "" };
            let text = format!("{}, n {}{star}", short(bar.value), bar.n);
            pen.write(text, (end.max(a).max(b) + 5, y + BAR / 2 - 1), 12)?;
            y += BAR;
        }
        y += 14;
    }
    let scale = if logarithmic { ", logarithmic" } else { "" };
    let star = match groups.iter().flat_map(|g| g.values.iter().flatten()).any(|bar| bar.doubtful) {
        true => "; * few samples, or unsteady",
        false => "",
    };
    pen.write(format!("{unit}{scale}: medians, lines from the fastest to the slowest{star}"), (LEFT, y + 4), 12)
}

/// Groups of a suite's rows: by name, a series for each report and variant that `keep` lets through.
fn grouped(
    reports: &[Report],
    suite: Suite,
    keep: impl Fn(&Row) -> bool,
    (value, rate): (fn(&Row) -> Option<f64>, bool),
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
            Bar::new(row, value(row)?, rate)
        };
        Group { values: keys.iter().map(of).collect(), label: wanted }
    });
    let groups: Vec<Group> = groups.filter(|g| g.values.iter().any(Option::is_some)).collect();
    let used: Vec<bool> = (0..keys.len()).map(|i| groups.iter().any(|g| g.values[i].is_some())).collect();
    let series = keys.iter().zip(&used).filter(|(_, used)| **used).map(|((i, v), _)| Series {
        name: format!("{}, {v}", names[*i]),
        report: *i,
        variant: variants.iter().position(|other| other == v).unwrap_or(0),
        of: (reports.len(), variants.len()),
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

/// Linear layers under each adapter's own ceilings, by report.
struct Roofline {
    names: Vec<String>,
    /// Operations a byte, and TFLOP/s with its spread, of each row.
    points: Vec<Vec<(f64, Bar)>>,
    /// (GB/s, TFLOP/s), where they were measured.
    ceilings: Vec<Option<(f64, f64)>>,
}

impl Roofline {
    fn new(reports: &[Report]) -> Option<Self> {
        let points = |r: &Report| {
            let rows = r.rows.iter().filter(|row| row.suite == Suite::Matmul && row.skipped.is_none());
            rows.filter_map(|row| Some((intensity(row)?, Bar::new(row, tflops(row)?, true)?))).collect()
        };
        let roofline = Self {
            names: compare::names(reports),
            points: reports.iter().map(points).collect(),
            ceilings: reports.iter().map(|r| r.ceilings.copy_gbps.zip(r.ceilings.fma_tflops)).collect(),
        };
        roofline.points.iter().any(|p| !p.is_empty()).then_some(roofline)
    }

    fn draw<B: DrawingBackend>(&self, pen: &Pen<'_, B>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let scale = pen.scale;
        let bounds = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)))
        };
        let all = || self.points.iter().flatten();
        let (x0, x1) = bounds(&mut all().map(|p| p.0));
        let (y0, y1) = bounds(&mut all().map(|p| p.1.value).chain(self.ceilings.iter().flatten().map(|c| c.1)));
        let (x, y) = (x0 / 2.0..x1 * 2.0, y0 / 2.0..y1 * 2.0);
        let mut chart = ChartBuilder::on(pen.area)
            .margin(10 * scale)
            .x_label_area_size(40 * scale)
            .y_label_area_size(60 * scale)
            .build_cartesian_2d(x.clone().log_scale(), y.log_scale())?;
        let mesh = &mut chart.configure_mesh();
        mesh.disable_mesh().axis_style(INK).label_style(pen.text(12)).axis_desc_style(pen.text(13));
        mesh.x_desc("operations a byte").y_desc("TFLOP/s").draw()?;
        for (i, name) in self.names.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if let Some((copy, fma)) = self.ceilings[i] {
                let corner = (fma * 1e3 / copy).clamp(x.start, x.end);
                let at = |x: f64| (x, (copy * x / 1e3).min(fma));
                let line = colour.stroke_width(2 * scale as u32);
                chart.draw_series(LineSeries::new([x.start, corner, x.end].map(at), line))?;
            }
            let spreads = self.points[i].iter().map(|(x, bar)| {
                PathElement::new(bar.ends.map(|y| (*x, y)), colour.mix(0.6).stroke_width(scale as u32))
            });
            chart.draw_series(spreads)?;
            let dots = self.points[i].iter().map(|(x, bar)| Circle::new((*x, bar.value), 4 * scale, colour.filled()));
            chart
                .draw_series(dots)?
                .label(name.clone())
                .legend(move |(x, y)| Circle::new((x + 8, y), 4 * scale, colour.filled()));
        }
        chart.configure_series_labels().label_font(pen.text(13)).border_style(INK).draw()?;
        Ok(())
    }
}

/// Every chart for which the reports have rows.
pub fn all(reports: &[Report]) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut add = |id, title, caption, (series, groups): (Vec<Series>, Vec<Group>), unit| {
        if !groups.is_empty() {
            charts.push(Chart { id, title, caption, picture: Picture::Bars { series, groups, unit } });
        }
    };
    let micro: (fn(&Row) -> Option<f64>, bool) = (|row| row.median_us(), false);
    let rate: (fn(&Row) -> Option<f64>, bool) = (|row| row.tokens_per_s, true);
    let share: (fn(&Row) -> Option<f64>, bool) =
        (|row| row.share_of_copy.or(row.share_of_fma).map(|x| 100.0 * x), true);
    let any = |_: &Row| true;
    let whole = |row: &Row| row.variant == "f16" || row.variant == "f32";
    let scan = "The ladder from one token after the other to the fused scan; less is better.";
    add("scan", "Selective scan", scan, grouped(reports, Suite::Scan, any, micro), "us");
    let decode = "Tokens a second by model size and weight format; more is better.";
    add("decode", "Decode", decode, grouped(reports, Suite::Decode, any, rate), "tokens/s");
    let prefill = "Reading a prompt; more is better.";
    add("prefill", "Prefill", prefill, grouped(reports, Suite::Prefill, whole, rate), "tokens/s");
    let backward = "The kernels that only training needs; less is better.";
    add("backward", "Gradients", backward, grouped(reports, Suite::Backward, any, micro), "us");
    let training = "Tokens a second of whole steps of training, with AdamW and without; more is better.";
    add("training", "Training", training, grouped(reports, Suite::Training, any, rate), "tokens/s");
    let shares =
        "Linear layers as a share of what the same adapter copies (matvec) or multiplies in f32 (matmul; cooperative \
                  matrices exceed it).";
    add("share", "Share of the adapter's own ceilings", shares, grouped(reports, Suite::Matmul, any, share), "%");
    if let Some(roofline) = Roofline::new(reports) {
        let caption =
            "Linear layers by operations a byte, medians with lines from the fastest to the slowest, under each \
                       adapter's copy and f32 multiply-add ceilings; the number of samples is in the table.";
        charts.push(Chart { id: "roofline", title: "Roofline", caption, picture: Picture::Roofline(roofline) });
    }
    charts
}
