//! The window's logic without a window: commands that come out, what is shown after events.

use std::path::{Path, PathBuf};

use super::*;
use crate::app::document::Segment;
use crate::app::messages::Browse;
use crate::app::settings::Sampling;
use crate::app::worker::Devices;
use mamba_wgpu::generate::{GenerationSettings, Stats};
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::model::{embedded, ModelId, StateData};

fn gpu() -> Device {
    Device::Adapter { name: "A".into(), backend: "vulkan".into() }
}

fn info(source: Source, on: Device) -> Box<ModelInfo> {
    Box::new(ModelInfo {
        source,
        description: "a model".into(),
        parameters: 1,
        weight_bytes: 1,
        device: "A (vulkan)".into(),
        on,
        shared: true,
        memory: Some(1),
        sampling: GenerationSettings::default(),
        warnings: vec![],
    })
}

fn adapter(name: &str, device_type: &str) -> AdapterSummary {
    let zero =
        ["index", "subgroup_min_size", "subgroup_max_size", "max_buffer_size", "max_storage_buffer_binding_size"];
    let zero = zero.into_iter().chain(["max_compute_workgroup_storage_size", "max_compute_invocations_per_workgroup"]);
    let mut fields: serde_json::Map<String, serde_json::Value> = zero.map(|key| (key.into(), 0.into())).collect();
    let flags = ["shader_f16", "subgroups", "timestamp_query", "cooperative_matrix"].map(|key| (key, false));
    fields.extend(flags.into_iter().chain([("compute", true)]).map(|(key, flag)| (key.into(), flag.into())));
    let words =
        [("name", name), ("device_type", device_type), ("backend", "vulkan"), ("driver", ""), ("driver_info", "")];
    fields.extend(words.map(|(key, word)| (key.into(), word.into())));
    serde_json::from_value(fields.into()).unwrap()
}

/// With the embedded model loaded, and no command left.
fn ready() -> State {
    let mut state = State::new(Settings::default());
    state.open(Source::Embedded);
    state.apply(Event::Loaded(info(Source::Embedded, gpu())));
    state.take_commands();
    state
}

#[test]
fn a_model_that_says_how_it_is_drawn_from_sets_those_fields() {
    let mut state = ready();
    let before = Sampling { top_k: 7, ..state.settings.sampling.clone() };
    state.settings.sampling = before.clone();
    let source = Source::Path("/models/m".into());
    state.open(source.clone());
    let mut info = info(source, gpu());
    info.sampling = GenerationSettings { temperature: Some(0.5), stop: Some(vec!["\n".into()]), ..Default::default() };
    state.apply(Event::Loaded(info));
    assert_eq!(state.settings.sampling, Sampling { temperature: 0.5, stop: "\\n".into(), ..before });
}

fn piece(text: &str) -> Event {
    let stats = Stats { prompt_tokens: 3, generated_tokens: 1, unknown_tokens: 0 };
    Event::Piece { text: text.into(), speed: Speed { stats, ..Speed::default() } }
}

fn finished(reason: FinishReason, tokens: usize) -> Event {
    Event::Finished { reason, speed: Speed::default(), tokens }
}

/// A text "Emma went", of 4 tokens.
fn written() -> State {
    let mut state = ready();
    state.settings.prompt = "Emma".into();
    state.generate();
    state.take_commands();
    state.apply(Event::Began { text: "Emma".into(), seed: 5 });
    state.apply(piece(" went"));
    state.apply(finished(FinishReason::Length, 4));
    state
}

fn saved() -> Arc<SavedState> {
    let model = ModelId::of(&embedded::checkpoint().unwrap());
    Arc::new(SavedState { model, tokens: vec![1, 2], consumed: 1, state: StateData::default() })
}

fn segment(text: &str, generated: bool) -> Segment {
    Segment { text: text.into(), generated }
}

