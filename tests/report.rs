//! `mamba-wgpu bench report`: the page, its warnings, what it refuses; and that a browser opens it.

#[path = "common/browser.rs"]
mod browser;

use mamba_wgpu::bench::{compare, Report, Suite};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn record() -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/records/nvidia-h100-80gb-hbm3/2026-11-24.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The record as another adapter's, half as fast, with a row that was not measured.
fn slower() -> Report {
    let mut report = record();
    report.device.adapter.name = "Other <GPU> & Co".into();
    report.commit = "0123456789abcdef".into();
    for row in &mut report.rows {
        for spread in row.gpu_us.iter_mut().chain(&mut row.wall_us) {
            spread.median *= 2.0;
        }
    }
    let decode = report.rows.iter_mut().find(|row| row.suite == Suite::Decode).unwrap();
    decode.skipped = Some("the time limit is reached".into());
    report
}

/// The record as if it had been measured with warm-ups; one row of a low clock and one of a single sample.
fn warm() -> Report {
    let mut report = record();
    report.reference_us = Some(100.0);
    let mut scans = report.rows.iter_mut().filter(|row| row.suite == Suite::Scan);
    scans.next().unwrap().reference_slowdown = Some(2.5);
    let single = scans.next().unwrap();
    single.gpu_us.as_mut().unwrap().n = 1;
    report
}

fn write(folder: &Path, name: &str, report: &Report) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, serde_json::to_string(report).unwrap()).unwrap();
    path
}

fn bench_report(reports: &[&Path], html: &Path) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.args(["bench", "report"]).args(reports).arg("--html").arg(html).output().unwrap()
}

#[test]
fn rows_of_one_thing_stand_side_by_side() {
    let reports = [record(), slower()];
    let all = compare::side_by_side(&reports);
    // A model's prompts of several lengths are several things.
    let prompts: Vec<_> =
        all.iter().filter(|c| c.suite == Suite::Prefill && c.name == "130m" && c.variant == "f16").collect();
    assert_eq!(prompts.len(), 4);
    for c in &all {
        assert_eq!(c.rows.len(), 2);
        if let [Some(a), Some(b)] = c.rows[..] {
            assert_eq!((a.l, &a.name, &a.variant), (b.l, &b.name, &b.variant));
            assert!((b.median_us().unwrap() / a.median_us().unwrap() - 2.0).abs() < 1e-9);
        }
    }
    assert_eq!(all.iter().filter(|c| c.rows[1].is_none()).count(), 1, "the one that was not measured");
}

#[test]
fn names_tell_reports_apart_and_warnings_say_what_differs() {
    let (a, mut b) = (record(), record());
    // The record is of before there were warm-ups.
    let warnings = compare::warnings(&[a.clone(), b.clone()]);
    assert!(warnings
        .iter()
        .all(|warning| warning.contains("before rows were warmed up") || warning.contains("fewer than three")));
    let warm = compare::warnings(&[warm()]).join("; ");
    assert!(warm.contains("1 rows were measured the adapter was slower") && !warm.contains("before rows"), "{warm}");
    b.device.adapter.driver_info = "999.1".into();
    b.interrupted = true;
    let names = compare::names(&[a.clone(), b.clone()]);
    assert!(names[0] != names[1] && names[1].contains("999.1"), "{names:?}");
    let warnings = compare::warnings(&[a.clone(), b]).join("; ");
    assert!(warnings.contains("two drivers") && warnings.contains("interrupted"), "{warnings}");
    let same = compare::names(&[a.clone(), a]);
    assert_ne!(same[0], same[1]);
    let warnings = compare::warnings(&[record(), slower()]).join("; ");
    assert!(warnings.contains("different commits") && warnings.contains("1 of "), "{warnings}");
}

#[test]
fn the_page_holds_everything_and_a_browser_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (write(folder.path(), "a.json", &record()), write(folder.path(), "b.json", &slower()));
    let page = folder.path().join("page.html");
    let output = bench_report(&[&a, &b], &page);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Other &lt;GPU&gt; &amp; Co") && !html.contains("Other <GPU>"));
    for id in ["scan", "decode", "prefill", "share", "roofline"] {
        assert!(html.contains(&format!("<section id={id}>")), "{id}");
    }
    assert!(
        !html.contains("http://")
            || html.matches("http://").count() == html.matches("http://www.w3.org/2000/svg").count()
    );
    // The page as the browser understood it.
    let (dom, log) = browser::dom(&page);
    assert_eq!(dom.matches("<svg").count(), 5, "{log}");
    assert!(dom.contains("different commits") && dom.contains("<h3>decode</h3>"));
    assert!(!log.contains("CONSOLE"), "{log}");
}

