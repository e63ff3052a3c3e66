//! What the model sees: the text coloured by a number a token, a map of the hidden attention, lines over time.

use eframe::egui::{
    self, pos2, vec2, Button, Color32, ColorImage, ComboBox, Frame, Key, Label, Pos2, Rect, RichText, ScrollArea,
    Sense, Shape, Slider, Stroke, TextFormat, TextureHandle, TextureOptions, Ui,
};
use mamba_wgpu::explain::{LayerExplanation, Unit};

use crate::app::explain_state::{ExplainState, Explained, Map, Tint, MOST};
use crate::app::state::State;

pub fn show(state: &mut State, ui: &mut Ui) {
    let frame = Frame::side_top_panel(ui.style()).inner_margin(12);
    egui::Panel::top("explain options").frame(frame).show(ui, |ui| controls(state, ui));
    let frame = Frame::central_panel(ui.style()).inner_margin(16).fill(ui.visuals().extreme_bg_color);
    egui::CentralPanel::default().frame(frame).show(ui, |ui| {
        if state.explain.shown.is_none() {
            ui.add_space(ui.available_height() * 0.35);
            ui.vertical_centered(|ui| {
                ui.heading("Nothing is explained yet");
                ui.weak(
                    "Shows which earlier tokens each token's output holds, layer by layer, and what the states keep.",
                );
            });
            return;
        }
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| view(&mut state.explain, ui));
    });
}

fn controls(state: &mut State, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        let explain = Button::new(RichText::new("Explain the text").strong()).fill(ui.visuals().selection.bg_fill);
        let words = format!("The text of the Write tab, or the prompt where there is none; at most {MOST} tokens");
        if ui.add_enabled(state.can_generate(), explain).on_hover_text(words).clicked() {
            state.explain_text();
        }
        if let Some((done, total)) = state.explain.progress {
            let share = if total == 0 { 0.0 } else { done as f32 / total as f32 };
            ui.add(egui::ProgressBar::new(share).desired_width(160.0).text(format!("layer {done} of {total}")));
        }
        let Some(shown) = state.explain.shown.clone() else { return };
        let explain = &mut state.explain;
        ui.separator();
        let layers = shown.explanation.layers.len();
        ui.label("Layer");
        ui.add(Slider::new(&mut explain.layer, 0..=layers.saturating_sub(1)));
        let unit = shown.explanation.layers.get(explain.layer).map_or(Unit::Channel, |layer| layer.units.kind);
        ui.label("Map");
        ComboBox::from_id_salt("map").selected_text(explain.map.name(unit)).width(170.0).show_ui(ui, |ui| {
            for map in Map::ALL {
                ui.selectable_value(&mut explain.map, map, map.name(unit));
            }
        });
        ui.label("Colour of the text");
        ComboBox::from_id_salt("tint").selected_text(explain.tint.name()).width(240.0).truncate().show_ui(ui, |ui| {
            for tint in Tint::ALL {
                ui.selectable_value(&mut explain.tint, tint, tint.name());
            }
        });
        if shown.left_out > 0 {
            ui.weak(format!("the first {MOST} tokens; {} more are left out", shown.left_out));
        }
    });
}

fn view(state: &mut ExplainState, ui: &mut Ui) {
    let Some(shown) = state.shown.clone() else { return };
    let Some(layer) = shown.explanation.layers.get(state.layer) else { return };
    let (l, values) = (shown.pieces.len(), state.map_of(layer));
    let id = ui.scope_id().with("pair");
    // The pair under the pointer when the last frame was drawn, or the chosen one.
    let (i, j) = ui.data(|data| data.get_temp(id)).unwrap_or(state.pinned);
    let (i, j) = state.pair(i, j);
    let mut hovered = None;

    // A long text scrolls by itself: the map stays in sight.
    let most = (ui.available_height() * 0.28).max(76.0);
    let token = ScrollArea::vertical().id_salt("strip").max_height(most).show(ui, |ui| {
        ui.set_width(ui.available_width());
        strip(state, &shown, layer, (i, j), ui)
    });
    if let Some(token) = token.inner {
        hovered = Some(state.pair(token, j));
    }
    ui.add_space(10.0);
    let size = (ui.available_width() * 0.58).min(ui.available_height().max(360.0) - 16.0).clamp(240.0, 760.0);
    ui.horizontal_top(|ui| {
        if let Some(pair) = map(state, values, l, size, (i, j), ui) {
            hovered = Some(state.pair(pair.0, pair.1));
        }
        ui.add_space(12.0);
        ui.vertical(|ui| {
            readout(&shown, layer, state.map, values, (i, j), ui);
            for (name, about, line) in [
                ("delta", "Step size: how far a token opens the gate", &layer.delta),
                ("exp(delta A)", "What a token leaves of the state before it", &layer.forget),
                ("|h|", "Size of the state after each token", &layer.state_norm),
            ] {
                if let Some(token) = chart(name, about, line, i, ui) {
                    hovered = Some(state.pair(token, j));
                }
            }
        });
    });
    if let (Some(pair), true) = (hovered, ui.input(|input| input.pointer.primary_pressed())) {
        state.pinned = pair;
    }
    ui.data_mut(|data| {
        data.remove::<(usize, usize)>(id);
        if let Some(pair) = hovered {
            data.insert_temp(id, pair);
        }
    });
    if hovered.unwrap_or(state.pinned) != (i, j) {
        ui.ctx().request_repaint();
    }
}

