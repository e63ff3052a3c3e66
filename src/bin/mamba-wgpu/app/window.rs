//! The window: hands events to the state, its commands to the threads, and lets the views draw.

use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui::{self, ThemePreference};
use mamba_wgpu::gpu::Gpu;

use super::automation::Automation;
use super::jobs::Hub;
use super::messages::Event;
use super::problem::Problem;
use super::settings::{Settings, Theme};
use super::state::State;
use super::views;
use super::worker::Events;

/// Settings are written this long after they changed: not at every step of a slider.
const SAVE_AFTER: Duration = Duration::from_secs(2);

pub struct Window {
    state: State,
    hub: Hub,
    events: Receiver<Event>,
    automation: Automation,
    /// Where the settings are kept, and what they are there.
    file: Option<(PathBuf, Settings)>,
    /// When they were found to be others.
    changed: Option<Instant>,
    /// The window's device, if models run on it too.
    gpu: Option<Gpu>,
    /// Of the last frame, in pixels.
    size: egui::Vec2,
}

impl Window {
    pub fn new(
        context: &eframe::CreationContext<'_>,
        state: State,
        file: Option<(PathBuf, Settings)>,
        automation: Automation,
    ) -> Self {
        let ctx = &context.egui_ctx;
        views::set_style(ctx);
        ctx.set_zoom_factor(state.settings.zoom);
        // Models share the window's device, if it has compute shaders.
        let gpu = context
            .wgpu_render_state
            .as_ref()
            .and_then(|shown| Gpu::on_device(&shown.adapter, shown.device.clone(), shown.queue.clone()).ok());
        let (to, events) = channel();
        let wake = ctx.clone();
        let hub = Hub::start(Events { to, wake: Arc::new(move || wake.request_repaint()) }, gpu.clone());
        ctx.memory_mut(|memory| memory.request_focus(egui::Id::unique("prompt text")));
        Self { state, hub, events, automation, file, changed: None, gpu, size: egui::Vec2::ZERO }
    }

    /// After a change of the window's size its surface is configured anew when this frame is painted: models submit nothing
    /// until the next frame, which is to come at once.
    fn make_way_for_painting(&mut self, ctx: &egui::Context) {
        let size = ctx.input(|input| input.raw.screen_rect.map(|rect| rect.size() * input.pixels_per_point));
        if let (Some(gpu), Some(size)) = (&self.gpu, size.filter(|size| *size != self.size)) {
            self.size = size;
            gpu.hold_submissions();
            ctx.request_repaint();
        }
    }

    /// Writes the settings if they have changed, and some time ago.
    fn save_settings(&mut self, now: bool) -> Option<Duration> {
        let (path, saved) = self.file.as_mut()?;
        if self.state.settings == *saved {
            self.changed = None;
            return None;
        }
        let changed = *self.changed.get_or_insert_with(Instant::now);
        let left = SAVE_AFTER.saturating_sub(changed.elapsed());
        if !now && !left.is_zero() {
            return Some(left);
        }
        let result = self.state.settings.write(path);
        // Said once: not every two seconds.
        saved.clone_from(&self.state.settings);
        if let Err(error) = result {
            let words = format!("{}: {error}", path.display());
            self.state.problem.get_or_insert_with(|| Problem::new("The settings cannot be kept", words));
        }
        None
    }
}

impl eframe::App for Window {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        if let Some(gpu) = &self.gpu {
            gpu.release_submissions();
        }
        for event in self.events.try_iter() {
            self.state.apply(event);
        }
        self.automation.next(&mut self.state, ctx);
        self.state.take_commands().into_iter().for_each(|command| self.hub.send(command));
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        let ctx = ui.ctx().clone();
        let theme = match self.state.settings.theme {
            Theme::System => ThemePreference::System,
            Theme::Light => ThemePreference::Light,
            Theme::Dark => ThemePreference::Dark,
        };
        ctx.set_theme(theme);
        views::keys(&mut self.state, &ctx);
        let dropped = ctx.input(|input| input.raw.dropped_files.clone());
        if let Some(path) = dropped.first().map(|file| file.path()) {
            self.state.dropped(path);
        }
        views::window(&mut self.state, ui);

        self.state.settings.zoom = ctx.zoom_factor();
        if let Some(rect) = ctx.input(|input| input.viewport().inner_rect) {
            // In points of the system, whatever the zoom.
            let size = rect.size() * ctx.zoom_factor();
            if size.x >= 360.0 && size.y >= 360.0 {
                self.state.settings.window = size.into();
            }
        }
        if let Some(left) = self.save_settings(false) {
            ctx.request_repaint_after(left);
        }
        self.state.take_commands().into_iter().for_each(|command| self.hub.send(command));
        self.make_way_for_painting(&ctx);
    }

    fn on_exit(&mut self) {
        self.state.stop();
        self.save_settings(true);
    }
}
