//! `mamba-wgpu bench` in the window.

use std::time::SystemTime;

use eframe::egui::{self, Button, Frame, RichText, ScrollArea, Ui};

use super::{hint, ESCAPE, SAVE};
use crate::app::bench_state::LIMITS;
use crate::app::messages::Browse;
use crate::app::state::State;
use crate::bench::utc;
use crate::bench_cells::{cells, HEADINGS, WORDS};

pub fn show(state: &mut State, ui: &mut Ui) {
    let frame = Frame::side_top_panel(ui.style()).inner_margin(12);
    egui::Panel::top("bench options").frame(frame).show(ui, |ui| options(state, ui));
    let frame = Frame::central_panel(ui.style()).inner_margin(12).fill(ui.visuals().extreme_bg_color);
    egui::CentralPanel::default().frame(frame).show(ui, |ui| table(state, ui));
}

fn options(state: &mut State, ui: &mut Ui) {
    let running = state.bench.running();
    ui.add_enabled_ui(!running, |ui| {
        ui.horizontal_wrapped(|ui| {
            ui.label("Measure");
            for (suite, on) in &mut state.bench.suites {
                ui.checkbox(on, suite.to_string());
            }
            ui.separator();
            ui.label("with models of");
            for (name, on) in &mut state.bench.sizes {
                ui.checkbox(on, *name);
            }
            ui.separator();
            ui.label("in about");
            egui::ComboBox::from_id_salt("limit")
                .selected_text(format!("{} s", state.bench.limit_s))
                .width(80.0)
                .show_ui(ui, |ui| {
                    for limit in LIMITS {
                        ui.selectable_value(&mut state.bench.limit_s, limit, format!("{limit} s"));
                    }
                });
        });
    });
    ui.horizontal_wrapped(|ui| {
        if let Some(progress) = state.bench.progress.clone() {
            let stop = Button::new(RichText::new("Stop").strong()).shortcut_text(hint(ui, &ESCAPE));
            if ui.add_enabled(!progress.stopping, stop).clicked() {
                state.bench.stop();
            }
            let share = if progress.total == 0 { 0.0 } else { progress.done as f32 / progress.total as f32 };
            ui.add(
                egui::ProgressBar::new(share)
                    .desired_width(180.0)
                    .text(format!("{} of {}", progress.done, progress.total)),
            );
            ui.label(if progress.stopping { "stopping after this one".to_owned() } else { progress.what });
        } else {
            let start = Button::new(RichText::new("Measure").strong()).fill(ui.visuals().selection.bg_fill);
            let any = state.bench.suites.iter().any(|(_, on)| *on);
            if ui.add_enabled(any, start).clicked() {
                state.start_bench(utc(SystemTime::now()));
            }
            let save = Button::new("Save as JSON…").shortcut_text(hint(ui, &SAVE));
            if ui.add_enabled(state.bench.report.is_some(), save).clicked() {
                state.ask(Browse::SaveReport);
            }
            if let Some(report) = state.report() {
                let adapter = &report.device.adapter;
                let cut = if report.interrupted { "  ·  stopped: rows are missing" } else { "" };
                let (name, driver) = (&adapter.name, &adapter.driver_info);
                ui.weak(format!("{name} ({})  ·  {driver}  ·  {}{cut}", report.device.backend, report.date));
            } else {
                ui.weak("Models have synthetic weights: nothing is downloaded. Nothing else should run meanwhile.");
            }
        }
    });
}

fn table(state: &State, ui: &mut Ui) {
    let rows = &state.bench.rows;
    if rows.is_empty() {
        ui.add_space(ui.available_height() * 0.35);
        ui.vertical_centered(|ui| {
            ui.heading("Nothing is measured yet");
            ui.weak("Rows appear here as they are measured.");
        });
        return;
    }
    ScrollArea::both().auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().interact_size.y = 18.0;
        egui::Grid::new("rows").striped(true).spacing([16.0, 5.0]).show(ui, |ui| {
            for heading in HEADINGS {
                ui.strong(heading);
            }
            ui.end_row();
            for row in rows {
                for (i, cell) in cells(row).into_iter().enumerate() {
                    if i < WORDS {
                        ui.label(cell);
                    } else {
                        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| ui.monospace(cell));
                    }
                }
                if let Some(reason) = &row.skipped {
                    // The reason at the end: in a column of numbers it would push the rest out of sight.
                    ui.weak("skipped").on_hover_text(reason);
                    (cells(row).len() + 1..HEADINGS.len()).for_each(|_| drop(ui.label("")));
                    ui.weak(reason);
                }
                ui.end_row();
            }
        });
    });
}