#[test]
fn the_fastest_device_is_never_one_in_software() {
    let (hardware, software) = (adapter("A", "IntegratedGpu"), adapter("llvmpipe", "Cpu"));
    let resolve = |list: &[AdapterSummary], device| Devices::new(list.to_vec(), None).resolve(&device);
    assert_eq!(resolve(&[software.clone(), hardware.clone()], Device::Auto), gpu());
    assert_eq!(resolve(std::slice::from_ref(&software), Device::Auto), Device::Cpu);
    assert_eq!(resolve(&[], Device::Auto), Device::Cpu);
    assert_eq!(resolve(std::slice::from_ref(&software), of(&software)), of(&software), "it was chosen");

    let mut state = State::new(Settings::default());
    assert!(state.devices_best_first().is_none(), "they are looked for");
    let mut order = |list: Vec<AdapterSummary>| {
        state.apply(Event::Devices(list));
        state.devices_best_first().unwrap().into_iter().map(|(device, _)| device).collect::<Vec<_>>()
    };
    assert_eq!(order(vec![software.clone()]), [Device::Cpu, of(&software)]);
    assert_eq!(order(vec![hardware, software.clone()]), [gpu(), Device::Cpu, of(&software)]);
}

#[test]
fn a_model_is_opened_remembered_and_checked() {
    let mut state = State::new(Settings::default());
    state.dropped(Path::new("/models/m"));
    let source = Source::Path("/models/m".into());
    let commands = state.take_commands();
    assert!(matches!(&commands[..], [Command::Load { source: s, device: Device::Auto }] if *s == source));
    state.apply(Event::Loading { done: 1, total: 2 });
    assert_eq!(state.model, Model::Loading { source: source.clone(), done: 1, total: 2 });
    state.apply(Event::Loaded(info(source.clone(), gpu())));
    assert_eq!(state.settings.recent, [PathBuf::from("/models/m")]);
    assert!(matches!(&state.take_commands()[..], [Command::Check(device)] if *device == gpu()));
    // The same device again needs no other check.
    state.reload();
    state.apply(Event::Loaded(info(source, gpu())));
    assert!(matches!(&state.take_commands()[..], [Command::Load { .. }]));
}

#[test]
fn a_model_that_fails_leaves_a_way_on_and_is_not_remembered() {
    let mut state = ready();
    let source = Source::Path("/broken".into());
    state.open(source.clone());
    let problem = Problem::new("The model could not be loaded", "config.json").with(&[WayOn::UseEmbedded]);
    state.apply(Event::LoadFailed { source, problem });
    assert_eq!((state.model.clone(), state.settings.recent.len()), (Model::None, 0));
    state.generate();
    state.take_commands();
    state.take(WayOn::UseEmbedded);
    assert!(matches!(&state.take_commands()[..], [Command::Load { source: Source::Embedded, .. }]));
    assert_eq!(state.problem, None);
    // News of a model that nobody waits for any more change nothing.
    state.apply(Event::LoadFailed { source: Source::Path("/x".into()), problem: Problem::new("x", "y") });
    assert!(state.problem.is_none() && matches!(state.model, Model::Loading { .. }));
}

#[test]
fn text_comes_in_pieces_and_goes_on() {
    let mut state = written();
    assert_eq!(state.text.segments(), [segment("Emma", false), segment(" went", true)]);
    assert_eq!((state.activity, state.finish, state.seed), (Activity::Idle, Some(FinishReason::Length), Some(5)));
    state.continue_text();
    assert!(matches!(&state.take_commands()[..], [Command::Generate { start: Start::Continue, .. }]));
    assert!(!state.can_generate(), "one at a time");
    state.generate();
    assert!(state.take_commands().is_empty());
    // What a stop string had hidden shows now.
    state.apply(Event::Began { text: "Emma went.".into(), seed: 5 });
    state.apply(piece(" She"));
    let want = [segment("Emma", false), segment(" went", true), segment(".", false), segment(" She", true)];
    assert_eq!(state.text.segments(), want);
    // A new text takes the place of the old one.
    state.apply(finished(FinishReason::Stop, 6));
    state.settings.prompt = "Em".into();
    state.generate();
    state.apply(Event::Began { text: "Em".into(), seed: 5 });
    assert_eq!(state.text.segments(), [segment("Em", false)]);
}

