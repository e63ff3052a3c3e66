//! The benchmark on whatever adapter there is: small shapes, short limits, every row a number or a reason.

use assert_cmd::Command;
use mamba_wgpu::bench::{run, ClockReader, Flag, Host, Options, Report, Row, Shapes, Spread, Suite};
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::synthetic::Spec;
use pollster::block_on;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

fn gpu() -> Gpu {
    block_on(Gpu::new(&GpuOptions::default())).expect("these tests need an adapter (Mesa's lavapipe is one)")
}

/// Everything once, and nothing of a size that takes time.
fn small() -> Shapes {
    Shapes {
        copy_bytes: 1 << 20,
        scan: vec![(64, 40)],
        ssd: vec![70],
        d_state: 16,
        matmul: vec![[70, 64, 48]],
        matvec: vec![[96, 64]],
        sampling: vec![300],
        models: vec![("tiny".into(), Spec::preset("tiny").unwrap())],
        prefill: vec![20],
        long: Some(("tiny".into(), 70)),
        decode: (5, 8),
        batch: vec![1, 3],
        scan_backward: vec![(64, 40)],
        matmul_grad: vec![[70, 64, 48]],
        conv1d_backward: vec![(64, 40)],
        rms_norm_backward: vec![(48, 40)],
        cross_entropy: vec![(300, 7)],
        adamw: vec![1000],
        training: vec![("small".into(), Spec::new(1, 16, 40), [2, 20])],
    }
}

/// Small, and without half a second of load before each row: lavapipe has no clock to raise.
fn options() -> Options {
    Options { shapes: small(), warm_up: Duration::from_millis(5), ..Default::default() }
}

fn has_numbers(row: &Row) {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let sound =
        |s: Spread| [s.min, s.median, s.max].into_iter().all(positive) && s.min <= s.median && s.median <= s.max;
    assert!(row.wall_us.is_some_and(sound), "{row:?}");
    assert!(row.gpu_us.is_none_or(sound), "{row:?}");
    let rates = [row.gbps, row.tflops, row.tokens_per_s, row.share_of_copy, row.share_of_fma];
    assert!(rates.iter().flatten().all(|x| positive(*x)) && rates.iter().any(Option::is_some), "{row:?}");
    // How fast this machine was meanwhile is not asked, but that the row knows.
    assert!(row.reference_slowdown.is_some_and(|slowdown| slowdown.is_finite() && slowdown >= 1.0), "{row:?}");
    assert_eq!(row.flags, row.flags(), "{row:?}");
    // The row's figure is the middle of its places'.
    let spread = row.spread().unwrap();
    assert!(row.places_us.iter().all(|us| (spread.min..=spread.max).contains(us)), "{row:?}");
    let mut places = row.places_us.clone();
    places.sort_by(f64::total_cmp);
    let beside = [(places.len() - 1) / 2, places.len() / 2].map(|i| places[i]);
    assert!((beside[0]..=beside[1]).contains(&spread.median), "{row:?}");
}

/// Every row has either numbers or a reason, and the report survives JSON.
fn sound(report: &Report) {
    for row in &report.rows {
        match &row.skipped {
            None => has_numbers(row),
            Some(reason) => {
                assert!(!reason.is_empty() && row.wall_us.is_none() && row.gbps.is_none(), "{row:?}");
            }
        }
    }
    let text = serde_json::to_string(report).unwrap();
    let back: Report = serde_json::from_str(&text).unwrap();
    // Numbers are written so that they read back as the same.
    assert_eq!(&back, report);
}

