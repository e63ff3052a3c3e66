//! Work beside the text, each on a thread and a device of its own, so that neither the window nor the text waits for it:
//! doctor's check, the bench, the system's dialogs.

use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread;

use mamba_wgpu::bench;
use mamba_wgpu::checks;
use mamba_wgpu::files::replace;
use mamba_wgpu::gpu::{list_adapters, AdapterSummary, Gpu};
use mamba_wgpu::model::Backend;
use mamba_wgpu::Error;

use super::messages::{Browse, Command, Event, Verdict};
use super::problem::Problem;
use super::settings::Device;
use super::worker::{open_alone, Devices, Events, Worker};
use crate::doctor::model_check;
use crate::gpu_clock;

/// Hands each command to who carries it out.
pub struct Hub {
    events: Events,
    worker: Sender<Command>,
}

impl Hub {
    /// Starts the worker. `window`: the device that the window draws with.
    pub fn start(events: Events, window: Option<Gpu>) -> Self {
        let (worker, commands) = channel();
        let for_worker = events.clone();
        thread::spawn(move || {
            let list = pollster::block_on(list_adapters(None));
            for_worker.send(Event::Devices(list.clone()));
            Worker::new(for_worker, Devices::new(list, window)).run(&commands);
        });
        Self { events, worker }
    }

    pub fn send(&self, command: Command) {
        let events = self.events.clone();
        match command {
            Command::Check(device) => {
                thread::spawn(move || {
                    let verdict = pollster::block_on(check(&device, &events));
                    events.send(Event::Checked { device, verdict });
                });
            }
            Command::Bench { device, options } => {
                thread::spawn(move || match pollster::block_on(measure(&device, &options, &events)) {
                    Ok(report) => events.send(Event::Measured(Arc::new(report))),
                    Err(error) => {
                        events.send(Event::BenchFailed(Problem::of("The GPU could not be measured", &error)));
                    }
                });
            }
            Command::SaveReport { report, path } => {
                thread::spawn(move || {
                    let written = serde_json::to_string_pretty(&*report)
                        .map_err(|error| format!("{}: {error}", path.display()))
                        .and_then(|json| replace(&path, (json + "\n").as_bytes()).map_err(|error| error.to_string()));
                    events.send(match written {
                        Ok(()) => Event::Saved(path),
                        Err(error) => Event::Failed(Problem::new("The report was not saved", error)),
                    });
                });
            }
            Command::Browse(what) => browse(what, events),
            // It ends with the window only.
            for_worker => drop(self.worker.send(for_worker)),
        }
    }
}

/// The checks of `mamba-wgpu doctor` on one device.
async fn check(device: &Device, events: &Events) -> Result<Verdict, String> {
    let mut verdict =
        Verdict { passed: true, usable: true, words: String::new(), details: Vec::new(), switched_off: Vec::new() };
    let mut checks = 0;
    let backend = if *device == Device::Cpu {
        Backend::Cpu
    } else {
        let list = list_adapters(None).await;
        let gpu = open_alone(&list, device).await.map_err(|e| e.to_string())?;
        let progress = &mut |done, total| events.send(Event::Checking { device: device.clone(), done, total });
        let report = checks::run(&gpu, progress).await.map_err(|e| e.to_string())?;
        (verdict.passed, verdict.usable) = (report.passed(), report.usable());
        checks = report.outcomes.len();
        for outcome in report.outcomes {
            let Some(failure) = outcome.failure else { continue };
            let instead = outcome.switched_off.map_or_else(String::new, |variant| {
                verdict.switched_off.push(variant);
                format!(" ({variant} is switched off, {} instead)", variant.fallback())
            });
            verdict.details.push(format!("{}: {failure}{instead}", outcome.name));
        }
        Backend::Gpu(gpu)
    };
    // On the same device: what failed is switched off, and must not matter any more.
    let model = model_check(String::new(), &backend).await.map_err(|e| format!("{e:#}"))?;
    if let Some(difference) = model.and_then(|(_, difference)| difference) {
        (verdict.passed, verdict.usable) = (false, false);
        verdict.details.push(format!("the built-in model: {difference}"));
    }
    verdict.words = in_words(&verdict, checks);
    Ok(verdict)
}

/// One sentence for a verdict.
fn in_words(verdict: &Verdict, kernels: usize) -> String {
    match (verdict.passed, verdict.usable, kernels) {
        (true, _, 0) => "The built-in model gives what it should.".into(),
        (true, _, n) => format!("All {n} kernels agree with the CPU, and the built-in model gives what it should."),
        (false, true, n) => {
            format!("{} of {n} kernel checks failed; plainer kernels stand in for them.", verdict.details.len())
        }
        (false, false, _) => "It computes wrongly: use another device.".into(),
    }
}

async fn measure(device: &Device, options: &bench::Options, events: &Events) -> Result<bench::Report, Error> {
    let list: Vec<AdapterSummary> = list_adapters(None).await;
    let gpu = open_alone(&list, device).await?;
    let options = bench::Options {
        clock_mhz: gpu_clock::reader(gpu.adapter_summary()),
        host: Some(gpu_clock::host()),
        ..options.clone()
    };
    Ok(bench::run(&gpu, &options, &mut |now| {
        events.send(Event::Measuring {
            done: now.done,
            total: now.total,
            what: format!("{} {} {}", now.row.suite, now.row.name, now.row.variant),
            rows: now.rows.to_vec(),
        });
    })
    .await)
}

fn browse(what: Browse, events: Events) {
    let dialog = rfd::AsyncFileDialog::new();
    let state = |dialog: rfd::AsyncFileDialog| dialog.add_filter("States of a text", &["mamba-state"]);
    // macOS wants dialogs made on the main thread; waiting for them can be done anywhere.
    let picked: std::pin::Pin<Box<dyn std::future::Future<Output = Option<rfd::FileHandle>> + Send>> = match what {
        Browse::ModelFolder => Box::pin(dialog.set_title("Folder of a model").pick_folder()),
        Browse::ModelFile => Box::pin(dialog.add_filter("Weights", &["safetensors"]).pick_file()),
        Browse::OpenState => Box::pin(state(dialog).pick_file()),
        Browse::SaveState => Box::pin(state(dialog).set_file_name("text.mamba-state").save_file()),
        Browse::SaveReport => Box::pin(dialog.set_file_name("bench.json").save_file()),
    };
    thread::spawn(move || {
        let path = pollster::block_on(picked).map(|file| file.path().to_path_buf());
        events.send(Event::Browsed { what, path });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_in_words() {
        let mut verdict =
            Verdict { passed: true, usable: true, words: String::new(), details: vec![], switched_off: vec![] };
        assert!(in_words(&verdict, 28).contains("All 28 kernels"));
        assert!(!in_words(&verdict, 0).contains("kernels"));
        (verdict.passed, verdict.details) = (false, vec!["matvec: wrong".into()]);
        assert!(in_words(&verdict, 28).starts_with("1 of 28"));
        verdict.usable = false;
        assert!(in_words(&verdict, 28).contains("another device"));
    }
}
