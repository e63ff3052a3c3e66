//! Comparing arrays of numbers: one rule, which says where and by how much it failed.

/// Whether |got - want| <= atol + rtol |want| at every index. Gives the largest difference, or what is wrong: another
/// length, a value that is not finite on either side (two infinities or NaNs never count as equal), or the index that
/// exceeds its tolerance most, with both values.
pub fn compare<G, W>(got: &[G], want: &[W], atol: f64, rtol: f64) -> Result<f64, String>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    if got.len() != want.len() {
        return Err(format!("{} values, expected {}", got.len(), want.len()));
    }
    let (mut largest, mut failures) = (0f64, 0);
    let mut worst: Option<(f64, usize, f64, f64, f64, f64)> = None;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (g, w): (f64, f64) = ((*g).into(), (*w).into());
        if !g.is_finite() || !w.is_finite() {
            return Err(format!("at index {i} of {}: got {g}, expected {w}", got.len()));
        }
        let (difference, allowed) = ((g - w).abs(), atol + rtol * w.abs());
        largest = largest.max(difference);
        if difference > allowed {
            failures += 1;
            let excess = difference - allowed;
            if worst.as_ref().is_none_or(|(e, ..)| excess > *e) {
                worst = Some((excess, i, g, w, difference, allowed));
            }
        }
    }
    match worst {
        None => Ok(largest),
        Some((_, i, g, w, difference, allowed)) => Err(format!(
            "{failures} of {} values differ, worst at index {i}: got {g}, expected {w}: off by {difference:.3e}, allowed {allowed:.3e}",
            got.len()
        )),
    }
}

/// Fails the test unless [`compare`] holds; gives the largest difference.
#[track_caller]
pub fn assert_close<G, W>(name: &str, got: &[G], want: &[W], atol: f64, rtol: f64) -> f64
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    match compare(got, want, atol, rtol) {
        Ok(largest) => largest,
        Err(what) => panic!("{name}: {what}"),
    }
}
