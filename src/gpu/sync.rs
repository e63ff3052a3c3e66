//! What threads share.

use std::sync::{Mutex, MutexGuard};

/// A poisoned lock holds data that is still whole: each is changed in one assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
