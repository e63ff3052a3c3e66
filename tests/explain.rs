//! What the model sees: the hidden attention must give the recurrence's own output again, on both backends and for every scan, and
//! of Mamba-2 be what transformers' tensors give.

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/make.rs"]
mod make;

use common::{assert_close, compare, load, Golden, On, SCANS, WHOLE};
use mamba_wgpu::error::{Error, InputError};
use mamba_wgpu::explain::{explain, ChannelExplanation, ExplainOptions, Explanation, Unit};
use mamba_wgpu::gpu::Variant;
use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{synthetic::Spec, Backend, Scan};

/// Explains a golden checkpoint's first text, with all of its channels or heads.
async fn explained(golden: &Golden, on: On, scan: Scan) -> Explanation {
    // Chunks smaller than the text must not matter.
    let model = load(&golden.checkpoint(), &on.open().await, scan, 16).await;
    let units = model.config().layers[0].units().unwrap();
    let width = if units.kind == Unit::Head { units.width } else { 1 };
    let whole = golden.expected.config.of_layers("d_ssm").unwrap_or(golden.expected.config.d_inner);
    assert_eq!(units.count * width, whole, "{}", golden.name);
    let options = ExplainOptions { channels: (0..units.count).collect(), ..Default::default() };
    let mut calls = Vec::new();
    let tokens = &golden.expected.sequences[0].tokens;
    let explanation = explain(&model, tokens, &options, &mut |done, all| calls.push((done, all))).await.unwrap();
    let n = golden.expected.config.n_layer;
    assert_eq!(calls, (1..=n).map(|done| (done, n)).collect::<Vec<_>>());
    for layer in &explanation.layers {
        assert_eq!((layer.units, layer.channels.len()), (units, units.count));
        for c in &layer.channels {
            let l = tokens.len();
            assert_eq!((c.u.len(), c.y.len(), c.attention.len()), (l * width, l * width, l * l));
        }
    }
    explanation
}

/// The largest of all channels' reproduction errors; NaN if any is.
fn worst(explanation: &Explanation) -> f32 {
    let errors = explanation.layers.iter().flat_map(|l| l.channels.iter().map(|c| c.reproduction_error()));
    errors.fold(0.0, |worst, e| if e.is_nan() || e > worst { e } else { worst })
}

/// A checkpoint's first text by every scan of both backends.
async fn reproduces(golden: &Golden, scans: &[Scan]) {
    let name = &golden.name;
    for on in [On::Cpu, On::Gpu] {
        for &scan in scans {
            let mut explanation = explained(golden, on, scan).await;
            let error = worst(&explanation);
            println!("{name} {on:?} {scan}: {error:.1e}");
            assert!(error < 1e-4, "{name} {on:?} {scan}: {error}");
            assert!(error > 0.0, "{name} {on:?} {scan}: compared with itself");
            let last = |explanation: &mut Explanation| explanation.layers.last_mut().unwrap().channels.pop().unwrap();
            let channel = last(&mut explanation);
            let mut worst_of = |spoilt: ChannelExplanation| {
                let channels = &mut explanation.layers.last_mut().unwrap().channels;
                channels.push(spoilt);
                let error = worst(&explanation);
                last(&mut explanation);
                error
            };
            assert!(channel.y.iter().any(|y| *y != 0.0));
            // The comparison can fail: by one value that is off, and by NaN.
            let (l, size) = (channel.delta.len(), |u: &[f32]| u.iter().fold(0.0f32, |m, u| m.max(u.abs())));
            let mut tokens = channel.u.chunks(channel.u.len() / l).take(6);
            let at = 5 * l + tokens.position(|u| size(u) > 1e-3 * size(&channel.u)).unwrap();
            let mut spoilt = channel.clone();
            spoilt.attention[at] += 100.0 * size(&channel.attention);
            assert!(worst_of(spoilt) > 1e-3, "{name} {on:?} {scan}: a wrong value is not seen");
            let spoilers: [fn(&mut ChannelExplanation, usize); 3] = [
                |c, at| c.attention[at] = f32::NAN,
                |c, _| c.y[0] = f32::NAN,
                |c, _| *c.u.last_mut().unwrap() = f32::NAN,
            ];
            for spoil in spoilers {
                let mut spoilt = channel.clone();
                spoil(&mut spoilt, at);
                assert!(worst_of(spoilt).is_nan(), "{name} {on:?} {scan}");
            }
        }
    }
}

