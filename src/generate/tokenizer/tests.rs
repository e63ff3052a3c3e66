//! Encoding and decoding, whole and token by token.

use super::*;
use crate::generate::detokenize::byte_level_bytes;
use proptest::prelude::*;

const AUSTEN: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/austen-4m/tokenizer.json"));

fn austen() -> Tokenizer {
    Tokenizer::from_bytes(AUSTEN, 4096).unwrap()
}

/// SentencePiece as published with Mistral-like models: `▁` for spaces, bytes as `<0xE2>`, one leading space dropped.
fn sentence_piece() -> Tokenizer {
    let mut vocab: Vec<String> =
        ["<unk>", "</s>", "\u{2581}hello", "\u{2581}world", "lo", "\u{2581}"].map(String::from).to_vec();
    vocab.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let vocab: serde_json::Map<_, _> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, serde_json::Value::from(id))).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes(), 262).unwrap()
}

/// Pieces of each token, and the rest as the last one.
fn stream(tokenizer: &Tokenizer, context: &[u32], tokens: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.decode_stream(context);
    let mut pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn byte_characters_are_the_tokenizers_own() {
    // The table of `byte_level_bytes` against the library's decoder, for each character it may contain.
    let tokenizer = austen();
    for id in 0..4096 {
        let token = tokenizer.token(id).unwrap();
        if !tokenizer.is_special(id) {
            let text = String::from_utf8_lossy(&byte_level_bytes(&token)).into_owned();
            assert_eq!(text, tokenizer.decode(&[id]).unwrap(), "token {id} {token:?}");
        }
    }
    let mut bytes: Vec<u8> = (0x21..0x180)
        .filter_map(char::from_u32)
        .filter(|c| !c.is_ascii_control()) // DEL stands for itself, as any text does
        .filter_map(|c| match &*byte_level_bytes(&c.to_string()) {
            [byte] => Some(*byte),
            _ => None,
        })
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>(), "each byte once");
    assert_eq!(&*byte_level_bytes("  "), b"  ", "an added token is text as it stands");
}

#[test]
fn encodes_what_transformers_encodes() {
    let tokenizer = austen();
    let tokens = tokenizer.encode("It is a truth universally acknowledged, that").unwrap();
    assert_eq!(tokens, [841, 341, 259, 1492, 512, 73, 1286, 765, 3907, 1050, 12, 329]);
    assert_eq!(tokenizer.encode("").unwrap(), Vec::<u32>::new());
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(841) && !tokenizer.is_special(99_999));
    assert_eq!(tokenizer.token_to_id("<|endoftext|>"), Some(0));
}

#[test]
fn an_emoji_comes_out_whole() {
    let tokenizer = austen();
    let tokens = tokenizer.encode("a🦀é").unwrap();
    assert!(tokens.len() > 3, "the test needs a character of several tokens: {tokens:?}");
    let pieces = stream(&tokenizer, &[], &tokens);
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    assert_eq!(pieces.concat(), "a🦀é");
    // Cut within the crab: what is left comes out at the end, once, as one broken character.
    let pieces = stream(&tokenizer, &[], &tokens[..2]);
    assert_eq!(pieces, ["a", "", "\u{fffd}"]);
}

#[test]
fn special_and_unknown_tokens_have_no_text() {
    for tokenizer in [austen(), sentence_piece()] {
        let mut decode = tokenizer.decode_stream(&[]);
        let end = tokenizer.token_to_id("<|endoftext|>").or(tokenizer.token_to_id("</s>")).unwrap();
        for token in [end, 5000, u32::MAX] {
            assert_eq!(decode.push(token).unwrap(), "");
        }
        assert_eq!(decode.unknown(), 2);
        assert_eq!(decode.finish().unwrap(), "");
    }
}

