//! Ctrl-C, SIGTERM and SIGHUP: in the one place that handles them.
//!
//! A command that has nothing to save ends at once. One that has says so by [`ask`]: from then on the first signal asks it to come to
//! an end. Of those after it only Ctrl-C ends it at once: a terminal that closes, and `timeout`, send theirs twice.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use mamba_wgpu::files::remove_unfinished;

use crate::exit::{self, ExitCode};

const INT: i32 = 2;
/// A second Ctrl-C that is no echo of the first.
const AGAIN: Duration = Duration::from_millis(400);

static LAST: AtomicI32 = AtomicI32::new(INT);
static ASKED: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// From here on a signal sets `cancel`.
pub fn ask(cancel: &Arc<AtomicBool>) {
    *ASKED.lock().unwrap_or_else(|e| e.into_inner()) = Some(cancel.clone());
}

/// What a program that a signal ended leaves with: 128 and its number, as shells have it.
pub fn exit_code() -> ExitCode {
    ExitCode::from(128 + LAST.load(Ordering::Relaxed) as u8)
}

fn came(signal: i32, first: &mut Option<Instant>) {
    let asked = ASKED.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let again = first.get_or_insert_with(Instant::now).elapsed() > AGAIN;
    match asked {
        Some(cancel) if !cancel.swap(true, Ordering::Relaxed) => LAST.store(signal, Ordering::Relaxed),
        Some(_) if !(signal == INT && again) => {}
        _ => {
            remove_unfinished();
            exit::at_once(128 + signal);
        }
    }
}

/// Begins to listen.
#[cfg(unix)]
pub fn watch() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = vec![SIGINT, SIGTERM];
    // `nohup` has it ignored, which is to stay so.
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(signals).context("listening for signals")?;
    std::thread::spawn(move || {
        let mut first = None;
        signals.forever().for_each(|signal| came(signal, &mut first));
    });
    Ok(())
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer sets nothing; the call fills in `action`, for which all zeros are valid as well.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
pub fn watch() -> anyhow::Result<()> {
    let mut first = None;
    ctrlc::set_handler(move || came(INT, &mut first)).context("listening for Ctrl-C")
}
