//! The loop of generation, with a scripted model.

use super::*;
use crate::error::InputError;
use std::sync::atomic::Ordering;

/// Plays a list of tokens, and records what it was fed.
#[derive(Debug, Default)]
struct Script {
    tokens: Vec<u32>,
    sampled: usize,
    fed: Vec<u32>,
    prefills: Vec<usize>,
    began: Vec<Vec<u32>>,
}

impl TokenSource for Script {
    async fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        self.fed.extend(tokens);
        self.prefills.push(tokens.len());
        Ok(())
    }
    async fn step(&mut self, token: u32) -> Result<()> {
        self.fed.push(token);
        Ok(())
    }
    fn begin_sampling(&mut self, _: &SamplingParams, context: &[u32]) -> Result<()> {
        self.began.push(context.to_vec());
        Ok(())
    }
    async fn sample(&mut self) -> Result<u32> {
        self.sampled += 1;
        self.tokens.get(self.sampled - 1).copied().ok_or(InputError::NoTokens.into())
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/austen-4m/tokenizer.json")), 5000)
        .unwrap()
}

fn generator(prompt: &str, tokens: &[u32], options: GenerateOptions) -> Generator<Script> {
    let source = Script { tokens: tokens.to_vec(), ..Script::default() };
    let prompt = tokenizer().encode(prompt).unwrap();
    Generator::new(source, &tokenizer(), &prompt, options).unwrap()
}

fn rest(generator: &mut Generator<Script>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(piece) = pollster::block_on(generator.next()).unwrap() {
        pieces.push(piece);
    }
    assert_eq!(pollster::block_on(generator.next()).unwrap(), None, "ended means ended");
    pieces
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..GenerateOptions::default() }
}

#[test]
fn length_ends_with_the_last_token_pending() {
    let tokens = tokenizer().encode(" a truth universally acknowledged").unwrap();
    let mut generator = generator("It is", &tokens, options(3));
    let pieces = rest(&mut generator);
    assert_eq!(pieces.iter().map(|piece| piece.token.unwrap()).collect::<Vec<_>>(), &tokens[..3]);
    assert_eq!(text(&pieces), tokenizer().decode(&tokens[..3]).unwrap());
    assert_eq!(generator.finish_reason(), Some(FinishReason::Length));
    assert_eq!(generator.stats(), Stats { prompt_tokens: 2, generated_tokens: 3, unknown_tokens: 0 });
    let prompt = tokenizer().encode("It is").unwrap();
    assert_eq!(generator.source.fed, [&prompt, &tokens[..2]].concat(), "no step for nothing");
    assert_eq!(generator.pending(), Some(tokens[2]));
    pollster::block_on(generator.settle()).unwrap();
    pollster::block_on(generator.settle()).unwrap();
    assert_eq!(generator.pending(), None);
    let source = generator.into_source();
    assert_eq!(source.fed, [&prompt, &tokens[..3]].concat());
    assert_eq!(source.began, [prompt]);
}

#[test]
fn the_state_after_each_piece_is_the_documented_one() {
    let tokens = tokenizer().encode("universally acknowledged").unwrap();
    let mut generator = generator("x", &tokens, options(tokens.len()));
    for n in 0..tokens.len() {
        let piece = pollster::block_on(generator.next()).unwrap().unwrap();
        assert_eq!(piece.token, Some(tokens[n]));
        assert_eq!(generator.source.fed[1..], tokens[..n]);
        assert_eq!(generator.pending(), Some(tokens[n]));
    }
}

#[test]
fn end_of_text_is_no_text_unless_ignored() {
    let mut script = tokenizer().encode("Emma").unwrap();
    script.push(0);
    script.extend(tokenizer().encode(" Jane").unwrap());
    let with_eos = |ignore_eos| GenerateOptions { eos: Some(vec![0]), ignore_eos, ..options(script.len()) };
    let mut stops = generator("x", &script, with_eos(false));
    assert_eq!(text(&rest(&mut stops)), "Emma");
    assert_eq!(stops.finish_reason(), Some(FinishReason::Eos));
    assert_eq!((stops.stats().generated_tokens, stops.pending()), (script.iter().position(|&t| t == 0).unwrap(), None));
    let mut goes_on = generator("x", &script, with_eos(true));
    assert_eq!(text(&rest(&mut goes_on)), "Emma Jane");
    assert_eq!(goes_on.finish_reason(), Some(FinishReason::Length));
}

#[test]
fn a_stop_string_across_tokens_is_not_emitted() {
    let script = tokenizer().encode("the young man who had been so much in love").unwrap();
    let stop = vec!["ng man wh".to_string()];
    let mut generator = generator("x", &script, GenerateOptions { stop, ..options(100) });
    let pieces = rest(&mut generator);
    assert_eq!(text(&pieces), "the you");
    assert!(pieces.len() > 3, "{pieces:?}");
    assert_eq!(generator.finish_reason(), Some(FinishReason::Stop));
    assert!(generator.source.sampled < script.len());
}

