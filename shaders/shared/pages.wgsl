// What attention keeps of a text lies in pages, PAGE tokens each; a table says for every slot which ones.
const PAGE: u32 = 256u;
// Positions a text can have, in pages.
const FAR: u32 = 4096u;
// Less than any score, and no infinity, of which WGSL promises nothing.
const LEAST: f32 = -1e30;