#[test]
fn samples_spreads_and_flags_stand_in_tables_and_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (a, page) = (write(folder.path(), "a.json", &warm()), folder.path().join("page.html"));
    let output = bench_report(&[&a], &page);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("unsteady (reference 2.50 x)") && html.contains("few samples"), "flags");
    let scan = &html[html.find("<section id=scan>").unwrap()..];
    let scan = &scan[..scan.find("</section>").unwrap()];
    assert!(scan.contains(" n 30") && scan.contains(" n 1 *"), "{scan}");
    assert!(scan.contains("* few samples, or unsteady"));
    // The same thing of each row in the table.
    assert!(html.matches("n 30, ").count() > 20);
    // Five variants of linear layers, five colours in the legend.
    let share = &html[html.find("<section id=share>").unwrap()..];
    let share = &share[..share.find("</section>").unwrap()];
    let colours: std::collections::BTreeSet<&str> =
        share.match_indices("fill=\"#").map(|(at, _)| &share[at + 6..at + 13]).filter(|c| *c != "#808080").collect();
    assert_eq!(colours.len(), 5, "{colours:?}");
}

fn bench_compare(arguments: &[&Path], more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    let output = command.args(["bench", "compare"]).args(arguments).args(more).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[test]
fn compare_lists_what_differs_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, same) = (write(folder.path(), "a.json", &record()), write(folder.path(), "same.json", &record()));
    let (code, text) = bench_compare(&[&a, &same], &[]);
    assert!(code == Some(0) && text.contains("0 of "), "{text}");
    // One row 6 % slower, one 4 %, one not measured.
    let mut other = record();
    let mut rows = other.rows.iter_mut().filter(|row| row.suite == Suite::Scan);
    for by in [1.06, 1.04] {
        rows.next().unwrap().gpu_us.as_mut().unwrap().median *= by;
    }
    rows.next().unwrap().skipped = Some("the time limit is reached".into());
    let other = write(folder.path(), "other.json", &other);
    let (code, text) = bench_compare(&[&a, &other], &[]);
    assert!(
        code == Some(1) && text.contains("2 of ") && text.contains("+6.0%") && text.contains("not measured"),
        "{text}"
    );
    assert!(!text.contains("+4.0%"), "{text}");
    let (code, text) = bench_compare(&[&a, &other], &["--tolerance", "3%"]);
    assert!(code == Some(1) && text.contains("3 of ") && text.contains("+4.0%"), "{text}");
    // A report of one suite is held against one of all, not the other way round.
    let mut scans = record();
    scans.rows.retain(|row| row.suite == Suite::Scan);
    let scans = write(folder.path(), "scans.json", &scans);
    assert_eq!(bench_compare(&[&scans, &a], &[]).0, Some(0));
    assert_eq!(bench_compare(&[&a, &scans], &[]).0, Some(1));
    assert_eq!(bench_compare(&[&a, &scans], &["--tolerance", "lots"]).0, Some(2));
}

/// Pictures, told from blank ones by their colours, that need no font of the machine's.
#[test]
fn charts_as_files() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a.json", &record());
    let (png, svg, page) = (folder.path().join("png"), folder.path().join("svg"), folder.path().join("page.html"));
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.args(["bench", "report"]).arg(&a).arg("--html").arg(&page).arg("--png").arg(&png).arg("--svg").arg(&svg);
    let output = command.env("FONTCONFIG_FILE", "/dev/null").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for id in ["scan", "decode", "prefill", "share", "roofline"] {
        let text = std::fs::read_to_string(svg.join(format!("{id}.svg"))).unwrap();
        assert!(text.contains("<svg") && text.contains("<text"), "{id}");
        let file = std::io::BufReader::new(std::fs::File::open(png.join(format!("{id}.png"))).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert!(info.width == 1720 && info.height > 100, "{id}: {info:?}");
        // The first report's colour, the grey of the letters and axes, and white around them.
        for (what, colour) in [("bars or dots", [0, 158, 115]), ("letters", [128, 128, 128]), ("paper", [255; 3])] {
            let found = pixels.chunks(3).filter(|pixel| *pixel == colour).count();
            assert!(found > 50, "{id}: {found} pixels of {what}");
        }
    }
}

#[test]
fn what_is_no_report_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.json", &record());
    let page = folder.path().join("page.html");
    for (name, text, says) in [
        ("foreign.json", "{\"rows\": []}", "not a report"),
        ("broken.json", "{", "not a report"),
        ("list.json", "[1]", "not a report"),
    ] {
        let bad = folder.path().join(name);
        std::fs::write(&bad, text).unwrap();
        let output = bench_report(&[&good, &bad], &page);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(name) && message.contains(says), "{message}");
    }
    let output = bench_report(&[&folder.path().join("missing.json")], &page);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("missing.json"));
    assert!(!page.exists(), "nothing is written then");
}