#[test]
fn what_was_held_back_comes_at_the_end() {
    let script = tokenizer().encode("a 🦀").unwrap();
    let cut = script.len() - 1;
    // An unfinished character at the length limit.
    let mut by_length = generator("x", &script, options(cut));
    assert_eq!(text(&rest(&mut by_length)), "a \u{fffd}");
    // The beginning of a stop string before the end of text, as a piece without a token.
    let mut script = tokenizer().encode("the EN").unwrap();
    script.push(0);
    let stop = vec!["END".to_string()];
    let mut by_eos = generator("x", &script, GenerateOptions { stop, eos: Some(vec![0]), ..options(100) });
    let pieces = rest(&mut by_eos);
    assert_eq!(text(&pieces), "the EN");
    assert_eq!(pieces.last().unwrap().token, None);
    assert_eq!(by_eos.finish_reason(), Some(FinishReason::Eos));
}

#[test]
fn parts_of_a_text_are_the_whole_and_stop_where_it_does() {
    let script = tokenizer().encode("the young man who had been so much in love").unwrap();
    for (stop, whole) in [("ng man wh", "the you"), ("ng man wherever", "the young man who had been so much in love")] {
        for cut in 1..script.len() {
            let with = |max, continues| GenerateOptions {
                stop: vec![stop.into()],
                to_be_continued: true,
                continues,
                ..options(max)
            };
            let mut first = generator("x", &script, with(cut, false));
            let mut out = text(&rest(&mut first));
            if first.finish_reason() == Some(FinishReason::Length) {
                let context = [tokenizer().encode("x").unwrap(), script[..cut].to_vec()].concat();
                let source = Script { tokens: script[cut..].to_vec(), ..Script::default() };
                let mut second =
                    Generator::new(source, &tokenizer(), &context, with(script.len() - cut, true)).unwrap();
                out += &text(&rest(&mut second));
                assert_eq!(second.finish_reason() == Some(FinishReason::Stop), whole == "the you", "{cut}");
            }
            // What was handed out at the break stays so.
            let (begun, rest) = (out.starts_with(whole), out.strip_prefix(whole).unwrap_or("?"));
            assert!(begun && (rest.is_empty() || whole == "the you" && stop.starts_with(rest)), "{cut}: {out}");
        }
    }
}

#[test]
fn unknown_tokens_are_counted_and_have_no_text() {
    let a = tokenizer().encode("a").unwrap()[0];
    let mut generator = generator("x", &[a, 4500, 4999, a], options(4));
    assert_eq!(text(&rest(&mut generator)), "aa");
    assert_eq!(generator.stats().unknown_tokens, 2);
}

#[test]
fn cancelling_ends_at_once() {
    let script = tokenizer().encode("a truth universally acknowledged").unwrap();
    let opts = options(100);
    let cancel = opts.cancel.clone();
    let mut generator = generator("It is", &script, opts);
    let first = pollster::block_on(generator.next()).unwrap().unwrap();
    cancel.store(true, Ordering::Relaxed);
    assert_eq!(rest(&mut generator), []);
    assert_eq!(generator.finish_reason(), Some(FinishReason::Cancelled));
    assert_eq!((generator.pending(), generator.source.sampled), (first.token, 1));
}

#[test]
fn the_prompt_is_fed_in_chunks_and_can_be_cancelled_between_them() {
    let opts = GenerateOptions { prefill_chunk: 3, ..options(1) };
    let cancel = opts.cancel.clone();
    let prompt = "It is a truth universally acknowledged, that";
    let mut generator = generator(prompt, &[5], opts);
    let mut seen = Vec::new();
    pollster::block_on(generator.prefill(&mut |done, total| {
        seen.push((done, total));
        cancel.store(done >= 6, Ordering::Relaxed);
    }))
    .unwrap();
    assert_eq!(seen, [(0, 12), (3, 12), (6, 12)]);
    assert_eq!(generator.source.prefills, [3, 3]);
    assert_eq!(rest(&mut generator), []);
    assert_eq!(generator.finish_reason(), Some(FinishReason::Cancelled));
    assert_eq!(generator.stats().prompt_tokens, 6);
}

#[test]
fn errors_of_the_model_come_through() {
    let mut generator = generator("x", &[], options(1));
    assert!(pollster::block_on(generator.next()).is_err());
}

#[test]
fn bad_options_are_refused_by_name() {
    let new = |prompt: &[u32], options| {
        Generator::new(Script::default(), &tokenizer(), prompt, options).unwrap_err().to_string()
    };
    assert!(new(&[], options(1)).contains("prompt is empty"));
    assert!(new(&[1], options(0)).contains("max_tokens is 0"));
    assert!(new(&[1], GenerateOptions { prefill_chunk: 0, ..options(1) }).contains("prefill_chunk is 0"));
    let stop = vec![String::new()];
    assert!(new(&[1], GenerateOptions { stop, ..options(1) }).contains("stop string 0"));
    let params = SamplingParams { top_p: f32::NAN, ..SamplingParams::default() };
    assert!(new(&[1], GenerateOptions { params, ..options(1) }).contains("top_p is NaN"));
}