/// Colours of none, of the most, and of the most below zero.
fn colours(ui: &Ui) -> [Color32; 3] {
    match ui.visuals().dark_mode {
        true => [Color32::from_rgb(25, 32, 42), Color32::from_rgb(94, 234, 212), Color32::from_rgb(251, 146, 60)],
        false => [Color32::WHITE, Color32::from_rgb(6, 78, 72), Color32::from_rgb(180, 50, 8)],
    }
}

/// The text; gives the token under the pointer.
fn strip(
    state: &ExplainState,
    shown: &Explained,
    layer: &LayerExplanation,
    (i, j): (usize, usize),
    ui: &mut Ui,
) -> Option<usize> {
    let [_, most, _] = colours(ui);
    let mut job = egui::text::LayoutJob::default();
    job.wrap.max_width = ui.available_width();
    let ink = ui.visuals().strong_text_color();
    for (t, (piece, share)) in shown.pieces.iter().zip(state.tints(layer, i)).enumerate() {
        let mut format = TextFormat::simple(egui::FontId::proportional(15.0), ink);
        format.line_height = Some(24.0);
        format.background = most.gamma_multiply(0.6 * share);
        if t == i || t == j {
            format.underline = Stroke::new(if t == i { 2.0 } else { 1.0 }, ink);
        }
        job.append(piece, 0.0, format);
    }
    let (at, galley, response) = Label::new(job).selectable(false).sense(Sense::click()).layout_in_ui(ui);
    ui.painter().galley(at, galley.clone(), ink);
    let pointer = response.hover_pos()?;
    let mut character = galley.cursor_from_pos(pointer - at).index.0;
    for (t, piece) in shown.pieces.iter().enumerate() {
        let length = piece.chars().count();
        if character < length {
            return Some(t);
        }
        character -= length;
    }
    None
}

/// The heat map; gives the pair under the pointer.
fn map(
    state: &mut ExplainState,
    values: &[f32],
    l: usize,
    size: f32,
    (i, j): (usize, usize),
    ui: &mut Ui,
) -> Option<(usize, usize)> {
    let texture = picture(state, values, l, ui);
    let (rect, response) = ui.allocate_exact_size(vec2(size, size), Sense::click());
    let painter = ui.painter_at(rect.expand(1.0));
    painter.image(texture.id(), rect, Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0)), Color32::WHITE);
    let border = ui.visuals().widgets.noninteractive.bg_stroke;
    painter.rect_stroke(rect, 0.0, border, egui::StrokeKind::Inside);
    // The chosen pair: its row as far as the diagonal, its column from there on.
    let cell = size / l as f32;
    let mark = Stroke::new(1.0, ui.visuals().strong_text_color());
    let row = Rect::from_min_size(rect.min + vec2(0.0, i as f32 * cell), vec2((i + 1) as f32 * cell, cell.max(1.0)));
    let column =
        Rect::from_min_size(rect.min + vec2(j as f32, j as f32) * cell, vec2(cell.max(1.0), (l - j) as f32 * cell));
    painter.rect_stroke(row, 0.0, mark, egui::StrokeKind::Inside);
    painter.rect_stroke(column, 0.0, mark, egui::StrokeKind::Inside);
    let words = "Row i, column j:\nhow much of token j's input\nthe output at token i holds";
    let font = egui::FontId::proportional(12.0);
    let weak = ui.visuals().weak_text_color();
    painter.text(rect.right_top() + vec2(-10.0, 10.0), egui::Align2::RIGHT_TOP, words, font, weak);
    if response.clicked() {
        response.request_focus();
    }
    if response.has_focus() {
        let (mut down, mut right) = (0, 0);
        ui.input_mut(|input| {
            for (key, d, r) in
                [(Key::ArrowUp, -1, 0), (Key::ArrowDown, 1, 0), (Key::ArrowLeft, 0, -1), (Key::ArrowRight, 0, 1)]
            {
                let n = input.count_and_consume_key(egui::Modifiers::NONE, key) as isize;
                (down, right) = (down + d * n, right + r * n);
            }
        });
        ui.memory_mut(|memory| {
            let filter = egui::EventFilter { horizontal_arrows: true, vertical_arrows: true, ..Default::default() };
            memory.set_focus_lock_filter(response.id, filter);
        });
        state.step(down, right);
    }
    let at = (response.hover_pos()? - rect.min) / cell;
    Some((at.y.max(0.0) as usize, at.x.max(0.0) as usize))
}

