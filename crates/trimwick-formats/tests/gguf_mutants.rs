//! A million damaged files: each is refused with one line, or everything it promises is in it.
//!
//! The mutator knows where the fields of a file are. It overwrites counts, lengths, types, dimensions and offsets with
//! numbers that lie on an edge, swaps fields for one another, and flips, cuts, inserts and repeats bytes.

mod gguf_support;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use gguf_support::{Built, Gguf, Kind, Tensor, Val};
use rayon::prelude::*;
use trimwick_formats::ByteSource;
use trimwick_formats::blocks::GgmlType;
use trimwick_formats::gguf::{Array, GgufFile, MAX_ARRAY_DEPTH, Value};

/// The environment variable `TRIMWICK_MUTANTS` asks for another number, for a longer search.
const MUTANTS: u64 = 1_000_000;

/// Weyl sequence through a mixing function (splitmix64): any seed will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A right file with values and tensors of random kinds.
fn valid(random: &mut Random) -> Built {
    let alignment = *random.pick(&[8usize, 32, 32, 32, 64]);
    let mut file = Gguf { version: 2 + random.below(2) as u32, alignment, ..Gguf::default() };
    if alignment != 32 || random.below(2) == 0 {
        file = file.kv("general.alignment", Val::u32(alignment as u32));
    }
    for i in 0..random.below(6) {
        let value = value(random, 0);
        file = file.kv(format!("key.{i}"), value);
    }
    for i in 0..random.below(4) {
        let dtype = *random.pick(&GgmlType::ALL);
        let rank = 1 + random.below(4);
        let mut dims = vec![1u64; rank];
        dims[0] = dtype.block_len() as u64;
        dims[random.below(rank)] *= 1 + random.below(3) as u64;
        file = file.tensor(Tensor::of(&format!("blk.{i}.weight"), dtype, &dims));
    }
    file.build()
}

