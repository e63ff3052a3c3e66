//! A run's log, a JSON object a line, and its curve.

use std::fs::{self, OpenOptions};

use crate::bench_report::charts::{encode_png, load_font, marked_svg};
use anyhow::{anyhow, Context};
use mamba_wgpu::files::{FileError, Output};
use mamba_wgpu::train::{Evaluation, StepRecord};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

/// A line of the log: a step, or a validation after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Validation {
        step: u64,
        validation_loss: f64,
        accuracy: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        bits_per_byte: Option<f64>,
    },
    Step {
        step: u64,
        loss: f32,
        gradient_norm: f32,
        learning_rate: f64,
        tokens_per_second: f64,
    },
}

impl Line {
    fn number(&self) -> u64 {
        match *self {
            Line::Step { step, .. } | Line::Validation { step, .. } => step,
        }
    }
}

/// A line as it is in the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Which run it is of, in a log that may have several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    run: Option<String>,
    #[serde(flatten)]
    line: Line,
}

/// Lines go to the file in whole pieces, each at its end. What is there stays.
pub struct Log {
    output: Output,
    /// What this run is called, unless the log is its own.
    run: Option<String>,
    lines: Vec<Line>,
    /// Lines in the file.
    written: usize,
    failed: bool,
}

impl Log {
    /// A log that nothing is read of: a run that begins.
    pub fn new(output: Output, run: Option<String>) -> Self {
        Self { output, run, lines: Vec::new(), written: 0, failed: false }
    }

    /// The log of a run that goes on after a step. Its lines of later ones go where they are the last: the run was cut off behind
    /// its last checkpoint, and they come again.
    pub fn go_on(output: Output, run: Option<String>, step: u64) -> anyhow::Result<Self> {
        let mut log = Self::new(output, run);
        let Some(path) = log.output.file() else { return Ok(log) };
        let name = || log.output.path().display().to_string();
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(log),
            Err(e) => return Err(e).with_context(name),
        };
        let (mut end, mut cutting) = (text.len(), true);
        for piece in text.split_inclusive(|&b| b == b'\n').rev() {
            let entry: Option<Entry> = serde_json::from_slice(piece).ok();
            let half = entry.is_none() && piece.starts_with(b"{\"") && !piece.ends_with(b"\n");
            match entry.filter(|entry| entry.run == log.run).map(|entry| entry.line) {
                Some(line) if line.number() > step => {}
                // An earlier attempt's.
                Some(line) if log.lines.last().is_some_and(|later| later.number() < line.number()) => break,
                Some(line) => {
                    cutting = false;
                    log.lines.push(line);
                }
                None => cutting &= half,
            }
            end -= if cutting { piece.len() } else { 0 };
        }
        log.lines.reverse();
        log.written = log.lines.len();
        if end < text.len() {
            OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(end as u64)).with_context(name)?;
        }
        Ok(log)
    }

    pub fn step(&mut self, r: &StepRecord, tokens_per_second: f64) {
        let (step, loss, gradient_norm, learning_rate) = (r.step, r.loss, r.gradient_norm, r.learning_rate);
        self.add(Line::Step { step, loss, gradient_norm, learning_rate, tokens_per_second });
    }

    pub fn validation(&mut self, step: u64, e: &Evaluation, bits_per_byte: Option<f64>) {
        let (validation_loss, accuracy) = (e.loss(), e.accuracy());
        self.add(Line::Validation { step, validation_loss, accuracy, bits_per_byte });
    }

    /// A log that cannot be written is no reason to end a run: its lines are kept, and tried again with the next.
    fn add(&mut self, line: Line) {
        self.lines.push(line);
        if let (Err(error), false) = (self.flush(), self.failed) {
            self.failed = true;
            eprintln!("warning: the log: {error}");
        }
    }

    /// Writes what is not in the file yet.
    pub fn flush(&mut self) -> Result<(), FileError> {
        let mut text = String::new();
        for line in &self.lines[self.written..] {
            let entry = Entry { run: self.run.clone(), line: line.clone() };
            // Numbers and a string: it serialises.
            text += &serde_json::to_string(&entry).unwrap_or_default();
            text.push('\n');
        }
        if !text.is_empty() {
            self.output.append(text.as_bytes())?;
        }
        self.written = self.lines.len();
        Ok(())
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub fn last_loss(&self) -> Option<f32> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Step { loss, .. } => Some(*loss),
            Line::Validation { .. } => None,
        })
    }
}

/// Of a curve, in pixels.
const SIZE: (u32, u32) = (860, 420);

