//! Drawing, and nothing else: what is shown is in [`State`], and every button calls one of its methods.

mod bench;
mod device;
mod dialog;
mod explain;
mod write;

use eframe::egui::{self, Align, Button, Color32, Frame, Key, KeyboardShortcut, Layout, Modifiers, RichText, Ui};

use super::messages::Browse;
use super::settings::{Source, Theme};
use super::state::{Activity, Check, Model, State, Tab};

const OPEN: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::O);
const GENERATE: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::Enter);
const CONTINUE: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::Enter);
const SAVE: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::S);
const OPEN_STATE: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::O);
const FORK: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::B);
const ESCAPE: KeyboardShortcut = KeyboardShortcut::new(Modifiers::NONE, Key::Escape);
const NUMBERS: [Key; 9] =
    [Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6, Key::Num7, Key::Num8, Key::Num9];

/// Colours with a meaning, readable on both grounds.
pub fn good(ui: &Ui) -> Color32 {
    if ui.visuals().dark_mode {
        Color32::from_rgb(110, 200, 130)
    } else {
        Color32::from_rgb(20, 120, 50)
    }
}
pub fn bad(ui: &Ui) -> Color32 {
    if ui.visuals().dark_mode {
        Color32::from_rgb(240, 130, 120)
    } else {
        Color32::from_rgb(180, 35, 25)
    }
}

/// The style of both themes.
pub fn set_style(ctx: &egui::Context) {
    ctx.all_styles_mut(|style| {
        style.spacing.item_spacing = egui::vec2(8.0, 6.0);
        style.spacing.button_padding = egui::vec2(10.0, 5.0);
        style.spacing.interact_size.y = 26.0;
        style.text_styles.insert(egui::TextStyle::Body, egui::FontId::proportional(14.0));
        style.text_styles.insert(egui::TextStyle::Button, egui::FontId::proportional(14.0));
        style.text_styles.insert(egui::TextStyle::Small, egui::FontId::proportional(12.0));
        style.text_styles.insert(egui::TextStyle::Heading, egui::FontId::proportional(17.0));
        style.text_styles.insert(egui::TextStyle::Monospace, egui::FontId::monospace(13.0));
        let accent =
            if style.visuals.dark_mode { Color32::from_rgb(60, 110, 190) } else { Color32::from_rgb(150, 195, 250) };
        style.visuals.selection.bg_fill = accent;
        if !style.visuals.dark_mode {
            // egui's light grey on white is too faint to read with ease.
            style.visuals.override_text_color = Some(Color32::from_gray(35));
            style.visuals.panel_fill = Color32::from_gray(246);
            style.visuals.weak_text_color = Some(Color32::from_gray(95));
        } else {
            style.visuals.override_text_color = Some(Color32::from_gray(220));
            style.visuals.weak_text_color = Some(Color32::from_gray(160));
        }
    });
}

/// The keys that work everywhere, before a field gets them.
pub fn keys(state: &mut State, ctx: &egui::Context) {
    let pressed = |shortcut| ctx.input_mut(|input| input.consume_shortcut(&shortcut));
    // The longer combination first: a shorter one would match it too.
    if pressed(OPEN_STATE) {
        state.ask(Browse::OpenState);
    } else if pressed(OPEN) {
        state.ask(Browse::ModelFolder);
    }
    if pressed(CONTINUE) {
        state.continue_text();
    } else if pressed(GENERATE) {
        state.generate();
    }
    if pressed(SAVE) {
        state.ask(if state.tab == Tab::Bench { Browse::SaveReport } else { Browse::SaveState });
    }
    if pressed(FORK) {
        state.fork();
    }
    if pressed(ESCAPE) {
        state.escape();
    }
    for (tab, key) in Tab::ALL.into_iter().zip(NUMBERS) {
        if pressed(KeyboardShortcut::new(Modifiers::COMMAND, key)) {
            state.tab = tab;
        }
    }
}

pub fn window(state: &mut State, ui: &mut Ui) {
    egui::Panel::top("top").frame(bar(ui)).show(ui, |ui| top(state, ui));
    egui::Panel::bottom("status").frame(bar(ui)).show(ui, |ui| status(state, ui));
    problem(state, ui);
    match state.tab {
        Tab::Write => write::show(state, ui),
        Tab::Explain => explain::show(state, ui),
        Tab::Device => device::show(state, ui),
        Tab::Bench => bench::show(state, ui),
    }
    dialog::show(state, ui.ctx());
    dialog::drop_target(ui.ctx());
}

fn bar(ui: &Ui) -> Frame {
    Frame::side_top_panel(ui.style()).inner_margin(egui::Margin::symmetric(12, 7))
}

fn hint(ui: &Ui, shortcut: &KeyboardShortcut) -> String {
    ui.ctx().format_shortcut(shortcut)
}

/// Points below which the bars show less side by side.
const NARROW: f32 = 760.0;

