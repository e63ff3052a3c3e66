//! Damaged safetensors files.

use crate::{
    make::{safetensors_of, with_header, Model},
    with_weights,
};
use mamba_wgpu::model::{Checkpoint, LoadError};
use std::borrow::Cow;

#[test]
fn truncated_anywhere() {
    let bytes = Model::tiny().safetensors();
    for length in [1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        refused!(Checkpoint::open(with_weights(&bytes[..length]).path()), Header, "model.safetensors");
    }
}

#[test]
fn bytes_after_the_end() {
    let mut bytes = Model::tiny().safetensors();
    bytes.push(0);
    refused!(Checkpoint::open(with_weights(&bytes).path()), Header, "model.safetensors", "after the last tensor");
}

#[test]
fn header_length_beyond_all_bounds() {
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 100_000_001, 1 << 32] {
        let mut bytes = Model::tiny().safetensors();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused!(Checkpoint::open(with_weights(&bytes).path()), Header, "model.safetensors", &length.to_string());
    }
}

#[test]
fn header_that_is_not_json_or_not_tensors() {
    let deep = "[".repeat(100_000);
    let list = [
        "",
        "{",
        "[]",
        "3",
        "{\"t\": 3}",
        "{\"t\": {}}",
        "\u{1}",
        "{\"t\": {\"dtype\": \"F99\", \"shape\": [], \"data_offsets\": [0, 0]}}",
        &deep,
    ];
    for header in list {
        refused!(Checkpoint::open(with_weights(&with_header(header, &[])).path()), Header, "model.safetensors", "JSON");
    }
    let mut not_utf8 = with_header("{\"  \": {}}", &[]);
    not_utf8[10] = 0xff;
    refused!(Checkpoint::open(with_weights(&not_utf8).path()), Header, "model.safetensors");
}

#[test]
fn offsets_that_make_no_sense() {
    let entry =
        |a: u64, b: u64| format!(r#"{{"dtype": "U8", "shape": [{}], "data_offsets": [{a}, {b}]}}"#, b.wrapping_sub(a));
    for (header, words) in [
        (format!(r#"{{"out": {}}}"#, entry(0, 9)), ["`out`", "0..9"]),
        (format!(r#"{{"far": {}}}"#, entry(u64::MAX - 1, u64::MAX)), ["`far`", "18446744073709551615"]),
        (format!(r#"{{"back": {}}}"#, r#"{"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}"#), ["`back`", "4..0"]),
        (format!(r#"{{"a": {}, "b": {}}}"#, entry(0, 6), entry(4, 8)), ["`b`", "overlaps"]),
        (format!(r#"{{"a": {}, "b": {}}}"#, entry(0, 2), entry(4, 8)), ["`b`", "gap"]),
        (r#"{"size": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}"#.into(), ["`size`", "[3]"]),
        (
            r#"{"big": {"dtype": "F32", "shape": [9223372036854775808, 8], "data_offsets": [0, 8]}}"#.into(),
            ["`big`", "F32"],
        ),
        (r#"{"odd": {"dtype": "F4", "shape": [17], "data_offsets": [0, 8]}}"#.into(), ["`odd`", "F4"]),
    ] {
        let result = Checkpoint::open(with_weights(&with_header(&header, &[0; 8])).path());
        refused!(result, Header, "model.safetensors", words[0], words[1]);
    }
    // 2^64 bytes in sum, in steps that are no overflow each.
    let step = 1u64 << 61;
    let eight: Vec<String> =
        (0..8).map(|i| format!(r#""t{i}": {}"#, entry(i * step, (i * step).saturating_add(step - i / 7)))).collect();
    let result = Checkpoint::open(with_weights(&with_header(&format!("{{{}}}", eight.join(",")), &[0; 8])).path());
    refused!(result, Header, "model.safetensors", "`t0`");
}

#[test]
fn the_same_name_twice() {
    let model = Model::tiny();
    let twice = safetensors_of(model.tensors.iter().chain(model.tensors.iter().take(1)));
    refused!(
        Checkpoint::open(with_weights(&twice).path()),
        DuplicateTensor,
        "model.safetensors",
        &model.tensors[0].name
    );
    let shard = || Cow::Owned(model.safetensors());
    let result = Checkpoint::from_bytes(&model.config_json(), vec![shard(), shard()], None);
    refused!(result, DuplicateTensor, "model-00002-of-00002", "model-00001-of-00002");
    refused!(Checkpoint::from_bytes(&model.config_json(), vec![], None), NoWeights, "memory");
}
