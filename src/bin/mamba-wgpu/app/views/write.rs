//! The tab where text is written: what there is, the prompt, how to draw tokens, points to go back to.

use eframe::egui::{self, text::LayoutJob, Button, DragValue, Frame, RichText, ScrollArea, TextEdit, TextFormat, Ui};
use mamba_wgpu::generate::FinishReason;

use super::{hint, CONTINUE, ESCAPE, FORK, GENERATE, OPEN_STATE, SAVE};
use crate::app::messages::{Browse, Speed};
use crate::app::settings::Sampling;
use crate::app::state::{Activity, Model, State};

pub fn show(state: &mut State, ui: &mut Ui) {
    let frame = Frame::side_top_panel(ui.style()).inner_margin(12);
    egui::Panel::right("sampling").frame(frame).default_size(270.0).size_range(200.0..=420.0).show(ui, |ui| {
        ScrollArea::vertical().show(ui, |ui| {
            sampling(&mut state.settings.sampling, ui);
            ui.add_space(10.0);
            points(state, ui);
        });
    });
    let frame = Frame::side_top_panel(ui.style()).inner_margin(12);
    egui::Panel::bottom("prompt").frame(frame).show(ui, |ui| prompt(state, ui));
    let frame = Frame::central_panel(ui.style()).inner_margin(16).fill(ui.visuals().extreme_bg_color);
    egui::CentralPanel::default().frame(frame).show(ui, |ui| text(state, ui));
}

fn text(state: &State, ui: &mut Ui) {
    if state.text.is_empty() {
        let (title, words) = match &state.model {
            Model::Ready(_) => (
                "Nothing is written yet",
                "Type the beginning of a text below and press Generate. The model goes on from there.".to_owned(),
            ),
            Model::Loading { .. } => ("The model is on its way", String::new()),
            Model::None => {
                ("No model is loaded", "Open one by the menu at the top, or drop its folder here.".to_owned())
            }
        };
        ui.add_space(ui.available_height() * 0.35);
        ui.vertical_centered(|ui| {
            ui.heading(title);
            ui.weak(words);
        });
        return;
    }
    ScrollArea::vertical().auto_shrink(false).stick_to_bottom(true).show(ui, |ui| {
        let mut job = LayoutJob::default();
        job.wrap.max_width = ui.available_width().min(820.0);
        let (given, written) = (ui.visuals().weak_text_color(), ui.visuals().strong_text_color());
        for segment in state.text.segments() {
            let colour = if segment.generated { written } else { given };
            let mut format = TextFormat::simple(egui::FontId::proportional(16.0), colour);
            format.line_height = Some(24.0);
            job.append(&segment.text, 0.0, format);
        }
        ui.add(egui::Label::new(job).selectable(true));
    });
}

fn prompt(state: &mut State, ui: &mut Ui) {
    let edit = TextEdit::multiline(&mut state.settings.prompt)
        .id(egui::Id::unique("prompt text"))
        .hint_text("The beginning of a text")
        .desired_rows(3)
        .desired_width(f32::INFINITY)
        .font(egui::FontId::proportional(15.0));
    ScrollArea::vertical().id_salt("prompt scroll").max_height(140.0).show(ui, |ui| ui.add(edit));
    ui.horizontal_wrapped(|ui| {
        let writing = matches!(state.activity, Activity::Reading { .. } | Activity::Writing | Activity::Stopping);
        if writing {
            let stop = Button::new(RichText::new("Stop").strong()).shortcut_text(hint(ui, &ESCAPE));
            if ui.add_enabled(state.activity != Activity::Stopping, stop).clicked() {
                state.stop();
            }
        } else {
            let generate = Button::new(RichText::new("Generate").strong())
                .fill(ui.visuals().selection.bg_fill)
                .shortcut_text(hint(ui, &GENERATE));
            let can = state.can_generate() && !state.settings.prompt.is_empty();
            if ui.add_enabled(can, generate).on_hover_text("A new text from this prompt").clicked() {
                state.generate();
            }
        }
        let can = state.can_continue();
        let more = Button::new("Continue").shortcut_text(hint(ui, &CONTINUE));
        if ui.add_enabled(can, more).on_hover_text("More of the text above").clicked() {
            state.continue_text();
        }
        let add = ui.add_enabled(can && !state.settings.prompt.is_empty(), Button::new("Add and go on"));
        if add.on_hover_text("Puts the prompt at the end of the text above, and goes on from there").clicked() {
            state.add_prompt();
        }
    });
    // Kept free before there is a text too, so that nothing jumps.
    let words = state.speed.as_ref().map_or_else(String::new, |speed| in_words(speed, state.finish, state.seed));
    ui.weak(words);
}

fn in_words(speed: &Speed, finish: Option<FinishReason>, seed: Option<u64>) -> String {
    let mut parts = vec![format!("{} tokens", speed.stats.generated_tokens)];
    if let Some(rate) = speed.decode_rate {
        parts.push(format!("{rate:.1} tokens/s"));
    }
    if let Some(first) = speed.first_token {
        parts.push(format!("first after {:.0} ms", first.as_secs_f64() * 1e3));
    }
    if let Some(memory) = speed.memory {
        parts.push(format!("{:.1} MiB on the GPU", memory as f64 / 1048576.0));
    }
    if let Some(finish) = finish {
        parts.push(match finish {
            FinishReason::Stop => "a stop string came".into(),
            FinishReason::Length => "as many as asked for".into(),
            FinishReason::Eos => "the model ended it".into(),
            FinishReason::Cancelled => "stopped".into(),
        });
        parts.extend(seed.map(|seed| format!("seed {seed}")));
    }
    parts.join("  ·  ")
}