/// Mamba, Falcon-Mamba, and a state of odd size.
#[test]
fn the_hidden_attention_reproduces_the_scans_output() {
    pollster::block_on(async {
        for name in ["original", "falcon-untied", "odd-dims"] {
            reproduces(&Golden::named(name), &SCANS).await;
        }
    });
}

/// All of Mamba-2's variants: groups, a D for each channel, limits of delta, heads beside an MLP.
#[test]
fn heads_reproduce_the_output_of_all_of_their_channels() {
    pollster::block_on(async {
        for golden in Golden::mamba2() {
            reproduces(&golden, &[Scan::Sequential, Scan::Fused]).await;
        }
    });
}

/// tests/golden/explain/NAME.json: of one layer, and of one head of it, from transformers' tensors in float64.
#[derive(serde::Deserialize)]
struct Expected {
    layer: usize,
    head: usize,
    tokens: Vec<u32>,
    #[serde(flatten)]
    values: std::collections::BTreeMap<String, serde_json::Value>,
}

/// A map's rows as far as the diagonal, one after the other.
fn lower(map: &[f32], l: usize) -> Vec<f32> {
    (0..l).flat_map(|i| map[i * l..][..i + 1].iter().copied()).collect()
}

#[test]
fn what_heads_see_is_what_transformers_tensors_give() {
    pollster::block_on(async {
        let mut compared = 0;
        for file in std::fs::read_dir(common::repository("tests/golden/explain")).unwrap() {
            let path = file.unwrap().path();
            let expected: Expected = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let checkpoint = Golden::mamba2_named(path.file_stem().unwrap().to_str().unwrap()).checkpoint();
            for on in [On::Cpu, On::Gpu] {
                for scan in [Scan::Sequential, Scan::Fused] {
                    let model = load(&checkpoint, &on.open().await, scan, WHOLE).await;
                    let (layers, channels) = (Some(vec![expected.layer]), vec![expected.head]);
                    let options = ExplainOptions { layers, channels, ..Default::default() };
                    let all = explain(&model, &expected.tokens, &options, &mut |_, _| {}).await.unwrap();
                    let (layer, head) = (&all.layers[0], &all.layers[0].channels[0]);
                    let l = expected.tokens.len();
                    for (key, got) in [
                        ("delta", &layer.delta),
                        ("forget", &layer.forget),
                        ("state_norm", &layer.state_norm),
                        ("attention", &lower(&layer.attention, l)),
                        ("magnitude", &lower(&layer.magnitude, l)),
                        ("head_delta", &head.delta),
                        ("head_forget", &head.forget),
                        ("head_state_norm", &head.state_norm),
                        ("head_attention", &lower(&head.attention, l)),
                        ("head_u", &head.u),
                        ("head_y", &head.y),
                    ] {
                        let want: Vec<f64> = serde_json::from_value(expected.values[key].clone()).unwrap();
                        let what = format!("{} {on:?} {scan}: {key}", path.display());
                        assert_close(&what, got, &want, 2e-5, 1e-4);
                        // The comparison can fail.
                        for wrong in [got[l / 2] * 1.001 + 1e-4, f32::NAN] {
                            let mut got = got.clone();
                            got[l / 2] = wrong;
                            assert!(compare(&got, &want, 2e-5, 1e-4).is_err(), "{what}: {wrong} is not seen");
                        }
                        compared += 1;
                    }
                }
            }
        }
        assert_eq!(compared, 3 * 4 * 11);
    });
}

