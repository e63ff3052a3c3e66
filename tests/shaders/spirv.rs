//! One known fault of naga's SPIR-V, mended before validation so that everything else is still seen: spirv-val stops at
//! the first error.

use std::collections::HashSet;

const HEADER: usize = 5; // words
const OP_TYPE_ARRAY: u32 = 28;
const OP_TYPE_STRUCT: u32 = 30;
const OP_TYPE_POINTER: u32 = 32;
const OP_DECORATE: u32 = 71;
const OP_MEMBER_DECORATE: u32 = 72;
const ARRAY_STRIDE: u32 = 6;
const OFFSET: u32 = 35;
const WORKGROUP: u32 = 4;
const PRIVATE: u32 = 6;
const FUNCTION: u32 = 7;

/// Takes strides and offsets away from the types of workgroup, private and function variables. naga writes them there
/// too (gfx-rs/wgpu#7696), Vulkan does not allow it (VUID-StandaloneSpirv-None-10684), spirv-val says so since 2025.
/// Types that buffers use as well would lose theirs, and spirv-val would then say that.
pub fn without_layouts_outside_buffers(words: &[u32]) -> Vec<u32> {
    let instructions = split(words);
    let mut plain: HashSet<u32> = HashSet::new();
    // A type is declared before its users: backwards, users come first.
    for (op, operands) in instructions.iter().rev() {
        match (*op, *operands) {
            (OP_TYPE_POINTER, [_, WORKGROUP | PRIVATE | FUNCTION, pointee, ..]) => {
                plain.insert(*pointee);
            }
            (OP_TYPE_ARRAY, [id, element, ..]) if plain.contains(id) => {
                plain.insert(*element);
            }
            (OP_TYPE_STRUCT, [id, members @ ..]) if plain.contains(id) => plain.extend(members),
            _ => {}
        }
    }
    let mut out = words[..HEADER.min(words.len())].to_vec();
    for (op, operands) in instructions {
        let layout = match (op, operands) {
            (OP_DECORATE, [id, ARRAY_STRIDE, ..]) => plain.contains(id),
            (OP_MEMBER_DECORATE, [id, _, OFFSET, ..]) => plain.contains(id),
            _ => false,
        };
        if !layout {
            out.push((operands.len() as u32 + 1) << 16 | op);
            out.extend(operands);
        }
    }
    out
}

/// The instructions after the header: opcode and operands.
fn split(words: &[u32]) -> Vec<(u32, &[u32])> {
    let mut instructions = Vec::new();
    let mut at = HEADER;
    while at < words.len() {
        let (op, length) = (words[at] & 0xffff, (words[at] >> 16) as usize);
        assert!(length > 0 && at + length <= words.len(), "naga wrote an instruction of {length} words at {at}");
        instructions.push((op, &words[at + 1..at + length]));
        at += length;
    }
    instructions
}
