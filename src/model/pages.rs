//! What attention keeps of a text on the host: keys and values of every token, in pages that copies of the text share.

use crate::reference::PAGE;
use std::sync::Arc;

/// Keys or values of [`PAGE`] tokens of a layer: keys (kv_heads, head_dim, PAGE), values (kv_heads, PAGE, head_dim).
type Page = Arc<Vec<f32>>;

/// Keys and values of a text's tokens in all layers with attention. A copy costs nothing but what is written to it afterwards.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    kv_heads: usize,
    head_dim: usize,
    tokens: usize,
    layers: Vec<LayerPages>,
}

/// A layer's part of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerPages {
    keys: Vec<Page>,
    values: Vec<Page>,
}

/// Keys and values of pages, each a slice that can be written to.
pub(crate) type PagesMut<'a> = (Vec<&'a mut [f32]>, Vec<&'a mut [f32]>);

impl LayerPages {
    /// For so many tokens, of `width` channels each; what is there stays.
    pub fn make_room(&mut self, tokens: usize, width: usize) {
        let pages = tokens.div_ceil(PAGE).max(self.keys.len());
        let empty = || Arc::new(vec![0.0; PAGE * width]);
        self.keys.resize_with(pages, empty);
        self.values.resize_with(pages, empty);
    }

    /// The pages from that of token `first` on, for which there is room: no other text's after this.
    pub fn writable(&mut self, first: usize) -> PagesMut<'_> {
        let later = first / PAGE;
        fn each(pages: &mut [Page]) -> Vec<&mut [f32]> {
            pages.iter_mut().map(|page| &mut Arc::make_mut(page)[..]).collect()
        }
        (each(&mut self.keys[later..]), each(&mut self.values[later..]))
    }

    pub fn keys(&self) -> Vec<&[f32]> {
        self.keys.iter().map(|page| &page[..]).collect()
    }

    pub fn values(&self) -> Vec<&[f32]> {
        self.values.iter().map(|page| &page[..]).collect()
    }
}

impl Pages {
    /// Of a text at its begin, in a model with so many layers of attention.
    pub(crate) fn new(layers: usize, (kv_heads, head_dim): (usize, usize)) -> Self {
        Self { kv_heads, head_dim, tokens: 0, layers: vec![LayerPages::default(); layers] }
    }

    /// From keys and values (layers, tokens, kv_heads, head_dim).
    pub(crate) fn of([layers, tokens, kv_heads, head_dim]: [usize; 4], keys: &[f32], values: &[f32]) -> Option<Self> {
        let width = kv_heads.checked_mul(head_dim)?;
        let elements = layers.checked_mul(tokens)?.checked_mul(width)?;
        if keys.len() != elements || values.len() != elements {
            return None;
        }
        let mut pages = Self::new(layers, (kv_heads, head_dim));
        for (i, layer) in pages.layers.iter_mut().enumerate() {
            layer.make_room(tokens, width);
            let (mut of_keys, mut of_values) = layer.writable(0);
            for token in 0..tokens {
                let at = (i * tokens + token) * width;
                let (page, column) = (token / PAGE, token % PAGE);
                for (c, (key, value)) in keys[at..at + width].iter().zip(&values[at..at + width]).enumerate() {
                    of_keys[page][c * PAGE + column] = *key;
                    of_values[page][((c / head_dim) * PAGE + column) * head_dim + c % head_dim] = *value;
                }
            }
        }
        pages.tokens = tokens;
        Some(pages)
    }

    /// Keys and values, each (layers, tokens, kv_heads, head_dim).
    pub fn dense(&self) -> (Vec<f32>, Vec<f32>) {
        let (head_dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            for token in 0..self.tokens {
                let (page, column) = (token / PAGE, token % PAGE);
                let (of_keys, of_values) = (&layer.keys[page], &layer.values[page]);
                keys.extend((0..width).map(|c| of_keys[c * PAGE + column]));
                let value = |c: usize| of_values[((c / head_dim) * PAGE + column) * head_dim + c % head_dim];
                values.extend((0..width).map(value));
            }
        }
        (keys, values)
    }