fn sampling(sampling: &mut Sampling, ui: &mut Ui) {
    ui.heading("Sampling");
    egui::Grid::new("sampling").num_columns(2).spacing([10.0, 6.0]).show(ui, |ui| {
        let mut row = |name: &str, about: &str, value: DragValue<'_>| {
            let label = ui.label(name).on_hover_text(about);
            ui.add_sized([92.0, 24.0], value).on_hover_text(about).labelled_by(label.id);
            ui.end_row();
        };
        row(
            "Temperature",
            "How adventurous: 0 always takes the most likely token",
            DragValue::new(&mut sampling.temperature).speed(0.01).range(0.0..=10.0).max_decimals(2),
        );
        row(
            "Top-k",
            "Choose among so many of the most likely tokens; 0 is all",
            DragValue::new(&mut sampling.top_k).speed(0.5),
        );
        row(
            "Top-p",
            "Choose among the most likely tokens that together have this probability; 1 is all",
            DragValue::new(&mut sampling.top_p).speed(0.005).range(0.001..=1.0).max_decimals(3),
        );
        row(
            "Min-p",
            "Choose among tokens at least this many times as likely as the most likely one; 0 is all",
            DragValue::new(&mut sampling.min_p).speed(0.005).range(0.0..=1.0).max_decimals(3),
        );
        row(
            "Repetition penalty",
            "Make tokens that were there before less likely; 1 is off",
            DragValue::new(&mut sampling.repetition_penalty).speed(0.005).range(0.01..=10.0).max_decimals(2),
        );
        row("Tokens", "How many at most", DragValue::new(&mut sampling.max_tokens).speed(1.0).range(1..=1_000_000));
        let mut own = sampling.seed.is_some();
        ui.checkbox(&mut own, "Seed").on_hover_text("Same seed, same text; without one another text each time");
        if own != sampling.seed.is_some() {
            sampling.seed = own.then_some(0);
        }
        match &mut sampling.seed {
            Some(seed) => ui.add_sized([92.0, 24.0], DragValue::new(seed)),
            None => ui.weak("another each time"),
        };
        ui.end_row();
    });
    ui.label("Stop before").on_hover_text("One string a line; \\n is a line break, \\t a tab, \\\\ a backslash");
    ui.add(
        TextEdit::multiline(&mut sampling.stop)
            .hint_text("one string a line; \\n is a line break")
            .desired_rows(2)
            .desired_width(f32::INFINITY),
    );
    ui.checkbox(&mut sampling.ignore_eos, "Go on where the model ends its text");
    if *sampling != Sampling::default() && ui.button("Back to the defaults").clicked() {
        *sampling = Sampling::default();
    }
}

/// States: files, branches, earlier tokens.
fn points(state: &mut State, ui: &mut Ui) {
    ui.heading("Points to go back to");
    let can = state.can_continue();
    ui.horizontal_wrapped(|ui| {
        let fork = ui.add_enabled(can, Button::new("Keep this point"));
        if fork.on_hover_text(format!("A branch to come back to ({})", hint(ui, &FORK))).clicked() {
            state.fork();
        }
        let save = ui.add_enabled(can, Button::new("Save…"));
        if save.on_hover_text(format!("The state, to a file ({})", hint(ui, &SAVE))).clicked() {
            state.ask(Browse::SaveState);
        }
        let open = ui.add_enabled(state.can_generate(), Button::new("Open…"));
        if open.on_hover_text(format!("A state from a file ({})", hint(ui, &OPEN_STATE))).clicked() {
            state.ask(Browse::OpenState);
        }
    });
    if can && state.tokens > 1 {
        ui.horizontal(|ui| {
            let id = ui.scope_id().with("rewind");
            // Chosen for a text of this length.
            let chosen = ui.data(|data| data.get_temp::<(usize, usize)>(id)).filter(|(of, _)| *of == state.tokens);
            let mut to = chosen.map_or(state.tokens, |(_, to)| to);
            ui.label("Back to token");
            ui.add(DragValue::new(&mut to).range(1..=state.tokens).speed(1.0));
            ui.weak(format!("of {}", state.tokens));
            if ui.add_enabled(to < state.tokens, Button::new("Go")).clicked() {
                state.rewind(to);
            }
            ui.data_mut(|data| data.insert_temp(id, (state.tokens, to)));
        });
    }
    let mut gone = None;
    for i in 0..state.branches.len() {
        ui.separator();
        ui.horizontal(|ui| {
            let name = TextEdit::singleline(&mut state.branches[i].name).desired_width(110.0);
            ui.add(name).on_hover_text("Its name");
            if ui.add_enabled(state.can_generate(), Button::new("Go back")).clicked() {
                state.restore(i);
            }
            if ui.button("Forget").on_hover_text("Forget this branch").clicked() {
                gone = Some(i);
            }
        });
        let branch = &state.branches[i];
        ui.weak(format!("{} tokens: … {}", branch.state.tokens.len(), branch.text.ending()));
    }
    if let Some(i) = gone {
        state.branches.remove(i);
    }
}
