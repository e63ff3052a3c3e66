//! In front of the window: asking for a path, and what is dropped.

use eframe::egui::{self, Align2, Button, Color32, Frame, Id, Key, LayerId, Order, TextEdit, TextStyle, Ui};

use super::bad;
use crate::app::messages::Browse;
use crate::app::settings::Source;
use crate::app::state::State;

pub fn show(state: &mut State, ctx: &egui::Context) {
    let Some(dialog) = state.dialog.clone() else { return };
    let (title, words, action) = match dialog.what {
        Browse::ModelFolder | Browse::ModelFile => (
            "Open a model",
            "A folder with config.json, *.safetensors and tokenizer.json, or one .safetensors file",
            "Open",
        ),
        Browse::OpenState => ("Open a state", "A .mamba-state file of this model", "Open"),
        Browse::SaveState => ("Save the state", "Where the text ends, to go on from here or in a browser", "Save"),
        Browse::SaveReport => {
            ("Save the report", "For mamba-wgpu bench report, which puts several side by side", "Save")
        }
    };
    let response = egui::Modal::new(Id::unique("path")).frame(Frame::popup(&ctx.global_style()).inner_margin(16)).show(
        ctx,
        |ui| {
            ui.set_width(460.0);
            ui.heading(title);
            ui.weak(words);
            path_field(state, ui);
            if let Some(complaint) = &dialog.complaint {
                ui.colored_label(bad(ui), complaint);
            } else if dialog.browsed {
                ui.weak("Nothing was chosen. Where there is no system dialog, type or paste the path.");
            }
            if matches!(dialog.what, Browse::ModelFolder | Browse::ModelFile) {
                recent(state, ui);
            }
            ui.add_space(6.0);
            ui.horizontal(|ui| {
                if ui.add(Button::new(action).fill(ui.visuals().selection.bg_fill)).clicked() {
                    state.confirm();
                }
                match dialog.what {
                    Browse::ModelFolder | Browse::ModelFile => {
                        if ui.button("Browse for a folder…").clicked() {
                            state.browse(Browse::ModelFolder);
                        }
                        if ui.button("… or a file").clicked() {
                            state.browse(Browse::ModelFile);
                        }
                    }
                    what => {
                        if ui.button("Browse…").clicked() {
                            state.browse(what);
                        }
                    }
                }
                if ui.button("Cancel").clicked() {
                    state.dialog = None;
                }
            });
        },
    );
    if response.backdrop_response.clicked() {
        state.dialog = None;
    }
}

fn path_field(state: &mut State, ui: &mut Ui) {
    let Some(dialog) = &mut state.dialog else { return };
    let id = Id::unique("path field");
    let field = ui.add(TextEdit::singleline(&mut dialog.path).id(id).hint_text("path").desired_width(f32::INFINITY));
    if std::mem::take(&mut dialog.fresh) {
        field.request_focus();
    }
    if field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter)) {
        state.confirm();
    }
}

fn recent(state: &mut State, ui: &mut Ui) {
    if state.settings.recent.is_empty() {
        return;
    }
    ui.weak("Opened before");
    for path in state.settings.recent.clone() {
        if ui.add(Button::new(path.display().to_string()).truncate()).clicked() {
            state.open(Source::Path(path));
        }
    }
}

/// What a file held over the window would do.
pub fn drop_target(ctx: &egui::Context) {
    if ctx.input(|input| input.raw.hovered_files.is_empty()) {
        return;
    }
    let painter = ctx.layer_painter(LayerId::new(Order::Foreground, Id::unique("drop")));
    let rect = ctx.content_rect();
    painter.rect_filled(rect, 0.0, Color32::from_black_alpha(190));
    let font = TextStyle::Heading.resolve(&ctx.global_style());
    let words = "Drop a model's folder, a .safetensors file or a .mamba-state file";
    painter.text(rect.center(), Align2::CENTER_CENTER, words, font, Color32::WHITE);
}
