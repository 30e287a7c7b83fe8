//! Changes to inputs, from a seed.

use base::Rng;

/// Values at which code often turns.
const TURNS: [u32; 14] =
    [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff];
/// Changes to one input, at most.
const CHANGES_MAX: u64 = 6;

/// A number below `most`; 0 if that is 0.
fn below(prng: &mut Rng, most: usize) -> usize {
    if most == 0 { 0 } else { (prng.next_u64() % most as u64) as usize }
}

/// `input` with a few changes, at most `longest` bytes; `other` is another input to take pieces of.
#[must_use]
pub fn mutate(prng: &mut Rng, input: &[u8], other: &[u8], longest: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=prng.next_u64() % CHANGES_MAX {
        change(prng, &mut bytes, other);
    }
    bytes.truncate(longest);
    bytes
}

fn change(prng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = below(prng, bytes.len());
    let longest = if prng.next_u64().is_multiple_of(4) { 64 } else { 8 };
    let len = 1 + below(prng, longest);
    let end = (at + len).min(bytes.len());
    match prng.next_u64() % 9 {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (prng.next_u64() % 8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = prng.next_u64() as u8;
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add((prng.next_u64() % 17) as u8).wrapping_sub(8);
            }
        }
        3 => {
            let value = TURNS.get(below(prng, TURNS.len())).copied().unwrap_or(0);
            let value =
                if prng.next_u64().is_multiple_of(2) { value.to_le_bytes() } else { value.to_be_bytes() };
            let size = [1, 2, 4].get(below(prng, 3)).copied().unwrap_or(1);
            for (to, from) in bytes.iter_mut().skip(at).zip(value.iter().take(size)) {
                *to = *from;
            }
        }
        4 => {
            let new: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
            bytes.splice(at..at, new);
        }
        5 => {
            bytes.drain(at..end);
        }
        6 => {
            let piece = bytes.get(at..end).unwrap_or(&[]).to_vec();
            let to = below(prng, bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        7 => {
            let from = below(prng, other.len());
            let piece = other.get(from..(from + len).min(other.len())).unwrap_or(&[]).to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let from = below(prng, other.len());
            let piece = other.get(from..(from + len).min(other.len())).unwrap_or(&[]).to_vec();
            for (to, from) in bytes.iter_mut().skip(at).zip(piece) {
                *to = from;
            }
        }
    }
}