    /// Keeps so many pages of every layer.
    pub(crate) fn truncate(&mut self, pages: usize) {
        self.tokens = self.tokens.min(pages * PAGE);
        for layer in &mut self.layers {
            layer.keys.truncate(pages);
            layer.values.truncate(pages);
        }
    }

    /// More pages of a layer, from keys and values of whole ones, one after the other.
    pub(crate) fn extend_layer(&mut self, layer: usize, (keys, values): (&[f32], &[f32])) {
        let page = (self.kv_heads * self.head_dim * PAGE).max(1);
        let cut = |all: &[f32]| all.chunks(page).map(|page| Arc::new(page.to_vec())).collect::<Vec<_>>();
        if let Some(layer) = self.layers.get_mut(layer) {
            layer.keys.extend(cut(keys));
            layer.values.extend(cut(values));
        }
    }

    /// Bytes of the pages that another text's are not as well, being the same in memory.
    pub(crate) fn bytes_beside(&self, other: Option<&Pages>) -> usize {
        let all: usize = self.layers.iter().map(|layer| layer.keys.len()).sum();
        let layers = self.layers.iter().zip(other.map_or(&[][..], |other| &other.layers));
        let same = layers.flat_map(|(a, b)| a.keys.iter().zip(&b.keys)).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        2 * 4 * (all - same) * self.kv_heads * self.head_dim * PAGE
    }

    /// A layer's pages of keys and values, none where there is no such layer.
    pub(crate) fn layer(&self, layer: usize) -> (Vec<&[f32]>, Vec<&[f32]>) {
        self.layers.get(layer).map_or_else(Default::default, |layer| (layer.keys(), layer.values()))
    }

    /// (layers, tokens, kv_heads, head_dim)
    pub(crate) fn shape(&self) -> [usize; 4] {
        [self.layers.len(), self.tokens, self.kv_heads, self.head_dim]
    }

    /// Those of parts of a model's layers, which are of the same tokens, as the whole model's.
    pub(crate) fn join(parts: impl Iterator<Item = Pages>) -> Self {
        let kept = parts.filter(|part| !part.layers.is_empty());
        let joined = kept.reduce(|mut all, part| {
            all.layers.extend(part.layers);
            all
        });
        joined.unwrap_or_default()
    }

    /// So many of the layers, from `first` on: nothing at all of none.
    pub(crate) fn part(&self, first: usize, layers: usize) -> Self {
        match self.layers.get(first..first + layers) {
            Some(layers @ [_, ..]) => Self { layers: layers.to_vec(), ..*self },
            _ => Self::default(),
        }
    }

    /// Tokens that they are of: where the next one stands.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// So many more tokens have been written.
    pub(crate) fn advance(&mut self, tokens: usize) {
        if !self.layers.is_empty() {
            self.tokens += tokens;
        }
    }

    /// Without all tokens.
    pub(crate) fn clear(&mut self) {
        self.tokens = 0;
        self.layers.iter_mut().for_each(|layer| *layer = LayerPages::default());
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [LayerPages] {
        &mut self.layers
    }
}

/// What was written of later tokens, that were taken back, does not count.
impl PartialEq for Pages {
    fn eq(&self, other: &Self) -> bool {
        self.shape() == other.shape() && self.dense() == other.dense()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_back_and_shared() {
        let shape = [2, PAGE + 3, 2, 4];
        let elements: usize = shape.iter().product();
        let keys: Vec<f32> = (0..elements).map(|i| i as f32).collect();
        let values: Vec<f32> = keys.iter().map(|x| -x).collect();
        let pages = Pages::of(shape, &keys, &values).unwrap();
        assert_eq!((pages.shape(), pages.dense()), (shape, (keys.clone(), values)));
        assert!(Pages::of(shape, &keys[1..], &keys).is_none());

        let mut copy = pages.clone();
        assert!(Arc::ptr_eq(&copy.layers[0].keys[1], &pages.layers[0].keys[1]));
        copy.layers[0].writable(PAGE + 1).0[0][1] = 7.5;
        assert!(Arc::ptr_eq(&copy.layers[0].keys[0], &pages.layers[0].keys[0]), "what is not written to stays shared");
        assert_ne!(copy, pages);
        assert_eq!(pages.dense().0, keys);
    }
}
