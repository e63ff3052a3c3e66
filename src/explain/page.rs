//! One self-contained page: the data, `view.js` and `view.css` in a template. It makes no request.

use super::{Packed, Units};
use crate::html::escaped;

const TEMPLATE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("view.js");
const STYLE: &str = include_str!("view.css");

/// The page as HTML.
pub fn page(packed: &Packed) -> String {
    let title = escaped(&packed.source);
    let facts = format!(
        "{title}: {} tokens, {} of {} layers, {}. Unrolled over time, a layer's recurrence is attention: alpha(i, j) is what token j's \
         input adds to the output at token i. delta is how far a token opens the gate, exp(delta A) what it leaves of the state \
         before it.",
        packed.pieces.len(),
        packed.layers.len(),
        packed.n_layer,
        units(packed),
    );
    // Strings of a JSON text may hold any character as an escape: without `<` nothing ends the script or begins a comment. Numbers and
    // strings always serialise.
    let data = serde_json::to_string(packed).unwrap_or_default().replace('<', "\\u003c");
    fill(&[("TITLE", &title), ("STYLE", STYLE), ("FACTS", &facts), ("DATA", &data), ("SCRIPT", SCRIPT)])
}

/// What the layers are explained by, each kind once.
fn units(packed: &Packed) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for Units { kind, count, width, d_state } in packed.layers.iter().map(|layer| layer.units) {
        let each = if width == 1 { String::new() } else { format!(" of {width} channels") };
        let words = format!("{count} {}s{each} a layer, {d_state} states a channel", kind.name());
        if !kinds.contains(&words) {
            kinds.push(words);
        }
    }
    kinds.join(" or ")
}

/// Whether a file that begins like this is such a page.
pub fn is_page(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"<meta name=\"generator\" content=\"mamba-wgpu explain\">";
    bytes[..bytes.len().min(1024)].windows(MARK.len()).any(|part| part == MARK)
}

/// The template with its places filled, in order: what a value holds is never taken for a place.
fn fill(values: &[(&str, &str)]) -> String {
    let (mut out, mut rest) = (String::new(), TEMPLATE);
    for (name, value) in values {
        if let Some((before, after)) = rest.split_once(&format!("{{{{{name}}}}}")) {
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Explanation, Unit};

    #[test]
    fn nothing_of_a_text_becomes_markup() {
        let hostile = "</script><script>alert(1)</script><!-- {{SCRIPT}} & \u{2028}";
        let packed = Packed { source: hostile.into(), pieces: vec![hostile.into()], n_layer: 1, layers: Vec::new() };
        let html = page(&packed);
        assert!(is_page(html.as_bytes()) && !is_page(b"<!doctype html><p>mamba-wgpu explain"));
        assert_eq!(html.matches("</script>").count(), 2, "the page's own two");
        assert!(!html.contains("<script>alert") && !html.contains("<!--"));
        let data = html.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
        assert_eq!(serde_json::from_str::<Packed>(data).unwrap(), packed);
        assert_eq!(html.matches("export function show").count(), 1);
        assert!(!html.contains("{{DATA}}") && !SCRIPT.contains("</script"));
    }

    #[test]
    fn each_kind_of_layer_is_named_once() {
        let layer = |layer, units| crate::explain::LayerExplanation {
            layer,
            units,
            delta: vec![1.0],
            forget: vec![0.5],
            state_norm: vec![1.0],
            attention: vec![1.0],
            magnitude: vec![1.0],
            channels: Vec::new(),
        };
        let channels = Units { kind: Unit::Channel, count: 512, width: 1, d_state: 16 };
        let heads = Units { kind: Unit::Head, count: 24, width: 64, d_state: 128 };
        let layers = vec![layer(0, heads), layer(1, channels), layer(2, heads)];
        assert_eq!(Unit::of_layers(&layers), "channels or heads");
        assert_eq!(Unit::of_layers(&layers[2..]), "heads");
        let packed = Packed::new(&Explanation { tokens: vec![1], n_layer: 9, layers }, "both", vec!["a".into()]);
        let words = "1 tokens, 3 of 9 layers, 24 heads of 64 channels a layer, 128 states a channel or 512 channels a layer, 16 states a \
                     channel. Unrolled";
        assert!(page(&packed).contains(words), "{}", units(&packed));
    }
}