#[test]
fn layers_are_means_of_their_channels_and_both_backends_agree() {
    pollster::block_on(async {
        let (mamba, odd) = (Golden::named("falcon-tied-eps"), Golden::mamba2_named("groups5-no-conv-bias"));
        let all = [mamba, odd, Golden::mamba2_named("ssm-everything")];
        let mut layers = Vec::new();
        for golden in &all {
            let (cpu, gpu) =
                (explained(golden, On::Cpu, Scan::Fused).await, explained(golden, On::Gpu, Scan::Fused).await);
            layers.extend(cpu.layers.into_iter().zip(gpu.layers));
        }
        assert_eq!(layers.len(), 3 + 2 + 2);
        for (a, b) in &layers {
            let (l, channels) = (a.delta.len(), a.channels.len() as f32);
            let mean = |of: &dyn Fn(usize) -> f32| (0..a.channels.len()).map(of).sum::<f32>() / channels;
            for i in 0..l {
                let same = |what: &str, got: f32, want: f32| {
                    assert!(
                        (got - want).abs() <= 1e-5 + 1e-4 * want.abs(),
                        "layer {} {what} at {i}: {got} {want}",
                        a.layer
                    );
                };
                same("delta", a.delta[i], mean(&|c| a.channels[c].delta[i]));
                same("forget", a.forget[i], mean(&|c| a.channels[c].forget[i]));
                same("norm", a.state_norm[i].powi(2), mean(&|c| a.channels[c].state_norm[i].powi(2)) * channels);
                for j in 0..l {
                    let at = i * l + j;
                    same("attention", a.attention[at], mean(&|c| a.channels[c].attention[at]));
                    same("magnitude", a.magnitude[at], mean(&|c| a.channels[c].attention[at].abs()));
                    assert!(j <= i || (a.attention[at] == 0.0 && b.attention[at] == 0.0), "above the diagonal");
                }
            }
            for (what, a, b) in [
                ("delta", &a.delta, &b.delta),
                ("forget", &a.forget, &b.forget),
                ("state_norm", &a.state_norm, &b.state_norm),
                ("attention", &a.attention, &b.attention),
                ("magnitude", &a.magnitude, &b.magnitude),
            ] {
                assert_close(what, b, a, 1e-4, 1e-3);
            }
        }
    });
}

/// The state's norm after the last token is that of the state that a session has.
#[test]
fn the_norm_is_the_sessions_state() {
    pollster::block_on(async {
        for golden in [Golden::named("original"), Golden::mamba2_named("sharded")] {
            let sequence = &golden.expected.sequences[0];
            let explanation = explained(&golden, On::Gpu, Scan::Fused).await;
            let state = sequence.ssm_state.as_ref().expect("the first text's state is in the goldens");
            for (layer, state) in explanation.layers.iter().zip(state.chunks(state.len() / explanation.n_layer)) {
                let norm = state.iter().map(|h| f64::from(*h).powi(2)).sum::<f64>().sqrt();
                let got = f64::from(*layer.state_norm.last().unwrap());
                assert!((got - norm).abs() < 1e-3 * norm, "{} layer {}: {got} {norm}", golden.name, layer.layer);
            }
        }
    });
}

#[test]
fn only_what_is_wanted_and_clear_refusals() {
    pollster::block_on(async {
        let golden = Golden::named("odd-dims");
        let tokens = &golden.expected.sequences[2].tokens;
        for on in [On::Cpu, On::Gpu] {
            let model = load(&golden.checkpoint(), &on.open().await, Scan::Fused, WHOLE).await;
            let options = ExplainOptions { layers: Some(vec![1]), channels: vec![7, 2], ..Default::default() };
            let one = explain(&model, tokens, &options, &mut |_, _| {}).await.unwrap();
            assert_eq!(one.layers.iter().map(|l| l.layer).collect::<Vec<_>>(), [1]);
            assert_eq!(one.layers[0].channels.iter().map(|c| c.channel).collect::<Vec<_>>(), [7, 2]);
            let all = explain(&model, tokens, &ExplainOptions::default(), &mut |_, _| {}).await.unwrap();
            assert_eq!((all.layers.len(), all.layers[1].channels.len()), (3, 0));
            assert_close("attention", &one.layers[0].attention, &all.layers[1].attention, 0.0, 0.0);

            let refused =
                async |tokens: &[u32], options: ExplainOptions| match explain(&model, tokens, &options, &mut |_, _| {})
                    .await
                {
                    Err(Error::Input(error)) => error,
                    other => panic!("{other:?}"),
                };
            let of = ExplainOptions::default;
            let error = refused(tokens, ExplainOptions { max_tokens: 129, ..of() }).await;
            assert_eq!(error, InputError::TooManyTokens { tokens: 130, limit: 129 });
            assert!(error.to_string().contains("at most 129"), "{error}");
            assert_eq!(refused(&[], of()).await, InputError::NoTokens);
            assert!(matches!(refused(&[1000], of()).await, InputError::TokenOutOfRange { token: 1000, .. }));
            let error = refused(tokens, ExplainOptions { layers: Some(vec![0, 3]), ..of() }).await;
            assert_eq!(error, InputError::OutOfRange { what: "layer", value: 3, count: 3 });
            let error = refused(tokens, ExplainOptions { channels: vec![54], ..of() }).await;
            assert_eq!(error, InputError::OutOfRange { what: "channel", value: 54, count: 54 });
        }
    });
}