/// The loss over the steps, and the validation's: as PNG where the file's name ends so, otherwise as SVG.
pub fn plot(lines: &[Line], output: &Output) -> anyhow::Result<()> {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for line in lines {
        match *line {
            Line::Step { step, loss, .. } => train.push((step as f64, f64::from(loss))),
            Line::Validation { step, validation_loss, .. } => validation.push((step as f64, validation_loss)),
        }
    }
    let points = || train.iter().chain(&validation);
    if points().next().is_none() {
        return Ok(());
    }
    let end = points().map(|p| p.0).fold(1.0, f64::max);
    let top = points().map(|p| p.1).fold(1e-3, f64::max) * 1.05;
    load_font()?;
    let path = output.path();
    let series = [train.as_slice(), &validation];
    let drawn = if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        let mut pixels = vec![255; 3 * (SIZE.0 * SIZE.1) as usize];
        draw(BitMapBackend::with_buffer(&mut pixels, SIZE), (end, top), series)
            .and_then(|()| Ok(encode_png(&pixels, SIZE)?))
    } else {
        let mut svg = String::new();
        draw(SVGBackend::with_string(&mut svg, SIZE), (end, top), series).map(|()| marked_svg(svg).into_bytes())
    };
    Ok(output.write(&drawn.map_err(|e| anyhow!("{}: {e}", path.display()))?)?)
}

fn draw<B: DrawingBackend>(
    backend: B,
    (end, top): (f64, f64),
    [train, validation]: [&[(f64, f64)]; 2],
) -> Result<(), Box<dyn std::error::Error>>
where
    B::ErrorType: 'static,
{
    let ink = RGBColor(128, 128, 128);
    let text = |size: i32| ("sans-serif", size).into_font().color(&ink);
    let area = backend.into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(ink.mix(0.25))
        .axis_style(ink)
        .label_style(text(14))
        .axis_desc_style(text(14))
        .x_desc("step")
        .y_desc("loss, nats a target")
        .draw()?;
    let series = [("training", train, RGBColor(0, 114, 178)), ("validation", validation, RGBColor(213, 94, 0))];
    for (name, points, colour) in series {
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(name).legend(key);
    }
    chart.configure_series_labels().label_font(text(14)).border_style(TRANSPARENT).draw()?;
    drop(chart);
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_report::charts::PICTURE;
    use mamba_wgpu::files::Kind;
    use std::path::Path;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, loss: 2.0 / step as f32, gradient_norm: 1.0, learning_rate: 1e-3 }
    }

    fn output(path: &Path) -> Output {
        Output::new(path, Kind::TEXT, false).unwrap()
    }

    fn validation(log: &mut Log, step: u64) {
        log.validation(step, &Evaluation { counted: 4, correct: 3, nll_sum: 2.0 }, None);
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str::<Entry>(l).unwrap().line.number()).collect()
    }

    #[test]
    fn a_log_goes_on_where_the_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::new(output(&path), None);
        for step in 1..=4 {
            log.step(&record(step), 10.0);
        }
        validation(&mut log, 3);
        // The program was killed while it wrote.
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5);
        text.push_str("{\"step\":5,\"lo");
        fs::write(&path, text).unwrap();
        let mut log = Log::go_on(output(&path), None, 2).unwrap();
        assert_eq!((log.lines().len(), numbers(&path)), (2, vec![1, 2]));
        log.step(&record(3), 10.0);
        validation(&mut log, 3);
        assert_eq!(numbers(&path), [1, 2, 3, 3]);
        assert!(fs::read_to_string(&path).unwrap().contains("\"accuracy\":0.75"));
        assert_eq!(log.last_loss(), Some(2.0 / 3.0));
        plot(log.lines(), &output(&folder.path().join("loss.svg"))).unwrap();
        let svg = fs::read_to_string(folder.path().join("loss.svg")).unwrap();
        assert!(svg.contains("</svg>") && svg.contains("validation"), "{}", svg.len());
        plot(log.lines(), &output(&folder.path().join("loss.png"))).unwrap();
        for own in ["loss.svg", "loss.png"] {
            assert!((PICTURE.is)(&fs::read(folder.path().join(own)).unwrap()), "{own}");
        }
        let file = fs::File::open(folder.path().join("loss.png")).unwrap();
        let mut picture = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
        let info = picture.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), SIZE);
        // Both lines are there.
        for colour in [[0, 114, 178], [213, 94, 0]] {
            assert!(pixels.chunks(3).any(|pixel| pixel == colour), "{colour:?}");
        }
    }

    #[test]
    fn nothing_of_others_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "{\"mine\":1}\nnotes, and no line break").unwrap();
        let [mut a, mut b] = ["a", "b"].map(|run| Log::new(output(&path), Some(run.into())));
        for step in 1..=3 {
            a.step(&record(step), 10.0);
            b.step(&record(step), 10.0);
        }
        b.step(&record(4), 10.0);
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.starts_with("{\"mine\":1}\nnotes, and no line break\n{\"run\":\"a\",\"step\":1,"), "{before}");
        // b's last two lines are at the end and of no checkpoint; a's third stands before b's.
        let b = Log::go_on(output(&path), Some("b".into()), 2).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        assert_eq!((b.lines().len(), after.lines().count()), (2, before.lines().count() - 2));
        assert!(before.starts_with(&after));
        let a = Log::go_on(output(&path), Some("a".into()), 3).unwrap();
        assert_eq!((a.lines().len(), fs::read_to_string(&path).unwrap()), (3, after));
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::new(output(&path), None);
        log.step(&record(1), 10.0);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.step(&record(2), 10.0);
        assert!(log.flush().is_err());
        fs::remove_dir(&path).unwrap();
        log.step(&record(3), 10.0);
        assert_eq!(numbers(&path), [2, 3]);
    }
}
