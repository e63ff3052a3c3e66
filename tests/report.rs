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
    assert_eq!(compare::warnings(&[a.clone(), b.clone()]), Vec::<String>::new());
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
