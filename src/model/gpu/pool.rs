//! Keys and values of all texts of a model on a device: in pages, which texts that were one share as far as they are the same.

use crate::gpu::{Gpu, GpuError, Tensor};
use crate::kernels;
use crate::model::blocks::{attention, Shape};
use crate::model::Pages;
use crate::reference::{PAGE, ROTATIONS};
use std::sync::{Arc, Mutex, MutexGuard};

/// Pages of a text at most: a row of the table of them.
pub(super) const MOST: usize = ROTATIONS / PAGE;

/// All pages of a model.
pub(super) struct Pool {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Tokens that a text may have.
    longest: usize,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Of each layer with attention, (pages, kv_heads, head_dim, PAGE) and (pages, kv_heads, PAGE, head_dim).
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// How many texts use a page; 0: it is free.
    uses: Vec<u32>,
    /// How often the tensors were made anew: plans of those before are of no use.
    made: u64,
}

impl Pool {
    /// Of a model that has attention.
    pub fn new(gpu: &Gpu, layers: &[Shape]) -> Option<Arc<Self>> {
        let mut kept = layers.iter().filter_map(|layer| match layer {
            Shape::Attention(s) => Some(s),
            _ => None,
        });
        let first = kept.next()?;
        let longest = |s: &attention::Shape| kernels::longest_text(gpu, &s.attention());
        let (mut n, mut least) = (1, longest(first));
        kept.for_each(|layer| (n, least) = (n + 1, least.min(longest(layer))));
        let (kv_heads, head_dim) = (first.kv_heads, first.head_dim);
        Some(Arc::new(Self { layers: n, kv_heads, head_dim, longest: least, shared: Mutex::default() }))
    }

    /// Elements of a page of a layer's keys, or values.
    fn page(&self) -> usize {
        self.kv_heads * self.head_dim * PAGE
    }

    /// What it holds is whole also where a thread panicked: each page is changed by itself.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A free page, for one text. Where there is none, there are twice as many afterwards.
    fn take(&self, gpu: &Gpu, shared: &mut Shared) -> Result<u32, GpuError> {
        if let Some(free) = shared.uses.iter().position(|uses| *uses == 0) {
            shared.uses[free] = 1;
            return Ok(free as u32);
        }
        let (there, page) = (shared.uses.len(), self.page());
        let most = (gpu.max_binding() / (4 * page as u64).max(1)) as usize;
        if there >= most {
            let what = "tokens of all texts together, whose keys one binding holds,";
            return Err(GpuError::Unsupported {
                kernel: "attention",
                what,
                value: (there + 1) * PAGE,
                limit: most * PAGE,
            });
        }
        let pages = (2 * there).clamp(4, most.max(4));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut larger = |label: &str, old: &[Tensor]| {
            (0..self.layers)
                .map(|layer| {
                    let tensor = Tensor::zeros(gpu, label, pages * page)?;
                    if let Some(old) = old.get(layer) {
                        old.copy_to(&mut encoder, &tensor.slice(0, old.elements()));
                    }
                    Ok(tensor)
                })
                .collect::<Result<Vec<_>, GpuError>>()
        };
        let (keys, values) = (larger("keys", &shared.keys)?, larger("values", &shared.values)?);
        gpu.check()?;
        gpu.submit([encoder.finish()]);
        (shared.keys, shared.values) = (keys, values);
        shared.uses.resize(pages, 0);
        shared.made += 1;
        shared.uses[there] = 1;
        Ok(there as u32)
    }
}

/// Which pages are whose: a row for each of so many texts.
pub(super) fn table_of(gpu: &Gpu, texts: usize) -> Result<Tensor, GpuError> {
    Tensor::zeros(gpu, "pages of texts", texts * MOST)
}

/// A text's part of the pool.
pub(super) struct Held {
    pool: Arc<Pool>,
    /// In the order of the text; more than its tokens need where some were taken back.
    pages: Vec<u32>,
    tokens: usize,
    /// The pool's `made` when plans were last made.
    seen: u64,
    table: Tensor, // (MOST), u32
    /// What was last read, of which whole pages up to token `clean` are as they were: not read again.
    mirror: Pages,
    clean: usize,
}

impl Held {
    /// A text at its begin, with its row of a [`table_of`] several. There are pages afterwards, so that plans can be made.
    pub fn new(gpu: &Gpu, pool: &Arc<Pool>, table: Tensor) -> Result<Self, GpuError> {
        let mirror = Pages::new(pool.layers, (pool.kv_heads, pool.head_dim));
        let mut held = Self { pool: pool.clone(), pages: Vec::new(), tokens: 0, seen: 0, table, mirror, clean: 0 };
        held.reserve(gpu, 1)?;
        Ok(held)
    }

    /// Tokens that the text has.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The text has so many tokens: more than before, or less.
    pub fn set_tokens(&mut self, tokens: usize) {
        self.tokens = tokens;
        self.clean = self.clean.min(tokens);
    }

