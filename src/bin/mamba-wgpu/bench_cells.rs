//! A bench row in words, for tables.

use mamba_wgpu::bench::{ClockMhz, Flag, Row, Spread, Suite};

pub const HEADINGS: [&str; 16] = [
    "suite", "what", "variant", "GPU", "wall", "fastest", "slowest", "n", "clock", "GB/s", "of copy", "TFLOP/s",
    "of FMA", "speed", "memory", "flags",
];
/// The first columns are words.
pub const WORDS: usize = 3;

pub fn cells(row: &Row) -> Vec<String> {
    let tokens = match (row.suite, row.l) {
        (Suite::Prefill | Suite::Decode, Some(l)) => format!(" {l} tokens"),
        _ => String::new(),
    };
    let mut cells = vec![row.suite.to_string(), format!("{}{tokens}", row.name), row.variant.clone()];
    if row.skipped.is_some() {
        return cells;
    }
    let time = |us: Option<f64>| us.map_or_else(String::new, time);
    let of = |spread: Option<Spread>, f: fn(Spread) -> f64| time(spread.map(f));
    let spread = row.spread();
    let rate = |x: Option<f64>| x.map_or_else(String::new, rate);
    let share = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{:.1}%", x * 100.0));
    cells.extend([
        of(row.gpu_us, |s| s.median),
        of(row.wall_us, |s| s.median),
        of(spread, |s| s.min),
        of(spread, |s| s.max),
        spread.map_or_else(String::new, |s| s.n.to_string()),
        row.clock_mhz.map_or_else(String::new, |ClockMhz { before, after }| format!("{:.0} MHz", before.min(after))),
        rate(row.gbps),
        share(row.share_of_copy),
        rate(row.tflops),
        share(row.share_of_fma),
    ]);
    cells.push(row.tokens_per_s.map_or_else(String::new, |x| format!("{} tok/s", self::rate(x))));
    cells.push(row.memory_bytes.map_or_else(String::new, |bytes| format!("{} MiB", bytes >> 20)));
    cells.push(flags(row));
    cells
}

/// "unsteady (reference 1.31 x), few samples".
pub fn flags(row: &Row) -> String {
    let word = |flag: &Flag| match (flag, row.reference_slowdown) {
        (Flag::Unsteady, Some(slowdown)) => format!("{flag} (reference {slowdown:.2} x)"),
        _ => flag.to_string(),
    };
    row.flags().iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Microseconds with three or four digits and a unit.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Three digits, or all before the point.
pub fn rate(x: f64) -> String {
    let decimals = if x > 0.0 { (2.0 - x.log10().floor()).clamp(0.0, 6.0) } else { 0.0 };
    format!("{x:.*}", decimals as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!([time(12.34), time(12_340.0), time(12.34e6)], ["12.3 us", "12.34 ms", "12.34 s"]);
        assert_eq!([rate(0.0), rate(0.00123456)], ["0", "0.00123"]);
        assert_eq!([rate(1.23456), rate(12.3456), rate(1234.5)], ["1.23", "12.3", "1234"]);
    }
}