fn value(random: &mut Random, depth: usize) -> Val {
    let code = *random.pick(&[0u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    match code {
        8 => Val::str(["", "a", "llama", "Ġword", "世界"][random.below(5)]),
        9 if depth < 3 => {
            let first = value(random, depth + 1);
            let count = random.below(5);
            Val::Array(first.code(), vec![first; count])
        }
        9 => Val::Array(4, vec![]),
        7 => Val::Scalar(7, vec![random.below(2) as u8]),
        0 | 1 => Val::Scalar(code, vec![random.next() as u8]),
        2 | 3 => Val::Scalar(code, (random.next() as u16).to_le_bytes().into()),
        4..=6 => Val::Scalar(code, (random.next() as u32).to_le_bytes().into()),
        _ => Val::Scalar(code, random.next().to_le_bytes().into()),
    }
}

/// Damages a copy of the file in one to three ways.
fn mutant(random: &mut Random, file: &Built) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    for _ in 0..1 + random.below(3) {
        match random.below(16) {
            0..=9 => overwrite(random, file, &mut bytes),
            10 => {
                // A field of the same width from elsewhere.
                let (to, from) = (random.pick(&file.marks), random.pick(&file.marks));
                let width = to.width.min(from.width).min(8);
                if to.at.max(from.at) + width <= bytes.len() {
                    bytes.copy_within(from.at..from.at + width, to.at);
                }
            }
            11 | 12 => {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            13 => {
                let cut = match random.below(3) {
                    0 => random.below(bytes.len() + 1),
                    1 => random.pick(&file.marks).at,
                    _ => file.data_end.saturating_sub(random.below(3)),
                };
                bytes.truncate(cut);
            }
            14 => {
                let at = random.pick(&file.marks).at.min(bytes.len());
                let count = 1 + random.below(9);
                bytes.splice(at..at, std::iter::repeat_n(random.next() as u8, count));
            }
            _ => {
                let (a, b) = (random.pick(&file.marks), random.pick(&file.marks));
                let (from, to) = (a.at.min(b.at).min(bytes.len()), a.at.max(b.at).min(bytes.len()));
                let repeated = bytes[from..to].to_vec();
                bytes.splice(to..to, repeated);
            }
        }
    }
    bytes
}

/// Overwrites a field with a number on an edge of what it may be.
fn overwrite(random: &mut Random, file: &Built, bytes: &mut [u8]) {
    let mark = random.pick(&file.marks);
    let mut old = [0; 8];
    let width = mark.width.min(8);
    let Some(field) = bytes.get_mut(mark.at..mark.at + width) else { return };
    old[..width].copy_from_slice(field);
    let old = u64::from_le_bytes(old);
    let size = file.bytes.len() as u64;
    let rest = size - mark.at as u64;
    let power = 1u64 << random.below(64);
    let edges = [
        0,
        1,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_neg(),
        old.wrapping_mul(2),
        old ^ power,
        power,
        power.wrapping_sub(1),
        power.wrapping_add(1),
        old | 1 << 62,
        old | 1 << 63,
        u64::MAX,
        u64::MAX - 31,
        size,
        rest,
        rest.wrapping_sub(width as u64),
        (rest / 14).wrapping_add(1),
        u64::from(random.next() as u32),
        random.next(),
    ];
    let small = random.next() % 45;
    let value = match mark.kind {
        // Types and ranks are small; most of their edges are among the first numbers.
        Kind::ValueType | Kind::TensorType | Kind::Rank if random.below(4) > 0 => small,
        // Products that wrap to something harmless.
        Kind::Dim if random.below(2) == 0 => (u64::MAX / old.max(1)).wrapping_add(1 + random.next() % 3),
        Kind::Offset if random.below(2) == 0 => old.wrapping_add(32 * (random.next() % 7)).wrapping_sub(96),
        _ => *random.pick(&edges),
    };
    field.copy_from_slice(&value.to_le_bytes()[..width]);
}

/// What an accepted file must be: as good as its word.
fn check_accepted(file: &GgufFile, bytes: &[u8]) {
    assert_eq!(file.file_bytes(), bytes.len() as u64);
    assert!(file.alignment().is_power_of_two());
    let least_header = 24 + 14 * file.metadata().len() as u64 + 33 * file.tensors().len() as u64;
    let mut ends = BTreeSet::new();
    for (name, info) in file.tensors() {
        assert_eq!(*name, info.name);
        assert!((1..=4).contains(&info.shape.len()) && !info.shape.contains(&0));
        let elements =
            info.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).expect("wrapped product");
        let blocks = elements / info.dtype.block_len();
        assert_eq!(blocks * info.dtype.block_len(), elements, "half a block");
        assert_eq!(
            info.bytes,
            (blocks as u64).checked_mul(info.dtype.block_bytes() as u64).expect("wrapped size")
        );
        let end = info.offset.checked_add(info.bytes).expect("wrapped offset");
        assert!(end <= bytes.len() as u64, "bytes behind the end");
        assert!(info.offset >= least_header, "data in the description");
        assert!(info.offset.is_multiple_of(file.alignment().into()), "data out of line");
        assert!(ends.insert((info.offset, end)), "two tensors in one place");
        assert_eq!(file.read_raw(name).expect("promised"), bytes[info.offset as usize..end as usize]);
        assert_eq!(file.read_f32(name).expect("promised").len(), elements);
    }
    assert!(ends.iter().zip(ends.iter().skip(1)).all(|(a, b)| a.1 <= b.0), "tensors overlap");
    for (key, value) in file.metadata() {
        // Each getter answers, or refuses the type; none is to stumble.
        let errors = [
            file.get_u32(key).err(),
            file.get_u64(key).err(),
            file.get_f32(key).err(),
            file.get_bool(key).err(),
            file.get_str(key).err(),
            file.get_strings(key).err(),
            file.get_i32s(key).err(),
            file.get_f32s(key).err(),
        ];
        let refused = errors.iter().flatten().count();
        assert!(refused >= 6, "{key}: {value:?} is everything at once");
        assert!(array_depth(value) <= MAX_ARRAY_DEPTH, "{key}");
    }
}

fn array_depth(value: &Value) -> usize {
    fn depth(array: &Array) -> usize {
        match array {
            Array::Array(inner) => 1 + inner.iter().map(depth).max().unwrap_or(0),
            _ => 1,
        }
    }
    match value {
        Value::Array(array) => depth(array),
        _ => 0,
    }
}

#[test]
fn a_million_mutants() {
    let mutants = std::env::var("TRIMWICK_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let mut random = Random(20240607);
    let files: Vec<Built> = (0..256).map(|_| valid(&mut random)).collect();
    for file in &files {
        let parsed = GgufFile::from_source(ByteSource::memory(file.bytes.clone(), "valid")).unwrap();
        check_accepted(&parsed, &file.bytes);
    }
    let (accepted, tensors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    (0..mutants).into_par_iter().for_each(|seed| {
        let mut random = Random(seed);
        let bytes = mutant(&mut random, &files[seed as usize % files.len()]);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            match GgufFile::from_source(ByteSource::memory(bytes.clone(), "mutant")) {
                Ok(file) => {
                    check_accepted(&file, &bytes);
                    accepted.fetch_add(1, Ordering::Relaxed);
                    tensors.fetch_add(file.tensors().len(), Ordering::Relaxed);
                }
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.starts_with("mutant: "), "{message}");
                    assert!(message.len() < 600 && !message.contains(char::is_control), "{message:?}");
                }
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    });
    // The mutants are worth their name, and those that pass have something to read.
    let (accepted, tensors) = (accepted.into_inner() as u64, tensors.into_inner() as u64);
    assert!((mutants / 10..mutants / 2).contains(&accepted), "{accepted} of {mutants} accepted");
    assert!(tensors > mutants / 10, "only {tensors} tensors read");
}