#[test]
fn stopping_sets_the_flag_of_this_text_only() {
    let mut state = ready();
    state.generate();
    let commands = state.take_commands();
    let [Command::Generate { options: first, .. }] = &commands[..] else { panic!("{commands:?}") };
    state.apply(piece("a"));
    state.escape();
    assert!(first.cancel.load(Ordering::Relaxed));
    state.apply(piece("b"));
    assert_eq!(state.activity, Activity::Stopping, "until its end is heard of");
    state.apply(finished(FinishReason::Cancelled, 3));
    state.generate();
    let commands = state.take_commands();
    let [Command::Generate { options, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert!(!options.cancel.load(Ordering::Relaxed));
}

#[test]
fn sampling_reaches_the_model_and_bad_values_do_not() {
    let mut state = ready();
    state.settings.sampling.temperature = 0.25;
    state.settings.sampling.seed = Some(11);
    state.settings.sampling.stop = "END".into();
    state.generate();
    let commands = state.take_commands();
    let [Command::Generate { options, start: Start::Prompt(_) }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((options.params.temperature, options.params.seed), (0.25, 11));
    assert_eq!((options.max_tokens, &options.stop[..]), (128, &["END".to_owned()][..]));
    state.apply(finished(FinishReason::Length, 1));
    state.settings.sampling.top_p = f32::NAN;
    state.generate();
    assert!(state.take_commands().is_empty());
    assert!(state.problem.as_ref().unwrap().message.starts_with("top p is NaN"), "{:?}", state.problem);
    assert!(state.idle());
}

#[test]
fn branches_bring_the_text_back_as_it_was() {
    let mut state = written();
    state.fork();
    assert!(matches!(&state.take_commands()[..], [Command::Fork(name)] if name == "Branch 1"));
    state.apply(Event::Forked { name: "Branch 1".into(), state: saved() });
    assert_eq!(state.branches[0].text.ending(), "Emma went");
    state.continue_text();
    state.apply(Event::Began { text: "Emma went".into(), seed: 5 });
    state.apply(piece(" home"));
    state.apply(finished(FinishReason::Length, 5));
    state.take_commands();
    state.restore(0);
    assert!(matches!(&state.take_commands()[..], [Command::Restore(_)]));
    state.apply(Event::Text { text: "Emma went".into(), tokens: 4, note: None });
    assert_eq!(state.text.segments(), [segment("Emma", false), segment(" went", true)], "colours too");
    state.fork();
    assert!(matches!(&state.take_commands()[..], [Command::Fork(name)] if name == "Branch 2"));
    state.restore(7);
}

#[test]
fn going_back_cuts_within_a_stretch() {
    let mut state = written();
    state.rewind(9);
    assert!(state.take_commands().is_empty(), "there are 4");
    state.rewind(3);
    assert!(matches!(&state.take_commands()[..], [Command::Rewind(3)]));
    state.apply(Event::Text { text: "Emma we".into(), tokens: 3, note: None });
    assert_eq!(state.text.segments(), [segment("Emma", false), segment(" we", true)]);
    // A character of several bytes that differs is not cut in two.
    state.text = vec![segment("né", false)].into();
    state.apply(Event::Text { text: "nè".into(), tokens: 1, note: None });
    assert_eq!(state.text.segments(), [segment("nè", false)]);
}

#[test]
fn paths_are_looked_at_before_they_are_used() {
    let mut state = written();
    state.ask(Browse::ModelFolder);
    state.confirm();
    assert!(state.dialog.as_ref().unwrap().complaint.as_ref().unwrap().contains("no path"));
    state.dialog.as_mut().unwrap().path = "/no/such".into();
    state.confirm();
    assert!(state.dialog.as_ref().unwrap().complaint.as_ref().unwrap().contains("/no/such"));
    state.apply(Event::Browsed { what: Browse::ModelFolder, path: None });
    assert!(state.dialog.as_ref().unwrap().browsed);
    state.escape();
    assert_eq!(state.dialog, None);
    let folder = tempfile::tempdir().unwrap();
    state.ask(Browse::SaveState);
    state.dialog.as_mut().unwrap().path = folder.path().display().to_string();
    state.confirm();
    assert!(state.dialog.as_ref().unwrap().complaint.as_ref().unwrap().contains("add a name"));
    let file = folder.path().join("a.mamba-state");
    state.dialog.as_mut().unwrap().path = file.display().to_string();
    state.confirm();
    assert!(matches!(&state.take_commands()[..], [Command::SaveState(path)] if *path == file));
    assert!(!state.can_generate());
    state.apply(Event::Saved(file));
    assert!(state.idle() && state.note.is_some());
}

#[test]
fn what_cannot_be_done_now_is_not_asked_for() {
    let mut state = State::new(Settings::default());
    for what in [Browse::OpenState, Browse::SaveState, Browse::SaveReport] {
        state.ask(what);
    }
    assert_eq!(state.dialog, None);
    state.generate();
    state.continue_text();
    state.fork();
    state.rewind(0);
    state.stop();
    assert!(state.take_commands().is_empty());
    let mut state = ready();
    state.generate();
    state.take_commands();
    state.dropped(Path::new("/a/text.mamba-state"));
    assert!(state.take_commands().is_empty() && state.problem.is_some());
}

#[test]
fn a_failed_check_switches_off_and_loads_again() {
    let mut state = ready();
    let verdict = Verdict {
        passed: false,
        usable: true,
        words: "1 failed".into(),
        details: vec!["matvec".into()],
        switched_off: vec![Variant::Matvec],
    };
    state.apply(Event::Checked { device: gpu(), verdict: Ok(verdict.clone()) });
    let commands = state.take_commands();
    assert!(matches!(&commands[..], [Command::SwitchOff { .. }, Command::Load { .. }]), "{commands:?}");
    assert!(state.problem.is_none());
    let mut state = ready();
    let useless = Verdict { usable: false, switched_off: vec![], ..verdict };
    state.apply(Event::Checked { device: gpu(), verdict: Ok(useless.clone()) });
    assert_eq!(state.problem.as_ref().unwrap().ways, [WayOn::UseCpu]);
    state.take(WayOn::UseCpu);
    assert!(matches!(&state.take_commands()[..], [Command::Load { device: Device::Cpu, .. }]));
    // Of another device it is only noted.
    let mut state = ready();
    state.apply(Event::Checked { device: Device::Cpu, verdict: Ok(useless) });
    assert!(state.problem.is_none() && state.check_of(&Device::Cpu).is_some());
}

#[test]
fn a_new_device_takes_the_same_model() {
    let mut state = ready();
    state.choose_device(Device::Auto);
    assert!(state.take_commands().is_empty(), "no change");
    state.choose_device(Device::Cpu);
    let commands = state.take_commands();
    assert!(matches!(&commands[..], [Command::Load { source: Source::Embedded, device: Device::Cpu }]), "{commands:?}");
}

#[test]
fn the_bench_runs_beside_the_text() {
    let mut state = written();
    state.tab = Tab::Bench;
    state.start_bench("now".into());
    assert!(matches!(&state.take_commands()[..], [Command::Bench { device, .. }] if *device == gpu()));
    assert!(state.can_generate());
    state.escape();
    assert!(state.bench.progress.as_ref().unwrap().stopping);
    state.apply(Event::BenchFailed(Problem::new("t", "m")));
    assert!(!state.bench.running() && state.problem.is_some());
}

#[test]
fn what_is_explained_is_the_text_or_else_the_prompt() {
    let mut state = ready();
    state.settings.prompt = "Begin".into();
    state.explain_text();
    assert!(matches!(&state.take_commands()[..], [Command::Explain(text)] if text == "Begin"));
    assert!(!state.can_generate() && state.explain.progress.is_some());
    state.apply(Event::Failed(Problem::new("t", "m")));
    assert!(state.idle() && state.explain.progress.is_none());
    let mut state = written();
    state.explain_text();
    assert!(matches!(&state.take_commands()[..], [Command::Explain(text)] if text == "Emma went"));
}