fn program(arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.arg("explain").args(arguments).args(["--backend", "cpu"]).output().unwrap()
}

/// A paragraph of text that the model was not trained on, and some that must not become markup.
fn paragraph() -> String {
    let heldout = std::fs::read_to_string(common::repository("tests/data/austen-4m/heldout.txt")).unwrap();
    heldout[..300].to_owned() + " </script><b>\"&amp;\" {{DATA}}"
}

#[test]
fn the_page_opens_in_a_browser_and_holds_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let (text, html) = (folder.path().join("text.txt"), folder.path().join("page.html"));
    std::fs::write(&text, paragraph()).unwrap();
    let arguments = ["--file", text.to_str().unwrap(), "--html", html.to_str().unwrap(), "--channel", "3,511"];
    let output = program(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(&html).unwrap();
    let own = page.matches("http://www.w3.org/2000/svg").count();
    assert!(page.matches("http://").count() == own && !page.contains("https://"), "it needs nothing from anywhere");
    let (dom, log) = browser::dom(&html);
    assert!(!log.contains("CONSOLE"), "{log}");
    // What the script has drawn: a span a token, the maps that there are, the numbers.
    assert!(dom.contains("<option value=\"511\">channel 511</option>"), "{log}");
    let strip = dom.split_once("class=\"strip\"").unwrap().1.split_once("</div>").unwrap().0;
    assert!(strip.matches("<span").count() > 80 && strip.matches("background-color").count() > 80, "{strip}");
    assert!(strip.contains("&lt;") && !strip.contains("<b>"));
    let readout = dom.split_once("<dl class=\"readout\"").unwrap().1.split_once("</dl>").unwrap().0;
    assert!(readout.contains("<dt>|alpha(i, j)|</dt><dd>") && !readout.contains("not a number"), "{readout}");
    assert_eq!(dom.matches("<polyline points=\"").count(), 3);
}

