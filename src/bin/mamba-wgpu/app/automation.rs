//! `--generate` and `--screenshot`: the window as a script uses it.

use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use eframe::egui::{self, ColorImage, ViewportCommand};
use mamba_wgpu::files::Output;

use super::state::{Model, State};
use crate::bench_report::charts::encode_png;
use crate::output::print_line;

type Outcome = Arc<Mutex<Option<anyhow::Result<()>>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the model.
    Loading,
    Writing,
    /// Frames to draw before the picture, so that it shows the end.
    Settling(u32),
    Waiting,
}

pub struct Automation {
    generate: bool,
    screenshot: Option<Arc<Output>>,
    stage: Option<Stage>,
    outcome: Outcome,
}

impl Automation {
    /// `outcome` gets what became of it.
    pub fn new(generate: bool, screenshot: Option<Output>, outcome: Outcome) -> Self {
        let screenshot = screenshot.map(Arc::new);
        let stage = (generate || screenshot.is_some()).then_some(Stage::Loading);
        Self { generate, screenshot, stage, outcome }
    }

    /// Does what is next. Called before each frame.
    pub fn next(&mut self, state: &mut State, ctx: &egui::Context) {
        let Some(stage) = self.stage else { return };
        if let (Some(problem), true) = (&state.problem, self.screenshot.is_some()) {
            self.end(ctx, Err(anyhow!("{}: {}", problem.title, problem.message)));
            return;
        }
        let next = match stage {
            Stage::Loading if !matches!(state.model, Model::Ready(_)) => stage,
            Stage::Loading if self.generate => {
                state.generate();
                Stage::Writing
            }
            Stage::Writing if !state.idle() => stage,
            Stage::Loading | Stage::Writing if self.screenshot.is_some() => Stage::Settling(4),
            Stage::Loading | Stage::Writing => {
                self.stage = None;
                return;
            }
            Stage::Settling(0) => {
                self.take_picture(state, ctx);
                Stage::Waiting
            }
            Stage::Settling(frames) => Stage::Settling(frames - 1),
            Stage::Waiting => {
                if self.outcome.lock().is_ok_and(|outcome| outcome.is_some()) {
                    ctx.send_viewport_cmd(ViewportCommand::Close);
                }
                stage
            }
        };
        self.stage = Some(next);
        if matches!(next, Stage::Settling(_) | Stage::Waiting) {
            ctx.request_repaint();
        }
    }

    fn take_picture(&self, state: &State, ctx: &egui::Context) {
        let Some(output) = self.screenshot.clone() else { return };
        let (text, outcome, wake) = (state.text.whole(), self.outcome.clone(), ctx.clone());
        ctx.request_screenshot(move |image| {
            let done = write_png(&output, &image);
            let printed = print_line(&text);
            let done = done.and_then(|()| Ok(printed?));
            *outcome.lock().unwrap_or_else(|e| e.into_inner()) = Some(done);
            wake.request_repaint();
        });
    }

    fn end(&mut self, ctx: &egui::Context, result: anyhow::Result<()>) {
        self.stage = None;
        *self.outcome.lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
        ctx.send_viewport_cmd(ViewportCommand::Close);
    }
}

fn write_png(output: &Output, image: &ColorImage) -> anyhow::Result<()> {
    let [width, height] = image.size.map(|size| size as u32);
    let bytes: Vec<u8> = image.pixels.iter().flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()]).collect();
    Ok(output.write(&encode_png(&bytes, (width, height))?)?)
}