#[test]
fn every_suite_measures_on_this_adapter() {
    let gpu = gpu();
    let host = Some(Host { cpu: None, system: "here".into() });
    let clock_mhz = Some(ClockReader::new(|| Some(1234.0)));
    let date = "2026-11-24T12:00:00Z".to_owned();
    let options = Options { date, host: host.clone(), clock_mhz, ..options() };
    let mut seen = Vec::new();
    let report = block_on(run(&gpu, &options, &mut |now| {
        assert_eq!((now.done, now.row.skipped.is_none()), (seen.len(), true));
        seen.push(now.total);
    }));
    sound(&report);
    let suites: Vec<Suite> = report.rows.iter().map(|row| row.suite).collect();
    let count = |suite| suites.iter().filter(|s| **s == suite).count();
    assert_eq!(Suite::ALL.map(count), [2, 4, 7, 4, 3, 8, 8, 2]);
    assert_eq!(seen, vec![38; 38]);
    for row in &report.rows {
        let lacks_f16 = row.variant.contains("activations f16") && !gpu.shader_f16();
        assert_eq!(row.skipped.is_some(), lacks_f16, "{row:?}");
        // Of a step of training there is the wall time alone.
        let timed = !lacks_f16 && row.suite != Suite::Training && gpu.adapter_summary().timestamp_query;
        assert_eq!(row.gpu_us.is_some(), timed, "{row:?}");
        let clock = row.clock_mhz.map(|clock| (clock.before, clock.after));
        assert_eq!(clock, (!lacks_f16).then_some((1234.0, 1234.0)), "{row:?}");
        if row.suite == Suite::Ceilings {
            assert!(row.gpu_us.or(row.wall_us).is_some_and(|spread| spread.n >= 10), "{row:?}");
        }
        assert_eq!(row.memory_bytes.is_some(), [Suite::Prefill, Suite::Training].contains(&row.suite), "{row:?}");
    }
    assert!(report.ceilings.copy_gbps.is_some() && report.ceilings.fma_tflops.is_some());
    assert_eq!((report.date.as_str(), report.interrupted), ("2026-11-24T12:00:00Z", false));
    assert_eq!(report.device.adapter, *gpu.adapter_summary());
    assert_eq!((report.host, report.order), (host, Suite::ALL.to_vec()));
    assert!(report.reference_us.is_some_and(|us| us > 0.0));
    assert!(report.commit == "unknown" || report.commit.len() == 40, "{}", report.commit);
}

/// Of Mamba-2's recurrence its rungs, and the kernels of those in chunks.
#[test]
fn the_recurrence_of_mamba2_is_measured_by_itself() {
    let models = vec![("mamba2-tiny".into(), Spec::preset("mamba2-tiny").unwrap())];
    let options =
        Options { shapes: Shapes { models, scan: Vec::new(), ..small() }, suites: vec![Suite::Scan], ..options() };
    let gpu = gpu();
    let report = block_on(run(&gpu, &options, &mut |_| {}));
    sound(&report);
    let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == Suite::Scan).collect();
    let variants: Vec<_> = rows.iter().map(|row| row.variant.as_str()).collect();
    let parts = ["ssd_chunk_cumsum", "ssd_bmm_chunk", "ssd_chunk_state", "ssd_state_passing", "ssd_chunk_scan"];
    let (chunked, matrices) = variants.split_at(7);
    assert_eq!(chunked, [&["ssd sequential", "ssd chunked"][..], &parts].concat());
    assert_eq!(
        (matrices[0], matrices[5], matrices[6]),
        ("ssd matrices", "ssd_matrix_scan of ssd matrices, f32", "ssd matrices, f16")
    );
    let lacking = |row: &Row| row.variant.contains("matri") && !gpu.cooperative();
    assert!(rows.iter().all(|row| row.skipped.is_some() == lacking(row)), "{rows:?}");
}

/// Every share is of the ceilings: they are measured, and well, however little time there is.
#[test]
fn without_time_there_are_ceilings_and_every_other_row_says_so() {
    let options = Options { time_limit: Duration::ZERO, ..options() };
    let report = block_on(run(&gpu(), &options, &mut |_| {}));
    sound(&report);
    let (ceilings, others): (Vec<&Row>, Vec<&Row>) = report.rows.iter().partition(|row| row.suite == Suite::Ceilings);
    assert!(others.iter().all(|row| row.skipped.as_ref().is_some_and(|reason| reason.contains("time limit"))));
    assert_eq!(ceilings.len(), 2);
    for row in ceilings {
        assert_eq!(row.gpu_us.or(row.wall_us).unwrap().n, 10, "{row:?}");
    }
}

/// Inputs and models are made anew for each place, and what holds the places apart is gone after the row.
#[test]
fn rows_are_measured_at_several_places() {
    let gpu = gpu();
    let measured = |places| {
        let suites = vec![Suite::Scan, Suite::Prefill, Suite::Training];
        let options = Options { places, suites, ..options() };
        let report = block_on(run(&gpu, &options, &mut |_| {}));
        sound(&report);
        assert_eq!(gpu.memory_bytes().0, 0, "all is given back");
        report
    };
    let (three, one) = (measured(Some(3)), measured(Some(1)));
    for (three, one) in three.rows.iter().zip(&one.rows).filter(|(row, _)| row.skipped.is_none()) {
        assert_eq!((three.places_us.len(), one.places_us.len()), (3, 1), "{three:?}");
        assert_eq!(three.memory_bytes, one.memory_bytes, "{three:?}");
        assert!(three.spread().unwrap().n >= 3, "{three:?}");
    }
}