/// The map as a texture, made anew only when it is another one. A pixel a pair.
fn picture(state: &ExplainState, values: &[f32], l: usize, ui: &Ui) -> TextureHandle {
    type Kept = ((u64, usize, Map, bool), TextureHandle);
    let key = (state.version, state.layer, state.map, ui.visuals().dark_mode);
    let id = egui::Id::unique("attention map");
    if let Some((_, texture)) = ui.data(|data| data.get_temp::<Kept>(id)).filter(|(kept, _)| *kept == key) {
        return texture;
    }
    let [none, most, below] = colours(ui);
    let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let pixel = |x: &f32| {
        let share = if largest > 0.0 { (x.abs() / largest).sqrt() } else { 0.0 };
        none.lerp_to_gamma(if *x < 0.0 { below } else { most }, share)
    };
    let image = ColorImage::new([l, l], values.iter().map(pixel).collect());
    let texture = ui.ctx().load_texture("attention", image, TextureOptions::NEAREST);
    ui.data_mut(|data| data.insert_temp::<Kept>(id, (key, texture.clone())));
    texture
}

fn number(x: f32) -> String {
    match x.abs() {
        0.0 => "0".into(),
        size if (0.01..1e4).contains(&size) => format!("{x:.3}"),
        _ => format!("{x:.2e}"),
    }
}

fn readout(shown: &Explained, layer: &LayerExplanation, map: Map, values: &[f32], (i, j): (usize, usize), ui: &mut Ui) {
    let l = shown.pieces.len();
    let quoted = |t: usize| format!("{t}  “{}”", shown.pieces[t].replace('\n', "\\n"));
    let row = &values[i * l..(i + 1) * l];
    let all: f32 = row.iter().map(|x| x.abs()).sum();
    let share = if all > 0.0 { 100.0 * row[j].abs() / all } else { 0.0 };
    let pair = |of: &[f32]| format!("{} at i, {} at j", number(of[i]), number(of[j]));
    let alpha = if map == Map::Magnitude { "|alpha(i, j)|" } else { "alpha(i, j)" };
    ui.spacing_mut().interact_size.y = 18.0;
    egui::Grid::new("readout").num_columns(2).spacing([14.0, 3.0]).show(ui, |ui| {
        for (name, value) in [
            ("i, which reads", quoted(i)),
            ("j, which is read", quoted(j)),
            (alpha, format!("{}, {share:.1}% of its row", number(row[j]))),
            ("delta", pair(&layer.delta)),
            ("exp(delta A)", pair(&layer.forget)),
            ("|h|", pair(&layer.state_norm)),
        ] {
            ui.weak(name);
            ui.label(value);
            ui.end_row();
        }
    });
}

/// A line over the tokens; gives the one under the pointer.
fn chart(name: &str, about: &str, values: &[f32], i: usize, ui: &mut Ui) -> Option<usize> {
    let (least, most) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        ui.strong(name).on_hover_text(about);
        ui.weak(format!("{} to {}", number(least), number(most)));
    });
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width().max(80.0), 54.0), Sense::hover());
    let painter = ui.painter_at(rect);
    painter.rect_filled(rect, 4.0, ui.visuals().faint_bg_color);
    let x = |t: usize| rect.left() + (t as f32 + 0.5) / values.len() as f32 * rect.width();
    let range = if most > least { most - least } else { 1.0 };
    let y = |value: f32| rect.bottom() - 4.0 - (value - least) / range * (rect.height() - 8.0);
    let points = values.iter().enumerate().map(|(t, value)| pos2(x(t), y(*value))).collect();
    let [_, colour, _] = colours(ui);
    painter.vline(x(i), rect.y_range(), Stroke::new(1.0, ui.visuals().weak_text_color()));
    painter.add(Shape::line(points, Stroke::new(1.5, colour)));
    let at = (response.hover_pos()?.x - rect.left()) / rect.width();
    Some((at.max(0.0) * values.len() as f32) as usize)
}
