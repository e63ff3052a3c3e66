use super::*;

fn saved() -> SavedState {
    SavedState {
        model: ModelId {
            fingerprint: "5a".repeat(32).parse().unwrap(),
            description: "a model".into(),
            tokenizer: None,
        },
        tokens: vec![1, 2, 3, u32::MAX],
        consumed: 3,
        state: StateData { conv: vec![0.5, -0.0, 1e-40], ssm: vec![f32::MAX, -1.5], ..StateData::default() },
    }
}

/// Bytes with their checksum made right again.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - CHECKSUM);
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

#[test]
fn reads_back_bit_for_bit() {
    let read = SavedState::from_bytes("f", &saved().to_bytes()).unwrap();
    assert_eq!(read, saved());
    assert!(read.state.conv[1].is_sign_negative());
    assert_eq!(read.pending(), [u32::MAX]);
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let bytes = saved().to_bytes();
    for at in 0..bytes.len() {
        for flip in [1, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            let error = SavedState::from_bytes("f", &bad).unwrap_err();
            match at {
                0..8 => assert!(matches!(error, StateError::NotAState { .. }), "{at}: {error}"),
                // Version 0 is damage, any other is a later one.
                8..12 => {
                    assert!(matches!(error, StateError::Newer { .. } | StateError::Damaged { .. }), "{at}: {error}")
                }
                _ => assert!(matches!(error, StateError::Damaged { .. }), "{at}: {error}"),
            }
        }
        let error = SavedState::from_bytes("f", &bytes[..at]).unwrap_err();
        assert!(matches!(error, StateError::NotAState { .. } | StateError::Damaged { .. }), "cut at {at}: {error}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(SavedState::from_bytes("f", &longer), Err(StateError::Damaged { .. })));
}

#[test]
fn a_newer_version_is_told_as_such() {
    let mut bytes = saved().to_bytes();
    bytes[8] = 3;
    let message = SavedState::from_bytes("dir/f", &signed(bytes)).unwrap_err().to_string();
    assert!(
        message.contains("dir/f") && message.contains("version 3") && message.contains("up to version 2"),
        "{message}"
    );
}

#[test]
fn headers_that_lie_are_refused_even_with_a_right_checksum() {
    let bytes = saved().to_bytes();
    let with = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bad = bytes.clone();
        bad[at..at + to.len()].copy_from_slice(to.as_bytes());
        SavedState::from_bytes("f", &signed(bad)).unwrap_err().to_string()
    };
    assert!(with("\"tokens\":4", "\"tokens\":5").contains("does not describe"));
    assert!(with("\"consumed\":3", "\"consumed\":5").contains("does not describe"));
    assert!(with("\"values\":3", "\"values\":-").contains("header"));
    assert!(with("\"values\":3", "\"values\":2").contains("does not describe"));
    assert!(with("conv_state", "conv_stats").contains("a state \"conv_stats\" that there is not"));
    assert!(with("ssm_state\"", "ssm_state\\").contains("header"));
    assert!(with("5a5a", "5x5a").contains("no fingerprint"));
    // The longest header there can be, of a file that has none.
    let mut bad = bytes.clone();
    bad[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(SavedState::from_bytes("f", &signed(bad)).is_err());
}

#[test]
fn values_that_no_text_leads_to_are_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut state = saved();
        state.state.ssm[1] = value;
        let message = SavedState::from_bytes("dir/f", &state.to_bytes()).unwrap_err().to_string();
        assert!(message.contains("dir/f") && message.contains("ssm_state holds"), "{message}");
    }
}

/// A file as programs of before version 2 wrote it.
#[test]
fn version_1_is_read_still() {
    let SavedState { model, tokens, consumed, state } = saved();
    let header = format!(
        r#"{{"fingerprint":"{}","model":"a model","tokens":4,"consumed":{consumed},"conv":3,"ssm":2,"written_by":"mamba-wgpu 0.1.0"}}"#,
        model.fingerprint
    );
    let mut bytes = [&MAGIC[..], &1u32.to_le_bytes(), &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
    bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    bytes.extend(state.conv.iter().chain(&state.ssm).flat_map(|x| x.to_le_bytes()));
    bytes.extend([0; CHECKSUM]);
    let bytes = signed(bytes);
    assert_eq!(SavedState::from_bytes("f", &bytes).unwrap(), saved());
    let short = String::from_utf8_lossy(&bytes).find("\"ssm\":2").unwrap() + 6;
    let mut bad = bytes.clone();
    bad[short] = b'1';
    assert!(matches!(SavedState::from_bytes("f", &signed(bad)), Err(StateError::Damaged { .. })));
    // What stands for either is not both.
    let twice = String::from_utf8_lossy(&saved().to_bytes()).matches("conv").count();
    assert_eq!(twice, 1);
}

#[test]
fn another_models_state_is_refused_by_name() {
    let state = saved();
    assert!(state.check_model("f", &state.model).is_ok());
    let other =
        ModelId { fingerprint: "00".repeat(32).parse().unwrap(), description: "another".into(), tokenizer: None };
    let message = state.check_model("dir/f", &other).unwrap_err().to_string();
    assert!(message.contains("dir/f") && message.contains("a model") && message.contains("another"), "{message}");
}

#[test]
fn another_tokenizers_state_is_refused_where_both_say_which() {
    let with = |digits: Option<&str>| {
        let tokenizer = digits.map(|digits| digits.repeat(32).parse().unwrap());
        ModelId { tokenizer, ..saved().model }
    };
    for (theirs, ours, refused) in [
        (None, None, false),
        (None, Some("0a"), false),
        (Some("0a"), None, false),
        (Some("0a"), Some("0a"), false),
        (Some("0a"), Some("0b"), true),
    ] {
        let state = SavedState { model: with(theirs), ..saved() };
        let read = SavedState::from_bytes("f", &state.to_bytes()).unwrap();
        assert_eq!(read, state);
        let result = read.check_model("dir/f", &with(ours));
        assert_eq!(result.is_err(), refused, "{theirs:?} {ours:?}");
        if let Err(error) = result {
            let message = error.to_string();
            assert!(["dir/f", "0a0a0a0a", "0b0b0b0b"].iter().all(|part| message.contains(part)), "{message}");
        }
    }
    // A header as programs from before wrote it.
    let old = String::from_utf8_lossy(&saved().to_bytes()).contains("tokenizer");
    assert!(!old);
}

#[test]
fn writing_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.state");
    saved().write(&path).unwrap();
    assert_eq!(SavedState::read(&path).unwrap(), saved());
    let longer = SavedState { tokens: vec![7; 50], ..saved() };
    longer.write(&path).unwrap();
    assert_eq!(SavedState::read(&path).unwrap(), longer);
    // A folder in its place: it is refused, and nothing is left behind.
    let taken = folder.path().join("taken");
    std::fs::create_dir_all(taken.join("x")).unwrap();
    assert!(matches!(saved().write(&taken), Err(StateError::File(_))));
    assert!(matches!(saved().write(&folder.path().join("no/such")), Err(StateError::File(_))));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(matches!(SavedState::read(&taken), Err(StateError::NotAState { .. })));
    assert!(matches!(SavedState::read(&folder.path().join("none")), Err(StateError::Io { .. })));
}