#[test]
fn a_token_the_model_does_not_have_is_named() {
    let tokenizer = Tokenizer::from_bytes(AUSTEN, 1000).unwrap();
    tokenizer.encode("It is a").unwrap();
    let message = tokenizer.encode("It is a truth").unwrap_err().to_string();
    for part in ["1492", "truth", "1000", "4096"] {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe", b"{\"model\": 1}"] {
        let error = Tokenizer::from_bytes(bytes, 10).unwrap_err();
        assert!(matches!(error, GenerateError::BadTokenizer { .. }), "{error}");
    }
}

#[test]
fn a_continuation_keeps_its_first_space() {
    let tokenizer = sentence_piece();
    let (hello, world) = (tokenizer.token_to_id("▁hello").unwrap(), tokenizer.token_to_id("▁world").unwrap());
    let end = tokenizer.token_to_id("</s>").unwrap();
    assert_eq!(stream(&tokenizer, &[], &[hello, world]), ["hello", " world", ""]);
    assert_eq!(stream(&tokenizer, &[hello], &[end, world, world]), ["", " world", " world", ""]);
}

#[test]
fn byte_tokens_come_out_whole() {
    let tokenizer = sentence_piece();
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let hello = tokenizer.token_to_id("▁hello").unwrap();
    let mut tokens = vec![hello];
    tokens.extend("é🦀é".bytes().map(byte));
    tokens.push(hello);
    let pieces = stream(&tokenizer, &[], &tokens);
    assert_eq!(pieces.concat(), "helloé🦀é hello");
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    // Bytes that never become a character neither block the stream nor grow it for ever.
    let broken = stream(&tokenizer, &[], &[vec![byte(0x80); 100], vec![hello]].concat());
    assert!(broken.concat().ends_with(" hello") && broken[20].is_empty() | broken[20].contains('\u{fffd}'));
    assert!(broken.iter().take(16).any(|piece| !piece.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn text_survives_token_by_token(text in "([a-zA-Z ,.\n]{0,6}|[éàñüß]{0,3}|[语言模型]{0,3}|[🦀👩‍🚀🇫🇷]{0,2}|\\PC{0,4}){0,6}") {
        let tokenizer = austen();
        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text.clone());
        let pieces = stream(&tokenizer, &[], &tokens);
        prop_assert_eq!(pieces.concat(), text.clone());
        // Nothing is handed out that must be taken back: each piece adds whole characters of the text.
        if !text.contains('\u{fffd}') {
            prop_assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
        }
    }

    #[test]
    fn any_tokens_stream_as_they_decode(tokens in prop::collection::vec(prop_oneof![0u32..4096, 94u32..256], 0..24)) {
        // Mostly invalid UTF-8: bytes of characters in the wrong order.
        let tokenizer = austen();
        prop_assert_eq!(stream(&tokenizer, &[], &tokens).concat(), tokenizer.decode(&tokens).unwrap());
    }
}

/// tests/golden/tokenizers: files as they lie beside models, and what transformers makes of texts with them.
#[cfg(not(target_arch = "wasm32"))]
mod goldens {
    use super::*;
    use crate::model::Sidecars;
    use std::borrow::Cow;
    use std::path::Path;

    #[derive(serde::Deserialize)]
    struct Expected {
        eos: Option<u32>,
        texts: Vec<Row>,
    }

    #[derive(serde::Deserialize)]
    struct Row {
        text: String,
        special: Vec<u32>,
        plain: Vec<u32>,
        decoded: String,
    }

    fn all() -> Vec<(String, Sidecars, Expected)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let expected = serde_json::from_slice(&std::fs::read(path.join("expected.json")).unwrap()).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            all.push((name, Sidecars::read(&path).unwrap(), expected));
        }
        assert!(all.len() >= 17, "{}", all.len());
        all
    }

    /// What differs from transformers' tokens.
    fn difference(tokenizer: &Tokenizer, expected: &Expected) -> Option<String> {
        for Row { text, special, plain, decoded } in &expected.texts {
            let got = (tokenizer.encode_with_special_tokens(text).unwrap(), tokenizer.encode(text).unwrap());
            if (&got.0, &got.1) != (special, plain) {
                return Some(format!("{text:?}: {got:?}, expected {:?}", (special, plain)));
            }
            let text = tokenizer.decode(plain).unwrap();
            if text != *decoded {
                return Some(format!("{plain:?}: {text:?}, expected {decoded:?}"));
            }
            // The tokens around a text are the same around every text.
            let whole = [tokenizer.tokens_before(), plain, tokenizer.tokens_after()].concat();
            assert_eq!(&whole, special);
        }
        let eos: Vec<u32> = expected.eos.into_iter().collect();
        (tokenizer.end_of_text() != eos).then(|| format!("ends with {:?}, expected {eos:?}", tokenizer.end_of_text()))
    }

    #[test]
    fn every_kind_of_tokenizer_gives_what_transformers_gives() {
        for (name, sidecars, expected) in all() {
            let tokenizer = Tokenizer::from_sidecars(&sidecars, 402).unwrap().unwrap();
            assert_eq!(difference(&tokenizer, &expected), None, "{name}");
            // With a byte order mark before each file.
            let mut marked = Sidecars::default();
            for (file, bytes) in sidecars.iter() {
                marked.insert(file, Cow::Owned([b"\xef\xbb\xbf", bytes].concat()));
            }
            let marked = Tokenizer::from_sidecars(&marked, 402).unwrap().unwrap();
            assert_eq!(difference(&marked, &expected), None, "{name}, marked");
            assert_eq!(marked.fingerprint(), tokenizer.fingerprint());
        }
    }

    #[test]
    fn the_comparison_can_fail() {
        let all = all();
        let of = |name: &str| all.iter().find(|(other, ..)| other == name).unwrap();
        for (ours, theirs) in [
            ("template-before", "template-around"),
            ("slow-gpt2", "slow-neox"),
            ("slow-gpt2", "slow-qwen2"),
            ("slow-gpt2", "slow-gpt2-added"),
            ("slow-gpt2", "slow-gpt2-space"),
            ("none-flags", "sequence-after"),
        ] {
            let tokenizer = Tokenizer::from_sidecars(&of(ours).1, 402).unwrap().unwrap();
            assert!(difference(&tokenizer, &of(theirs).2).is_some(), "{ours} as {theirs}");
        }
    }

    #[test]
    fn a_fingerprint_is_the_content_not_the_writing() {
        let all = all();
        let (_, sidecars, _) = all.iter().find(|(name, ..)| name == "template-before").unwrap();
        let json: serde_json::Value = serde_json::from_slice(sidecars.get(TOKENIZER).unwrap()).unwrap();
        let of = |json: &serde_json::Value, pretty: bool| {
            let text = if pretty { format!("{json:#}") } else { json.to_string() };
            Tokenizer::from_bytes(text.as_bytes(), 400).unwrap().fingerprint()
        };
        let before = of(&json, false);
        assert_eq!(of(&json, true), before);
        // Merges as older versions write them.
        let mut old = json.clone();
        for merge in old["model"]["merges"].as_array_mut().unwrap() {
            *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
        }
        assert_eq!(of(&old, false), before);
        let mut swapped = json.clone();
        let vocab = swapped["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
        vocab.insert("a".into(), b);
        vocab.insert("b".into(), a);
        let mut fewer = json.clone();
        fewer["model"]["merges"].as_array_mut().unwrap().pop();
        let mut plain = json.clone();
        plain["added_tokens"][2]["special"] = false.into();
        for other in [swapped, fewer, plain] {
            assert_ne!(of(&other, false), before);
        }
    }

    #[test]
    fn what_is_damaged_or_unknown_is_said_by_file() {
        let all = all();
        let (_, slow, _) = all.iter().find(|(name, ..)| name == "slow-gpt2").unwrap();
        let with = |file: &str, text: &str| {
            let mut sidecars = slow.clone();
            sidecars.insert(file, Cow::Owned(text.as_bytes().to_vec()));
            Tokenizer::from_sidecars(&sidecars, 400).unwrap_err().to_string()
        };
        for (file, text, parts) in [
            ("vocab.json", "[]", &["vocab.json"][..]),
            ("vocab.json", "{\"a\": -1}", &["vocab.json"]),
            ("vocab.json", "", &["vocab.json"]),
            ("merges.txt", "#version: 0.2\nabc\n", &["merges.txt", "line 2"]),
            ("merges.txt", "a b c\n", &["merges.txt", "line 1"]),
            ("merges.txt", "t zzz\n", &["merges.txt", "zzz", "vocab.json"]),
            ("tokenizer_config.json", "{", &["tokenizer_config.json"]),
            ("tokenizer_config.json", "[]", &["tokenizer_config.json"]),
            (
                "tokenizer_config.json",
                "{\"add_bos_token\": \"yes\"}",
                &["tokenizer_config.json", "add_bos_token", "yes"],
            ),
            ("tokenizer_config.json", "{\"eos_token\": 3}", &["tokenizer_config.json", "eos_token"]),
            ("tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": \"a\"}}", &["added_tokens_decoder", "\"x\""]),
            ("tokenizer_config.json", "{\"tokenizer_class\": \"CLIPTokenizer\"}", &["CLIPTokenizer", "AutoTokenizer"]),
            ("added_tokens.json", "{\"<x>\": \"y\"}", &["added_tokens.json", "<x>"]),
        ] {
            let message = with(file, text);
            assert!(parts.iter().all(|part| message.contains(part)), "{file} {text}: {message}");
        }
        // One of the two alone is none.
        let mut half = Sidecars::default();
        half.insert("vocab.json", Cow::Borrowed(b"{}"));
        assert!(Tokenizer::from_sidecars(&half, 400).unwrap().is_none());
    }
}

/// What two runs give out, the first of which ends after `cut` tokens, to be continued.
fn in_two_runs(tokenizer: &Tokenizer, tokens: &[u32], cut: usize) -> String {
    let (first, second) = tokens.split_at(cut);
    let mut stream = tokenizer.decode_stream(&[]);
    let mut text: String = first.iter().map(|&token| stream.push(token).unwrap()).collect();
    text += &stream.pause().unwrap();
    assert_eq!(text, tokenizer.decode_so_far(first).unwrap(), "{tokens:?} {cut}");
    text + &stream_all(tokenizer, first, second)
}

fn stream_all(tokenizer: &Tokenizer, context: &[u32], tokens: &[u32]) -> String {
    stream(tokenizer, context, tokens).concat()
}

/// Tokens of single bytes.
fn byte_tokens(tokenizer: &Tokenizer, bytes: &[u8]) -> Vec<u32> {
    let name = |byte: u8| match tokenizer.is_byte_level() {
        true => {
            let whole = |c: &char| matches!(&*byte_level_bytes(&c.to_string()), [b] if *b == byte);
            (0x21..0x180).filter_map(char::from_u32).find(whole).unwrap().to_string()
        }
        false => format!("<0x{byte:02X}>"),
    };
    bytes.iter().map(|&byte| tokenizer.token_to_id(&name(byte)).unwrap()).collect()
}

#[test]
fn a_character_split_between_runs_appears_once() {
    for tokenizer in [austen(), sentence_piece()] {
        for character in ["é", "€", "🦀"] {
            let tokens = byte_tokens(&tokenizer, format!("a{character}b").as_bytes());
            for cut in 1..tokens.len() {
                assert_eq!(in_two_runs(&tokenizer, &tokens, cut), format!("a{character}b"), "cut at {cut}");
                // The whole of it comes with its last token.
                if (2..=character.len()).contains(&cut) {
                    let pieces = stream(&tokenizer, &tokens[..cut], &tokens[cut..]);
                    assert_eq!(pieces[character.len() - cut], character, "{pieces:?}");
                    // Who shows the first part alone sees that something is there.
                    assert!(stream_all(&tokenizer, &[], &tokens[..cut]).ends_with('\u{fffd}'));
                }
            }
        }
    }
}

#[test]
fn bytes_that_never_become_a_character_are_replaced_once() {
    let tokenizer = austen();
    for bytes in [
        &b"a\xe2\x82b"[..],
        b"\xf0\x9f\xa6",
        b"\xff\xff\xc3",
        b"\xf0\x9f\xe2\x82\xac",
        b"\x80\x80\x80\x80\xe2",
        b"\xe2",
    ] {
        let tokens = byte_tokens(&tokenizer, bytes);
        for cut in 0..=tokens.len() {
            let text = in_two_runs(&tokenizer, &tokens, cut);
            assert_eq!(text, String::from_utf8_lossy(bytes), "{bytes:x?} cut at {cut}");
        }
    }
    // A special token within a character has no text, and does not end it.
    let mut tokens = byte_tokens(&tokenizer, "é".as_bytes());
    tokens.insert(1, 0);
    assert_eq!((1..3).map(|cut| in_two_runs(&tokenizer, &tokens, cut)).collect::<Vec<_>>(), ["é", "é"]);
}

#[test]
fn pieces_of_a_text_that_goes_on_end_with_a_whole_character() {
    let tokenizer = austen();
    let tokens = byte_tokens(&tokenizer, "a🦀".as_bytes());
    assert_eq!(tokenizer.pieces_so_far(&tokens[..4]).unwrap(), ["a", "", "", ""]);
    assert_eq!(tokenizer.pieces(&tokens[..4]).unwrap(), ["a", "", "", "\u{fffd}"]);
    assert_eq!(tokenizer.pieces_so_far(&tokens).unwrap(), tokenizer.pieces(&tokens).unwrap());
}

proptest! {
    #[test]
    fn texts_cut_anywhere_are_whole(tokens in prop::collection::vec(0u32..4096, 1..24), cut in any::<prop::sample::Index>()) {
        let tokenizer = austen();
        let text = in_two_runs(&tokenizer, &tokens, cut.index(tokens.len() + 1));
        prop_assert_eq!(text, tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn texts_of_bytes_cut_anywhere_are_whole(bytes in prop::collection::vec(prop_oneof![0x61u8..0x64, 0x80u8..0x84, 0xc3u8..0xc5, 0xe2u8..0xe4, 0xf0u8..0xf2], 1..12), cut in any::<prop::sample::Index>()) {
        let tokenizer = austen();
        let tokens = byte_tokens(&tokenizer, &bytes);
        let text = in_two_runs(&tokenizer, &tokens, cut.index(tokens.len() + 1));
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}
