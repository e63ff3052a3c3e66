//! `mamba-wgpu app`: a window to write, compare and measure in.
//!
//! ```text
//! views (drawing) ── calls ──► State ── Command ──► Hub ──► Worker: the model and its text
//!                                ▲                   └────► threads: checks, bench, dialogs
//!                                └────────── Event ◄────────┘
//! ```
//!
//! The window's thread only draws: all that computes or reads files does it elsewhere. The window and the models share one
//! wgpu device where they are on the same adapter.

mod automation;
mod bench_state;
mod document;
mod explain_state;
mod jobs;
mod messages;
mod problem;
mod settings;
mod state;
mod views;
mod window;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use eframe::egui;
use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use mamba_wgpu::gpu::{Gpu, LimitMode};

use crate::bench_report::charts::PICTURE;
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::output::place;
use automation::Automation;
use settings::{Device, Settings, Source, Theme};
use state::{State, Tab};
use window::Window;

/// Open a window: write with a model, keep and compare points of a text, check and measure GPUs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model to open: a folder or a .safetensors file [default: the one opened last, at first the built-in one]
    #[arg(long, value_name = "DIR|FILE", conflicts_with = "embedded")]
    model: Option<PathBuf>,
    /// Open the built-in model
    #[arg(long)]
    embedded: bool,
    /// Put this text into the prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Which tab to open
    #[arg(long, value_enum, value_name = "TAB")]
    tab: Option<Tab>,
    /// Colours [default: those chosen last, at first the system's]
    #[arg(long, value_enum)]
    theme: Option<Theme>,
    /// Size of everything, 1 being the system's
    #[arg(long, value_name = "FACTOR")]
    zoom: Option<f32>,
    /// Keep the settings in this file instead of the user's configuration folder
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Generate as soon as the model is loaded
    #[arg(long)]
    generate: bool,
    /// For automation: once the model is loaded and what --generate asks for is written, write a picture of the window to this
    /// PNG file, print the text on stdout, and end
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// Replace a file at --screenshot that is no picture of this program's
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(zoom) = args.zoom.filter(|zoom| !(0.4..=4.0).contains(zoom)) {
        return Err(misuse(format!("--zoom {zoom}: it must be between 0.4 and 4")));
    }
    let screenshot =
        args.screenshot.as_deref().map(|path| place("screenshot", path, PICTURE, args.force)).transpose()?;
    let path = args.settings.clone().or_else(Settings::default_path);
    if let (Some(screenshot), Some(path)) = (&screenshot, path.as_deref().filter(|path| path.exists())) {
        if screenshot.is_same(path) {
            return Err(misuse("--screenshot and --settings: both would write to one file"));
        }
    }
    let (mut settings, complaint) = path.as_deref().map_or_else(Default::default, Settings::read);
    let saved = settings.clone();
    settings.theme = args.theme.unwrap_or(settings.theme);
    settings.zoom = args.zoom.unwrap_or(settings.zoom);
    settings.prompt = args.prompt.clone().unwrap_or(settings.prompt);
    let source = match (&args.model, args.embedded) {
        (Some(path), _) => Source::Path(path.clone()),
        (None, true) => Source::Embedded,
        (None, false) => settings.source(),
    };
    let options = native_options(&settings);
    let mut state = State::new(settings);
    state.tab = args.tab.unwrap_or(state.tab);
    state.problem = complaint.map(|words| problem::Problem::new("The settings could not be read", words));
    state.open_keeping_problem(source);
    let outcome = Arc::new(Mutex::new(None));
    let automation = Automation::new(args.generate, screenshot, outcome.clone());
    let made = eframe::run_native(
        "mamba-wgpu",
        options,
        Box::new(move |context| Ok(Box::new(Window::new(context, state, path.map(|path| (path, saved)), automation)))),
    );
    made.map_err(|error| anyhow!("the window could not be opened: {error}"))?;
    let outcome = outcome.lock().unwrap_or_else(|e| e.into_inner()).take();
    outcome.unwrap_or(Ok(()))?;
    Ok(ExitCode::SUCCESS)
}

/// The window on a device that models can run on too: on the adapter that is chosen for them, where it can show a window.
fn native_options(settings: &Settings) -> eframe::NativeOptions {
    let wanted = settings.device.clone();
    let mut setup = WgpuSetupCreateNew::without_display_handle();
    setup.device_descriptor = Arc::new(|adapter| Gpu::device_descriptor(adapter, LimitMode::Full));
    setup.native_adapter_selector = Some(Arc::new(move |adapters, surface| {
        let shows = |adapter: &&wgpu::Adapter| surface.is_none_or(|surface| adapter.is_surface_supported(surface));
        let rank = |adapter: &&wgpu::Adapter| {
            let info = adapter.get_info();
            let (name, backend) = (info.name, info.backend.to_str().to_owned());
            let other = wanted != Device::Adapter { name, backend };
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => 0,
                wgpu::DeviceType::IntegratedGpu => 1,
                wgpu::DeviceType::VirtualGpu => 2,
                wgpu::DeviceType::Other => 3,
                wgpu::DeviceType::Cpu => 4,
            };
            // Of the same GPU the native API.
            (other, kind, info.backend == wgpu::Backend::Gl)
        };
        let best = adapters.iter().filter(shows).min_by_key(rank);
        best.cloned().ok_or_else(|| "no adapter (not even one in software) can show a window".to_owned())
    }));
    eframe::NativeOptions {
        renderer: eframe::Renderer::Wgpu,
        viewport: egui::ViewportBuilder::default()
            .with_title("mamba-wgpu")
            .with_app_id("mamba-wgpu")
            .with_inner_size(settings.window)
            .with_min_inner_size([560.0, 400.0])
            .with_drag_and_drop(true),
        wgpu_options: WgpuConfiguration { wgpu_setup: WgpuSetup::CreateNew(setup), ..WgpuConfiguration::default() },
        ..eframe::NativeOptions::default()
    }
}