    /// Keys and values of all texts in a layer, the i-th of those with attention.
    pub fn layer(&self, i: usize) -> Option<(Tensor, Tensor)> {
        let shared = self.pool.lock();
        Some((shared.keys.get(i)?.clone(), shared.values.get(i)?.clone()))
    }

    /// Makes room for `l` tokens behind those that there are, in pages that no other text writes to or reads. True where plans must be
    /// made anew.
    ///
    /// # Errors
    /// A text longer than positions go, a full memory.
    pub fn reserve(&mut self, gpu: &Gpu, l: usize) -> Result<bool, GpuError> {
        let pages = (self.tokens + l).div_ceil(PAGE);
        if self.tokens + l > self.pool.longest {
            let (value, limit) = (self.tokens + l, self.pool.longest);
            return Err(GpuError::Unsupported { kernel: "attention", what: "the text's length", value, limit });
        }
        let pool = self.pool.clone();
        let mut shared = pool.lock();
        let mut changed = self.pages.len() < pages;
        for i in self.tokens / PAGE..pages {
            let old = self.pages.get(i).copied();
            if old.is_some_and(|page| shared.uses[page as usize] == 1) {
                continue;
            }
            let page = pool.take(gpu, &mut shared)?;
            match old {
                None => self.pages.push(page),
                Some(old) => {
                    let mut encoder = gpu.device().create_command_encoder(&Default::default());
                    let n = pool.page();
                    // By way of another buffer: a copy within one is not allowed.
                    let copy = Tensor::zeros(gpu, "a page", n)?;
                    for tensor in shared.keys.iter().chain(&shared.values) {
                        let at = |page: u32| tensor.slice(page as usize * n, n);
                        at(old).copy_to(&mut encoder, &copy);
                        copy.copy_to(&mut encoder, &at(page));
                    }
                    gpu.submit([encoder.finish()]);
                    shared.uses[old as usize] -= 1;
                    self.pages[i] = page;
                }
            }
            changed = true;
        }
        if changed {
            self.table.write(gpu, 0, &self.pages);
        }
        Ok(std::mem::replace(&mut self.seen, shared.made) != shared.made)
    }

    /// Another text with the first `tokens` of this one's.
    pub fn share(&self, gpu: &Gpu, to: &mut Held, tokens: usize) {
        to.clear();
        let pages = &self.pages[..tokens.div_ceil(PAGE)];
        let mut shared = self.pool.lock();
        pages.iter().for_each(|page| shared.uses[*page as usize] += 1);
        to.pages = pages.to_vec();
        to.tokens = tokens;
        to.table.write(gpu, 0, &to.pages);
    }

    /// Gives all pages back.
    pub fn clear(&mut self) {
        let mut shared = self.pool.lock();
        self.pages.drain(..).for_each(|page| shared.uses[page as usize] -= 1);
        (self.tokens, self.clean) = (0, 0);
    }

    /// To the host.
    pub async fn read(&mut self, gpu: &Gpu) -> Result<Pages, GpuError> {
        let whole = self.clean / PAGE;
        let (n, used) = (self.pool.page(), &self.pages[whole..self.tokens.div_ceil(PAGE)]);
        let mut pages = self.mirror.clone();
        pages.truncate(whole);
        for layer in 0..if used.is_empty() { 0 } else { self.pool.layers } {
            let Some((keys, values)) = self.layer(layer) else { continue };
            let mut read = [Vec::new(), Vec::new()];
            for (tensor, read) in [keys, values].iter().zip(&mut read) {
                let gathered = Tensor::zeros(gpu, "pages", used.len() * n)?;
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                for (i, page) in used.iter().enumerate() {
                    tensor.slice(*page as usize * n, n).copy_to(&mut encoder, &gathered.slice(i * n, n));
                }
                gpu.submit([encoder.finish()]);
                *read = gathered.read::<f32>(gpu).await?;
            }
            let [keys, values] = read;
            pages.extend_layer(layer, (&keys, &values));
        }
        pages.advance(self.tokens - pages.tokens());
        (self.mirror, self.clean) = (pages.clone(), self.tokens);
        Ok(pages)
    }

    /// From the host; the shapes are the model's.
    pub fn write(&mut self, gpu: &Gpu, pages: &Pages) -> Result<bool, GpuError> {
        self.clear();
        let anew = self.reserve(gpu, pages.tokens().max(1))?;
        let n = self.pool.page();
        for layer in 0..self.pool.layers {
            let Some((keys, values)) = self.layer(layer) else { continue };
            let (of_keys, of_values) = pages.layer(layer);
            for (tensor, of) in [(keys, of_keys), (values, of_values)] {
                for (page, values) in self.pages.iter().zip(of) {
                    tensor.write(gpu, *page as usize * n, values);
                }
            }
            gpu.submit([]); // writes are staged in host memory until a submission
        }
        self.tokens = pages.tokens();
        (self.mirror, self.clean) = (pages.clone(), self.tokens);
        Ok(anew)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}
