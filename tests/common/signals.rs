//! Signals to programs under test.

use std::process::{Child, Command};

pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// SIGHUP and its exit code; SIGTERM where whoever runs the tests has it ignored (`nohup`), which children inherit.
pub fn hangup() -> (&'static str, i32) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    match ignored.is_some_and(|signals| signals & 1 == 1) {
        true => ("-TERM", 143),
        false => ("-HUP", 129),
    }
}
