//! What holds submissions back for a moment, for a program that draws with the same device.

use super::sync::lock;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Whoever forgets to let go, or whose next frame never comes, stops nothing for longer.
const LONGEST: Duration = Duration::from_secs(1);

/// Submissions pass one at a time, and none while it is held.
#[derive(Default)]
pub(super) struct Gate {
    held: Mutex<bool>,
    released: Condvar,
}

impl Gate {
    /// Returns when a submission that is under way has been made; the next ones wait, [`LONGEST`] at most.
    pub fn hold(&self) {
        *lock(&self.held) = true;
    }

    pub fn release(&self) {
        *lock(&self.held) = false;
        self.released.notify_all();
    }

    /// Calls it with the gate locked: [`hold`](Self::hold) waits for what is under way.
    pub fn pass<T>(&self, submit: impl FnOnce() -> T) -> T {
        let mut held = lock(&self.held);
        // Never on the web, where there is one thread, which cannot wait.
        if *held {
            held = match self.released.wait_timeout_while(held, LONGEST, |held| *held) {
                Ok((held, _)) => held,
                Err(poisoned) => poisoned.into_inner().0,
            };
            *held = false;
        }
        submit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::Arc;

    #[test]
    fn nothing_passes_while_it_is_held_and_everything_after() {
        let (gate, passed) = (Arc::new(Gate::default()), Arc::new(AtomicU32::new(0)));
        gate.pass(|| passed.fetch_add(1, Ordering::SeqCst));
        gate.hold();
        let other = (gate.clone(), passed.clone());
        let thread = std::thread::spawn(move || {
            for _ in 0..3 {
                other.0.pass(|| other.1.fetch_add(1, Ordering::SeqCst));
            }
        });
        std::thread::sleep(LONGEST / 20);
        assert_eq!(passed.load(Ordering::SeqCst), 1);
        gate.release();
        thread.join().unwrap();
        assert_eq!(passed.load(Ordering::SeqCst), 4);
        // Held and forgotten.
        gate.hold();
        gate.pass(|| passed.fetch_add(1, Ordering::SeqCst));
        assert_eq!(passed.load(Ordering::SeqCst), 5);
    }
}
