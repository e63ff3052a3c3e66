//! What to compute on, and whether it computes rightly.

use eframe::egui::{self, Frame, RichText, ScrollArea, Ui};
use mamba_wgpu::gpu::AdapterSummary;

use super::{bad, good};
use crate::adapters;
use crate::app::settings::Device;
use crate::app::state::{Check, State};

/// The choice at the top of the window.
pub fn picker(state: &mut State, ui: &mut Ui) {
    let current = state.settings.device.clone();
    let mut chosen = current.clone();
    let (mark, colour) = mark(state, ui);
    let response = egui::ComboBox::from_id_salt("device")
        .selected_text(RichText::new(format!("{}{mark}", name(&current))).color(colour))
        .width(180.0)
        .truncate()
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut chosen, Device::Auto, name(&Device::Auto));
            let devices = state.devices_best_first().into_iter().flatten();
            for (device, adapter) in devices.filter(|(_, adapter)| adapter.as_ref().is_none_or(|a| a.compute)) {
                let software = adapter.is_some_and(|adapter| adapter.software());
                let name = format!("{}{}", name(&device), if software { ", in software" } else { "" });
                ui.selectable_value(&mut chosen, device, name);
            }
        });
    response.response.on_hover_text(verdict(state));
    state.choose_device(chosen);
}

fn name(device: &Device) -> String {
    match device {
        Device::Auto => "Fastest device".into(),
        Device::Cpu => "CPU".into(),
        Device::Adapter { .. } => device.to_string(),
    }
}

fn of_model(state: &State) -> Option<&Check> {
    state.check_of(&state.info()?.on)
}

/// What is known of the device in use, in a word.
fn mark(state: &State, ui: &Ui) -> (&'static str, egui::Color32) {
    match of_model(state) {
        Some(Check::Done(Ok(verdict))) if verdict.passed => (", checked", good(ui)),
        Some(Check::Done(Ok(_))) => (", failed its check", bad(ui)),
        Some(Check::Running { .. }) => (", being checked", ui.visuals().text_color()),
        _ => ("", ui.visuals().text_color()),
    }
}

fn verdict(state: &State) -> String {
    match (state.info(), of_model(state)) {
        (None, _) => "What the model runs on".into(),
        (Some(info), None) => format!("{}: not checked yet", info.device),
        (Some(info), Some(Check::Running { .. })) => format!("{}: being checked", info.device),
        (Some(info), Some(Check::Done(Ok(verdict)))) => format!("{}: {}", info.device, verdict.words),
        (Some(info), Some(Check::Done(Err(error)))) => format!("{}: it could not be checked: {error}", info.device),
    }
}

/// The tab.
pub fn show(state: &mut State, ui: &mut Ui) {
    let frame = Frame::central_panel(ui.style()).inner_margin(16);
    egui::CentralPanel::default().frame(frame).show(ui, |ui| {
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            ui.heading("What there is to compute on");
            ui.weak("The check runs every kernel against its CPU twin, as mamba-wgpu doctor does.");
            ui.add_space(6.0);
            let Some(devices) = state.devices_best_first() else {
                ui.horizontal(|ui| {
                    ui.spinner();
                    ui.label("Looking for adapters");
                });
                return;
            };
            if devices.first().is_some_and(|(device, _)| *device == Device::Cpu) {
                ui.label("No hardware GPU was found: models run on the CPU, unless another is chosen.");
            }
            for (device, adapter) in devices {
                card(state, ui, device, adapter.as_ref());
            }
        });
    });
}

fn card(state: &mut State, ui: &mut Ui, device: Device, adapter: Option<&AdapterSummary>) {
    Frame::group(ui.style()).inner_margin(12).show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(name(&device)).strong().size(15.0));
            if state.info().is_some_and(|info| info.on == device) {
                ui.label(RichText::new("in use").color(good(ui)));
            }
        });
        match adapter {
            Some(adapter) => ui.weak(adapters::details(adapter).join("\n")),
            None => ui.weak("The CPU twins of all kernels, on all cores."),
        };
        match state.check_of(&device).cloned() {
            None => {
                ui.label("Not checked yet.");
            }
            Some(Check::Running { done, total }) => {
                let share = if total == 0 { 0.0 } else { done as f32 / total as f32 };
                ui.add(egui::ProgressBar::new(share).text(format!("checking: {done} of {total}")).desired_width(300.0));
            }
            Some(Check::Done(Ok(verdict))) => {
                let colour = if verdict.passed { good(ui) } else { bad(ui) };
                ui.label(RichText::new(&verdict.words).color(colour));
                for line in &verdict.details {
                    ui.label(line);
                }
            }
            Some(Check::Done(Err(error))) => {
                ui.label(RichText::new(format!("It could not be checked: {error}")).color(bad(ui)));
            }
        }
        let usable = adapter.is_none_or(|adapter| adapter.compute);
        ui.horizontal(|ui| {
            let running = matches!(state.check_of(&device), Some(Check::Running { .. }));
            if ui.add_enabled(usable && !running, egui::Button::new("Check now")).clicked() {
                state.check(&device);
            }
            let used = state.settings.device == device;
            if ui.add_enabled(usable && !used, egui::Button::new("Use this")).clicked() {
                state.choose_device(device.clone());
            }
        });
    });
}
