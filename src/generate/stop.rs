//! Stop strings in a stream: `["\n\n", "END"]` ends the text before the first of them, wherever tokens are cut.

use super::GenerateError;

/// Finds stop strings in text that arrives in pieces.
///
/// What might be the beginning of a stop string is held back until the next piece decides, so nothing that belongs to
/// a stop string is ever handed out, and the result does not depend on where the text was cut.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Received and not handed out: a proper prefix of a stop string (or empty).
    held: String,
    /// Bytes at the begin of `held` that were handed out all the same, by an earlier part of the text.
    given: usize,
    stopped: bool,
}

impl StopMatcher {
    /// Stops at any of `stops`; none of them may be empty.
    ///
    /// # Errors
    /// [`GenerateError::EmptyStop`].
    pub fn new(stops: Vec<String>) -> Result<Self, GenerateError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(GenerateError::EmptyStop { index }),
            None => Ok(Self { stops, held: String::new(), given: 0, stopped: false }),
        }
    }

    /// Goes on behind `text`, which was handed out to its end: a stop string may have begun in it. (One that it holds whole has done
    /// what it was for.)
    #[must_use]
    pub fn after(mut self, text: &str) -> Self {
        self.held = text.to_owned();
        while let Some((_, end)) = self.first_match() {
            self.held.drain(..end);
        }
        self.held.drain(..self.possible_start());
        self.given = self.held.len();
        self
    }

    /// The longest stop string's bytes.
    pub(super) fn longest(&self) -> usize {
        self.stops.iter().map(String::len).max().unwrap_or(0)
    }

    /// Whether a stop string was found; nothing more comes out after that.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes the next piece and returns the text that is certain not to belong to a stop string.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some((start, _)) = self.first_match() {
            self.stopped = true;
            return self.hand_out(start, String::new());
        }
        let rest = self.held.split_off(self.possible_start());
        self.hand_out(self.held.len(), rest)
    }

    /// What is held up to `end`, but for what was handed out; `rest` is held from now on.
    fn hand_out(&mut self, end: usize, rest: String) -> String {
        let held = std::mem::replace(&mut self.held, rest);
        let out = held.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.saturating_sub(held.len());
        out
    }

    /// Ends the text: what was held back turned out to be ordinary text (empty after a stop).
    pub fn finish(&mut self) -> String {
        self.hand_out(self.held.len(), String::new())
    }

    /// Start and end of the match that is *complete* first (the longest of those that end at the same place). Text that comes
    /// character by character would stop there, so text that comes in larger pieces must too.
    fn first_match(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start)))
            .min()
            .map(|(end, start)| (start, end))
    }

    /// Where the longest end of `held` that begins a stop string starts (`held.len()` if there is none).
    fn possible_start(&self) -> usize {
        let from = self.held.len().saturating_sub(self.longest());
        self.held
            .char_indices()
            .map(|(start, _)| start)
            .find(|&start| start >= from && self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// All the text that comes out, and whether it stopped.
    fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut matcher = matcher(stops);
        let mut out: String = pieces.into_iter().map(|piece| matcher.push(piece)).collect();
        out += &matcher.finish();
        (out, matcher.stopped())
    }

    #[test]
    fn without_stop_strings_everything_passes_at_once() {
        let mut matcher = matcher(&[]);
        assert_eq!(matcher.push("abc"), "abc");
        assert_eq!(matcher.finish(), "");
        assert!(!matcher.stopped());
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop_string() {
        let mut matcher = matcher(&["END"]);
        assert_eq!(matcher.push("the E"), "the ");
        assert_eq!(matcher.push("N"), "");
        assert_eq!(matcher.push("EN"), "EN", "the first EN was no END");
        assert_eq!(matcher.push("D and more"), "");
        assert!(matcher.stopped());
        assert_eq!(matcher.push("never"), "");
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn held_text_comes_out_at_the_end() {
        assert_eq!(run(&["END"], ["the EN"]), ("the EN".into(), false));
    }

    #[test]
    fn overlapping_repeats_and_several_strings() {
        assert_eq!(run(&["aab"], ["a", "a", "a", "b", "c"]), ("a".into(), true));
        assert_eq!(run(&["\n\n"], ["one\n", "\ntwo"]), ("one".into(), true));
        // "b" is complete before "abc" is, whether they come together or not.
        assert_eq!(run(&["abc", "b"], ["xabc"]), ("xa".into(), true));
        assert_eq!(run(&["abc", "b"], ["xa", "b", "c"]), ("xa".into(), true));
        // Of two that end together the longer one goes.
        assert_eq!(run(&["bc", "abc"], ["xabc"]), ("x".into(), true));
    }

    #[test]
    fn a_stop_string_may_have_begun_in_an_earlier_part() {
        let mut begun = matcher(&["END"]).after("the EN");
        assert_eq!((begun.push("D and more"), begun.stopped()), (String::new(), true));
        // What turns out to be none is not handed out twice.
        let mut none = matcher(&["END"]).after("the EN");
        assert_eq!((none.push("T"), none.push("END"), none.stopped()), ("T".into(), String::new(), true));
        let mut again = matcher(&["ENEND"]).after("the EN");
        assert_eq!((again.push("E"), again.push("NT"), again.finish()), (String::new(), "ENT".into(), String::new()));
        let mut ended = matcher(&["ENEND"]).after("the EN");
        assert_eq!((ended.push("E"), ended.finish()), (String::new(), "E".into()));
        // One that ended that part does not end this one.
        let mut next = matcher(&["END"]).after("the END");
        assert_eq!((next.push("D."), next.stopped()), ("D.".into(), false));
        assert_eq!(matcher(&["\n\n"]).after("one\n").push("\ntwo"), "");
        assert_eq!(matcher(&[]).after("one").push("two"), "two");
    }

    #[test]
    fn never_cuts_a_character() {
        assert_eq!(run(&["é!"], ["caf", "é", "s é", "!"]), ("cafés ".into(), true));
        assert_eq!(run(&["🦀"], ["a🦊", "🦀b"]), ("a🦊".into(), true));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMatcher::new(vec!["a".into(), String::new()]).unwrap_err();
        assert_eq!(error, GenerateError::EmptyStop { index: 1 });
    }

    /// The oracle: looks at the whole text again after each character.
    fn naive(stops: &[&str], text: &str) -> (String, bool) {
        for end in text.char_indices().map(|(i, c)| i + c.len_utf8()) {
            let start = stops.iter().filter(|stop| text[..end].ends_with(**stop)).map(|stop| end - stop.len()).min();
            if let Some(start) = start {
                return (text[..start].to_string(), true);
            }
        }
        (text.to_string(), false)
    }

    proptest! {
        #[test]
        fn any_cut_gives_what_the_naive_search_gives(
            text in "[abé🦀]{0,24}",
            stops in prop::collection::vec("[abé🦀]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..64, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
            prop_assert_eq!(run(&stops, pieces), naive(&stops, &text));
        }
    }
}
