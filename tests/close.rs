//! The comparison that all other tests rest on can fail, and says why.

#[path = "common/close.rs"]
mod close;

use close::{assert_close, compare};

const WANT: [f32; 4] = [1.0, -2.0, 0.0, 1000.0];

#[test]
fn equal_values_pass() {
    assert_eq!(compare(&WANT, &WANT, 0.0, 0.0), Ok(0.0));
    assert_eq!(compare::<f32, f32>(&[], &[], 0.0, 0.0), Ok(0.0));
    assert_eq!(assert_close("equal", &WANT, &WANT, 0.0, 0.0), 0.0);
}

#[test]
fn the_tolerance_is_atol_plus_rtol_times_the_expected() {
    let got = [1.0f32, -2.0, 0.0, 1000.5];
    assert_eq!(compare(&got, &WANT, 0.0, 1e-3), Ok(0.5));
    assert!(compare(&got, &WANT, 0.4, 0.0).is_err());
    assert!(compare(&[0.5f32], &[0f32], 0.0, 10.0).is_err(), "rtol alone allows nothing at zero");
    assert!(compare(&[0f32], &[0.5f32], 0.0, 0.9).is_err(), "rtol is of the expected value");
}

#[test]
fn a_perturbed_value_fails_and_the_worst_index_is_named() {
    let got = [1.0f32, -2.1, 0.3, 1000.0];
    let what = compare(&got, &WANT, 1e-3, 0.0).unwrap_err();
    assert!(
        what.contains("2 of 4") && what.contains("index 2") && what.contains("got 0.3") && what.contains("expected 0"),
        "{what}"
    );
}

#[test]
fn nan_and_infinity_fail_on_either_side() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut got = WANT;
        got[3] = odd;
        for (g, w) in [(got, WANT), (WANT, got), (got, got)] {
            let what = compare(&g, &w, f64::INFINITY, f64::INFINITY).unwrap_err();
            assert!(what.contains("index 3"), "{what}");
        }
    }
}

#[test]
fn another_length_fails() {
    assert!(compare(&WANT[..3], &WANT, 1.0, 1.0).unwrap_err().contains("3 values, expected 4"));
    assert!(compare(&[] as &[f32], &WANT, 1.0, 1.0).is_err());
}

#[test]
#[should_panic(expected = "logits: 1 of 4 values differ, worst at index 1: got -2.5, expected -2")]
fn assert_close_panics_with_the_name() {
    assert_close("logits", &[1.0f32, -2.5, 0.0, 1000.0], &WANT, 1e-3, 0.0);
}