/// What a row before left on the device would count as its memory, and decide where its buffers go.
#[test]
fn a_rows_memory_is_its_own_in_any_order() {
    let gpu = gpu();
    let memory = |suites: [Suite; 3]| {
        let options = Options { suites: suites.to_vec(), ..options() };
        let report = block_on(run(&gpu, &options, &mut |_| {}));
        report.rows.iter().map(|row| row.memory_bytes).collect::<Vec<_>>()
    };
    let forwards = memory([Suite::Prefill, Suite::Decode, Suite::Training]);
    assert!(forwards.iter().flatten().count() == 5, "{forwards:?}");
    assert_eq!(forwards, memory([Suite::Training, Suite::Decode, Suite::Prefill]));
}

/// Suites are measured in the order asked for, each once, and read in their own.
#[test]
fn suites_come_in_any_order() {
    let suites = vec![Suite::Decode, Suite::Scan, Suite::Decode, Suite::Sampling];
    let options = Options { suites: suites.clone(), ..options() };
    let mut measured = Vec::new();
    let report = block_on(run(&gpu(), &options, &mut |now| measured.push(now.row.suite)));
    measured.dedup();
    assert_eq!(measured, [Suite::Ceilings, Suite::Decode, Suite::Scan, Suite::Sampling]);
    let mut read: Vec<Suite> = report.rows.iter().map(|row| row.suite).collect();
    read.dedup();
    assert_eq!(read, [Suite::Ceilings, Suite::Scan, Suite::Sampling, Suite::Decode]);
    assert_eq!(report.order, suites);
}

#[test]
fn what_does_not_fit_is_left_out_and_the_rest_measured() {
    // A terabyte: over any adapter's limit a buffer.
    let scan = vec![(1 << 20, 1 << 18), (64, 8)];
    let options = Options { suites: vec![Suite::Scan], shapes: Shapes { scan, ..small() }, ..options() };
    let report = block_on(run(&gpu(), &options, &mut |_| {}));
    sound(&report);
    for row in report.rows.iter().filter(|row| row.suite == Suite::Scan) {
        assert_eq!(row.skipped.is_some(), row.d_inner != Some(64), "{row:?}");
        // What no adapter can hold is not a matter of time.
        assert!(row.skipped.as_ref().is_none_or(|reason| reason.contains("MiB")), "{row:?}");
    }
}

#[test]
fn cancelled_half_way_it_keeps_what_was_measured() {
    let cancel = Arc::new(AtomicBool::new(false));
    let options = Options { cancel: cancel.clone(), ..options() };
    let report = block_on(run(&gpu(), &options, &mut |now| cancel.store(now.done >= 4, Ordering::Relaxed)));
    sound(&report);
    assert!(report.interrupted);
    let skipped: Vec<bool> = report.rows.iter().map(|row| row.skipped.is_some()).collect();
    assert_eq!(skipped[..5], [false, false, false, false, true]);
    assert!(skipped[4..].iter().all(|s| *s));
}

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.env_remove("RUST_LOG");
    command
}

#[test]
fn the_command_prints_a_table_and_writes_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let output = program()
        .args(["bench", "scan", "--backend", "vulkan", "--time-limit", "3", "--json"])
        .arg(&path)
        .output()
        .expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && message.is_empty(), "{message}");
    let report: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    sound(&report);
    assert_eq!((report.rows.len(), report.time_limit_s), (2 + 6 * 4, 3.0));
    assert!(report.host.is_some_and(|host| !host.system.is_empty()));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains(&report.device.adapter.name) && table.contains(&report.commit), "{table}");
    assert_eq!(table.lines().filter(|line| line.starts_with("scan ")).count(), 24, "{table}");
    assert!(table.lines().all(|line| line.trim_end() == line), "{table}");
    // Each flag is explained below the table, and only those that there are.
    for flag in [Flag::FewSamples, Flag::Unsteady, Flag::AboveCopy, Flag::AboveFma] {
        let flagged = report.rows.iter().any(|row| row.flags.contains(&flag));
        assert_eq!(table.contains(&format!("\n{flag}: ")), flagged, "{table}");
    }
}

#[test]
fn help_offers_no_backend_that_is_refused() {
    let output = program().args(["bench", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let backend = &help[help.find("--backend").unwrap()..help.find("--adapter").unwrap()];
    assert!(backend.contains("vulkan") && !backend.contains("cpu"), "{backend}");
}

#[test]
fn the_command_refuses_what_makes_no_sense() {
    for (arguments, names) in [
        (&["bench", "decode", "--sizes", "130m,7b"][..], "7b"),
        (&["bench", "--backend", "cpu"], "--backend cpu"),
        (&["bench", "--time-limit", "-1"], "--time-limit"),
        (&["bench", "--time-limit", "NaN"], "--time-limit"),
        (&["bench", "everything"], "everything"),
    ] {
        let output = program().args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(names) && output.stdout.is_empty(), "{message}");
    }
    let output = program().args(["bench", "scan", "--json", "no/such/folder/report.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/folder"));
}