fn top(state: &mut State, ui: &mut Ui) {
    let narrow = ui.available_width() < NARROW;
    ui.horizontal(|ui| {
        for (tab, key) in Tab::ALL.into_iter().zip(NUMBERS) {
            let text = RichText::new(tab.name()).size(15.0);
            let key = hint(ui, &KeyboardShortcut::new(Modifiers::COMMAND, key));
            if ui.selectable_label(state.tab == tab, text).on_hover_text(key).clicked() {
                state.tab = tab;
            }
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            view_menu(state, ui);
            if !narrow {
                device::picker(state, ui);
                model_menu(state, ui);
            }
        });
    });
    if narrow {
        ui.horizontal(|ui| {
            model_menu(state, ui);
            device::picker(state, ui);
        });
    }
}

fn model_menu(state: &mut State, ui: &mut Ui) {
    let name = match &state.model {
        Model::None => "No model".to_owned(),
        Model::Loading { source, .. } => short(source),
        Model::Ready(info) => short(&info.source),
    };
    ui.menu_button(name, |ui| {
        ui.set_min_width(260.0);
        if ui.add(Button::new("Open a folder or file…").shortcut_text(hint(ui, &OPEN))).clicked() {
            state.ask(Browse::ModelFolder);
        }
        if ui.button("The built-in model (Austen and Shakespeare)").clicked() {
            state.open(Source::Embedded);
        }
        if !state.settings.recent.is_empty() {
            ui.separator();
            ui.weak("Opened before");
            for path in state.settings.recent.clone() {
                let source = Source::Path(path);
                if ui.button(short(&source)).on_hover_text(source.to_string()).clicked() {
                    state.open(source);
                }
            }
        }
    })
    .response
    .on_hover_text("The model that writes");
}

/// The last part of a path.
fn short(source: &Source) -> String {
    match source {
        Source::Embedded => "Built-in model".into(),
        Source::Path(path) => {
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
        }
    }
}

fn view_menu(state: &mut State, ui: &mut Ui) {
    ui.menu_button("View", |ui| {
        ui.weak("Colours");
        for theme in Theme::ALL {
            ui.radio_value(&mut state.settings.theme, theme, theme.name());
        }
        ui.separator();
        ui.weak("Size");
        egui::gui_zoom::zoom_menu_buttons(ui);
        ui.separator();
        ui.checkbox(&mut state.settings.check, "Check each device when a model is loaded");
    });
}

fn status(state: &mut State, ui: &mut Ui) {
    let narrow = ui.available_width() < NARROW;
    ui.horizontal(|ui| {
        match &state.model {
            Model::None => {
                ui.label("No model is loaded.");
            }
            Model::Loading { source, done, total } => {
                ui.spinner();
                ui.label(format!("Loading {source}"));
                if *total > 0 {
                    let bar = egui::ProgressBar::new(*done as f32 / *total as f32).desired_width(160.0);
                    ui.add(bar.text(format!("{} of {} MiB", done >> 20, total >> 20)));
                }
            }
            Model::Ready(info) => match state.activity {
                Activity::Idle => {
                    let note = state.note.clone().unwrap_or_else(|| info.description.clone());
                    let room = if narrow { 1.0 } else { 0.6 };
                    ui.scope(|ui| {
                        ui.set_max_width(ui.available_width() * room);
                        ui.add(egui::Label::new(note).truncate());
                    });
                }
                Activity::Reading { done, total } => {
                    ui.spinner();
                    ui.label(format!("Reading the prompt: {done} of {total} tokens"));
                }
                Activity::Writing => {
                    ui.spinner();
                    ui.label("Writing");
                }
                Activity::Stopping => {
                    ui.spinner();
                    ui.label("Stopping");
                }
                Activity::Other(what) => {
                    ui.spinner();
                    ui.label(what);
                }
            },
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if let Some(info) = state.info().filter(|_| !narrow) {
                let shared = if info.shared { "the window's own device" } else { "a device of its own" };
                ui.weak(&info.device).on_hover_text(format!("The model runs on {shared}."));
                if let Some(Check::Running { done, total }) = state.check_of(&info.on) {
                    ui.weak(format!("checking the device: {done} of {total}  ·"));
                }
            }
        });
    });
}

fn problem(state: &mut State, ui: &mut Ui) {
    let Some(problem) = state.problem.clone() else { return };
    let colour = bad(ui);
    let frame = bar(ui).fill(colour.gamma_multiply(0.12));
    egui::Panel::top("problem").frame(frame).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            ui.label(RichText::new(format!("{}.", problem.title.trim_end_matches('.'))).color(colour).strong());
            ui.label(&problem.message);
        });
        ui.horizontal_wrapped(|ui| {
            for way in problem.ways {
                if ui.button(way.label()).clicked() {
                    state.take(way);
                }
            }
            if ui.button("Dismiss").clicked() {
                state.problem = None;
            }
        });
    });
}
