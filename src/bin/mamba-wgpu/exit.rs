//! How the program ends.

use std::io::Write as _;

/// std's, of which the number can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    pub const SUCCESS: Self = Self(0);
    pub const FAILURE: Self = Self(1);
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

/// Writes out what is left for stdout, and ends the program there, without the destructors of the libraries that drivers have
/// loaded: threads of theirs may be at work still, or the library be gone already (Mesa's, closed while another thread drops its
/// instance), and a program that had done all its work would end with a segmentation fault.
pub fn leave(code: ExitCode) -> ! {
    let _ = std::io::stdout().flush();
    at_once(code.0.into())
}

#[cfg(unix)]
pub fn at_once(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

#[cfg(not(unix))]
pub fn at_once(code: i32) -> ! {
    std::process::exit(code)
}