/// A random Mamba-2 model with the embedded model's tokenizer.
#[test]
fn a_mamba2_is_explained_by_its_heads() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::mamba2(2, 64, 4096);
    let mut weights = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
    spec.write_safetensors(&mut weights, &mut |_, _| {}).unwrap();
    std::fs::write(folder.path().join("config.json"), spec.config_json()).unwrap();
    let tokenizer = common::repository("models/austen-4m/tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    let (model, html) = (folder.path().to_str().unwrap(), folder.path().join("page.html"));
    let run = |more: &[&str]| program(&[&["--model", model, "--text", "Emma Woodhouse, handsome"], more].concat());

    let output = run(&["--channel", "1", "--json", "--html", html.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let units = serde_json::json!({ "kind": "head", "count": 2, "width": 64, "d_state": 128 });
    assert_eq!((&json["layers"][1]["units"], &json["n_layer"]), (&units, &2.into()));
    assert!(json["layers"][0]["channels"][0]["skip"].is_number());
    let explanation: Explanation = serde_json::from_value(json).unwrap();
    assert!(worst(&explanation) < 1e-4 && explanation.layers[1].channels[0].channel == 1);

    let (dom, log) = browser::dom(&html);
    assert!(!log.contains("CONSOLE"), "{log}");
    assert!(dom.contains("2 of 2 layers, 2 heads of 64 channels a layer, 128 states a channel"), "{log}");
    assert!(dom.contains("<option value=\"1\">head 1</option>") && dom.contains("mean size over heads"));
    let readout = dom.split_once("<dl class=\"readout\"").unwrap().1.split_once("</dl>").unwrap().0;
    assert!(readout.contains("<dt>|alpha(i, j)|</dt><dd>") && !readout.contains("not a number"), "{readout}");

    let output = run(&["--channel", "0"]);
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.contains("means over tokens and heads:") && words.contains("  head 0: gives"), "{words}");
    let output = run(&["--channel", "2"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("--channel 2 is out of range: the model has 2"), "{message}");
}

/// Of hybrids, layers are counted as config.json does, and those without a recurrence are left out.
#[test]
fn of_hybrids_the_state_space_layers_are_explained() {
    pollster::block_on(async {
        // Attention in layers 1 and 3 of bamba-hub, in 0 and 3 of nemotron-h, whose 2 and 5 are MLPs; everywhere in falcon-h1.
        for (name, n_layer, want) in
            [("bamba-hub", 4, &[0, 2][..]), ("nemotron-h", 6, &[1, 4]), ("falcon-h1", 2, &[0, 1]), ("llama", 3, &[])]
        {
            let golden = Golden::hybrid_named(name);
            for on in [On::Cpu, On::Gpu] {
                let model = load(&golden.checkpoint(), &on.open().await, Scan::Fused, 16).await;
                let tokens = &golden.expected.sequences[1].tokens;
                let of = async |layers: Option<Vec<usize>>| {
                    let options = ExplainOptions { layers, channels: vec![1], ..Default::default() };
                    explain(&model, tokens, &options, &mut |done, all| assert!(done <= all && all <= n_layer)).await
                };
                let nothing = |result: Result<Explanation, Error>| match result {
                    Err(Error::Input(error @ InputError::NothingToExplain { .. })) => error.to_string(),
                    other => panic!("{name}: {other:?}"),
                };
                if want.is_empty() {
                    assert!(nothing(of(None).await).starts_with("the model's layers are of attention and MLPs alone"));
                    continue;
                }
                let explanation = of(None).await.unwrap();
                let layers: Vec<usize> = explanation.layers.iter().map(|layer| layer.layer).collect();
                assert_eq!((explanation.n_layer, &layers[..]), (n_layer, want), "{name}");
                assert!(worst(&explanation) < 1e-4, "{name} {on:?}: {}", worst(&explanation));
                let last = *want.last().unwrap();
                assert_eq!(of(Some(vec![last])).await.unwrap().layers[..], explanation.layers[want.len() - 1..]);
                assert!(matches!(of(Some(vec![n_layer])).await, Err(Error::Input(InputError::OutOfRange { .. }))));
                if let Some(other) = (0..n_layer).find(|layer| !want.contains(layer)) {
                    let words = format!("layer {other} is of attention and MLPs alone");
                    assert!(nothing(of(Some(vec![other])).await).starts_with(&words), "{name}");
                }
            }
        }
    });
}

/// The program says so, and fails where there is nothing to show.
#[test]
fn layers_without_a_matrix_are_named() {
    // Goldens with as many tokens as the embedded model's tokenizer has.
    for (name, n_layer, blocks) in [("granite-hub", 5, 10), ("llama-bias", 2, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let from = Golden::hybrid_named(name).folder;
        let read = |file: &str| std::fs::read(from.join(file)).unwrap();
        let model = make::Model::read(&read("config.json"), &read("model.safetensors"));
        let model = model.reshape("embed_tokens.weight", &[4096, 32]).config("vocab_size", 4096.into());
        model.save(folder.path());
        let tokenizer = common::repository("models/austen-4m/tokenizer.json");
        std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
        let path = folder.path().to_str().unwrap();
        let run = |more: &[&str]| {
            let output = program(&[&["--model", path, "--text", "Emma"], more].concat());
            let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.code(), words)
        };
        let page = folder.path().join("page.html");
        let (code, words) = run(&["--html", page.to_str().unwrap()]);
        let (no_layer, of_layer) = (run(&["--layer", "9"]), run(&["--layer", "1"]));
        assert!(
            no_layer.0 == Some(2) && no_layer.1.contains(&format!("has {n_layer}, counted from 0")),
            "{}",
            no_layer.1
        );
        if name == "granite-hub" {
            assert_eq!((code, page.exists(), of_layer.0), (Some(0), true, Some(0)), "{words}");
            assert!(words.contains("layers 2, 4 are not shown: attention and MLPs have no matrix"), "{words}");
            let (code, words) = run(&["--layer", "2", "--channel", "0"]);
            assert_eq!(code, Some(2), "{words}");
            assert!(words.contains("--layer: layer 2 is of attention and MLPs alone, which have no matrix"), "{words}");
        } else {
            assert_eq!((code, page.exists(), of_layer.0), (Some(1), false, Some(2)), "{words}");
            assert!(
                words.contains("the model's layers are of attention and MLPs alone, which have no matrix"),
                "{words}"
            );
        }
        let inspect = std::process::Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"))
            .args(["inspect-model", "--model", path, "--json"])
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
        assert_eq!((&json["config"]["n_layer"], &json["config"]["blocks"]), (&n_layer.into(), &blocks.into()));
    }
}

#[test]
fn the_program_prints_numbers_and_refuses_by_flag() {
    let output = program(&["--text", "Emma Woodhouse, handsome, clever", "--layer", "2,0", "--channel", "9", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let explanation: Explanation = serde_json::from_value(json.clone()).unwrap();
    let pieces: Vec<&str> = json["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(pieces.concat(), "Emma Woodhouse, handsome, clever");
    assert_eq!(explanation.layers.iter().map(|l| l.layer).collect::<Vec<_>>(), [0, 2]);
    let l = explanation.tokens.len();
    assert!(l == pieces.len() && explanation.layers.iter().all(|one| one.attention.len() == l * l));
    assert!(worst(&explanation) < 1e-3 && explanation.layers[1].channels[0].channel == 9);
    let forget = &explanation.layers[0].forget;
    assert!(forget.iter().all(|x| *x > 0.0 && *x < 1.0), "{forget:?}");

    for (arguments, code, says) in [
        (&["--text", "Emma", "--layer", "8"][..], 2, "--layer 8 is out of range: the model has 8"),
        (&["--text", "Emma", "--channel", "512"], 2, "--channel 512 is out of range: the model has 512"),
        (
            &["--text", "Emma Woodhouse, handsome", "--max-tokens", "2"],
            2,
            "at most 2 are explained at once (--max-tokens)",
        ),
        (&["--text", ""], 2, "nothing to explain"),
        (&["--text", "Emma", "--file", "x"], 2, "cannot be used with"),
        (&[], 2, "required"),
        (&["--file", "/nowhere/text"], 1, "/nowhere/text"),
        (&["--text", "Emma", "--html", "/nowhere/page.html"], 1, "/nowhere/page.html"),
    ] {
        let output = program(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says) && !message.contains("panicked"), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty());
    }
}

/// A kernel that computes wrongly is seen by the reproduction, and done without once the self-test has switched it off.
#[test]
fn a_spoilt_kernel_is_seen_and_done_without() {
    pollster::block_on(async {
        for golden in [Golden::named("falcon-tied-eps"), Golden::mamba2_named("codestral")] {
            let options = GpuOptions { fault: Some("hidden_attention".into()), ..Default::default() };
            let gpu = Gpu::new(&options).await.expect("these tests need an adapter (Mesa's lavapipe is one)");
            let model = load(&golden.checkpoint(), &Backend::Gpu(gpu.clone()), Scan::Fused, WHOLE).await;
            let last = model.config().layers[0].units().unwrap().count - 1;
            let options = ExplainOptions { channels: vec![1, last], ..Default::default() };
            let tokens = &golden.expected.sequences[0].tokens;
            let spoilt = explain(&model, tokens, &options, &mut |_, _| {}).await.unwrap();
            let error = worst(&spoilt);
            assert!(error.is_nan() || error > 1e-3, "{}: {error}", golden.name);
            gpu.switch_off(Variant::Explain);
            let right = explain(&model, tokens, &options, &mut |_, _| {}).await.unwrap();
            assert!(worst(&right) < 1e-4, "{}: {}", golden.name, worst(&right));
        }
    });
}
