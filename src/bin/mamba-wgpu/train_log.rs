//! A run's log, a JSON object a line, and its curve.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::bench_report::charts::{encode_png, load_font};
use anyhow::{anyhow, Context};
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

/// Lines go to the file in whole pieces.
pub struct Log {
    path: PathBuf,
    lines: Vec<Line>,
    /// Lines in the file.
    written: usize,
}

impl Log {
    /// A log that begins after a step: what is there of earlier ones stays, later ones (of a run that was cut off behind its last
    /// checkpoint) go.
    pub fn open(path: &Path, step: u64) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        // A line that was cut off is no line.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Line> = lines.filter(|line: &Line| line.number() <= step).collect();
        let unfinished = PathBuf::from(format!("{}.unfinished", path.display()));
        let name = || path.display().to_string();
        let kept: Vec<String> = lines.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let text: String = kept.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        fs::write(&unfinished, text).with_context(name)?;
        fs::rename(&unfinished, path).with_context(name)?;
        let written = lines.len();
        Ok(Self { path: path.into(), lines, written })
    }

    pub fn step(&mut self, r: &StepRecord, tokens_per_second: f64) -> anyhow::Result<()> {
        let (step, loss, gradient_norm, learning_rate) = (r.step, r.loss, r.gradient_norm, r.learning_rate);
        self.lines.push(Line::Step { step, loss, gradient_norm, learning_rate, tokens_per_second });
        self.flush()
    }

    pub fn validation(&mut self, step: u64, e: &Evaluation, bits_per_byte: Option<f64>) -> anyhow::Result<()> {
        let (validation_loss, accuracy) = (e.loss(), e.accuracy());
        self.lines.push(Line::Validation { step, validation_loss, accuracy, bits_per_byte });
        self.flush()
    }

    /// Writes what is not in the file yet.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        for line in &self.lines[self.written..] {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        if !text.is_empty() {
            let name = || self.path.display().to_string();
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.path).with_context(name)?;
            file.write_all(&text).with_context(name)?;
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
pub fn plot(lines: &[Line], path: &Path) -> anyhow::Result<()> {
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
    let name = || path.display().to_string();
    let series = [train.as_slice(), &validation];
    let drawn = if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        let mut pixels = vec![255; 3 * (SIZE.0 * SIZE.1) as usize];
        draw(BitMapBackend::with_buffer(&mut pixels, SIZE), (end, top), series)
            .and_then(|()| Ok(encode_png(&pixels, SIZE)?))
    } else {
        let mut svg = String::new();
        draw(SVGBackend::with_string(&mut svg, SIZE), (end, top), series).map(|()| svg.into_bytes())
    };
    fs::write(path, drawn.map_err(|e| anyhow!("{}: {e}", name()))?).with_context(name)
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

    fn record(step: u64) -> StepRecord {
        StepRecord { step, loss: 2.0 / step as f32, gradient_norm: 1.0, learning_rate: 1e-3 }
    }

    #[test]
    fn a_log_goes_on_where_the_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        for step in 1..=4 {
            log.step(&record(step), 10.0).unwrap();
        }
        log.validation(3, &Evaluation { counted: 4, correct: 3, nll_sum: 2.0 }, None).unwrap();
        // The program was killed while it wrote.
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5);
        text.push_str("{\"step\":5,\"lo");
        fs::write(&path, text).unwrap();
        let mut log = Log::open(&path, 3).unwrap();
        log.step(&record(4), 10.0).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Line>(l).unwrap().number()).collect();
        assert_eq!(steps, [1, 2, 3, 3, 4]);
        assert!(text.contains("\"accuracy\":0.75"));
        assert_eq!(log.last_loss(), Some(0.5));
        plot(log.lines(), &folder.path().join("loss.svg")).unwrap();
        let svg = fs::read_to_string(folder.path().join("loss.svg")).unwrap();
        assert!(svg.contains("</svg>") && svg.contains("validation"), "{}", svg.len());
        plot(log.lines(), &folder.path().join("loss.png")).unwrap();
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
}
