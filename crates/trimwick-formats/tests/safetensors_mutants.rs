//! A million damaged safetensors files: no panic, no wrapped size, and nothing accepted that does not hold together.

use std::borrow::Cow;

use rayon::prelude::*;
use trimwick_formats::ByteSource;
use trimwick_formats::safetensors::{Dtype, SafetensorsFile};

/// Mutants in a run of the test suite; the environment variable `TRIMWICK_MUTANTS` asks for more.
const MUTANTS: u64 = 1_000_000;

/// splitmix64: a mutant is its number, so a failure can be run again alone.
struct Chance(u64);

impl Chance {
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

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A number in the header, which can be what no integer type holds.
type Number = Cow<'static, str>;

const NUMBERS: [&str; 22] = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "255",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "2305843009213693952",
    "4611686018427387905",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "1.0",
    "1e3",
    "null",
    "\"4\"",
];
const NAMES: [&str; 12] = [
    "a",
    "b.weight",
    "",
    "__metadata__",
    "../x",
    "n\\u0000",
    "\\ud800",
    "\\u0061",
    "é",
    "x/y",
    "\\",
    "model.layers.0",
];
const DTYPES: [&str; 12] = [
    "\"F32\"",
    "\"BF16\"",
    "\"F64\"",
    "\"U8\"",
    "\"I64\"",
    "\"F4\"",
    "\"F6_E2M3\"",
    "\"BOOL\"",
    "\"C64\"",
    "\"X\"",
    "3",
    "null",
];
const PIECES: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "null",
    "[[[[[[[[",
    "\u{feff}",
    "\u{1b}[0m",
    "\"dtype\":\"F32\",",
    "\"shape\":[1],",
    "0",
];

struct Tensor {
    name: Cow<'static, str>,
    dtype: Cow<'static, str>,
    shape: Vec<Number>,
    offsets: Vec<Number>,
}

/// A file in parts, whole to begin with: some tensors one after the other.
struct Parts {
    metadata: Option<&'static str>,
    tensors: Vec<Tensor>,
    data: usize,
}

impl Parts {
    fn whole(chance: &mut Chance) -> Self {
        let mut data = 0;
        let tensors = (0..chance.below(5))
            .map(|i| {
                let dtype = *chance.pick(&Dtype::ALL);
                let shape: Vec<usize> = (0..chance.below(4)).map(|_| chance.below(5)).collect();
                let (dtype, bytes) = dtype
                    .byte_len(&shape)
                    .map_or((Dtype::U8, shape.iter().product()), |b| (dtype, b as usize));
                let begin = data;
                data += bytes;
                Tensor {
                    name: format!("t{i}.weight").into(),
                    dtype: format!("\"{dtype}\"").into(),
                    shape: shape.iter().map(|dim| dim.to_string().into()).collect(),
                    offsets: vec![begin.to_string().into(), data.to_string().into()],
                }
            })
            .collect();
        Self { metadata: *chance.pick(&[None, Some("{}"), Some("{\"format\":\"pt\"}")]), tensors, data }
    }

    /// Breaks one thing that the grammar knows.
    fn mutate(&mut self, chance: &mut Chance) {
        let count = self.tensors.len();
        let kind = chance.below(12);
        if kind == 0 || count == 0 {
            self.data = *chance.pick(&[0, 1, self.data / 2, self.data + 1, self.data + 8]);
            return;
        }
        let (i, j) = (chance.below(count), chance.below(count));
        match kind {
            1 => self.tensors[i].name = (*chance.pick(&NAMES)).into(),
            2 => self.tensors[i].dtype = (*chance.pick(&DTYPES)).into(),
            3 => {
                let at = chance.below(self.tensors[i].shape.len() + 1);
                self.tensors[i].shape.insert(at, (*chance.pick(&NUMBERS)).into());
            }
            4 => drop(self.tensors[i].shape.pop()),
            5 | 6 => *number(&mut self.tensors[i].offsets, chance) = (*chance.pick(&NUMBERS)).into(),
            7 => *number(&mut self.tensors[i].shape, chance) = (*chance.pick(&NUMBERS)).into(),
            8 => self.tensors[i].offsets = self.tensors[j].offsets.clone(),
            9 => self.tensors[i].name = self.tensors[j].name.clone(),
            10 => self.tensors.swap(i, j),
            _ => {
                let step = *chance.pick(&[1u64, 2, u64::MAX, 8, 1 << 32]);
                let number = number(&mut self.tensors[i].offsets, chance);
                let moved = number.parse::<u64>().unwrap_or(0).wrapping_add(step);
                *number = moved.to_string().into();
            }
        }
    }

    fn header(&self, chance: &mut Chance) -> String {
        let mut entries: Vec<String> =
            self.metadata.iter().map(|m| format!("\"__metadata__\":{m}")).collect();
        for tensor in &self.tensors {
            let fields = [
                format!("\"dtype\":{}", tensor.dtype),
                format!("\"shape\":[{}]", tensor.shape.join(",")),
                format!("\"data_offsets\":[{}]", tensor.offsets.join(",")),
            ];
            let order = *chance.pick(&[[0, 1, 2], [2, 1, 0], [1, 2, 0]]);
            entries.push(format!("\"{}\":{{{}}}", tensor.name, order.map(|i| fields[i].as_str()).join(",")));
        }
        format!("{{{}}}", entries.join(","))
    }
}

fn number<'a>(of: &'a mut Vec<Number>, chance: &mut Chance) -> &'a mut Number {
    if of.is_empty() {
        of.push("0".into());
    }
    let at = chance.below(of.len());
    &mut of[at]
}

fn mutant(seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut parts = Parts::whole(&mut chance);
    // A seventh stays whole so far, for the bytes alone to be broken.
    for _ in 0..chance.below(7).min(3) {
        parts.mutate(&mut chance);
    }
    let mut header = parts.header(&mut chance).into_bytes();
    for _ in 0..[0, 0, 1, 3][chance.below(4)] {
        let at = chance.below(header.len());
        match chance.below(5) {
            0 => header[at] ^= 1 << chance.below(8),
            1 => drop(header.splice(at..at, chance.pick(&PIECES).bytes())),
            2 => drop(header.drain(at..(at + 1 + chance.below(8)).min(header.len()))),
            3 => {
                let piece: Vec<u8> = header[at..(at + chance.below(40)).min(header.len())].into();
                let to = chance.below(header.len());
                header.splice(to..to, piece);
            }
            _ => header.extend(std::iter::repeat_n(b' ', chance.below(9))),
        }
        if header.is_empty() {
            header.push(b'{');
        }
    }
    let len = header.len() as u64;
    let told = match chance.below(12) {
        0 => {
            *chance.pick(&[0, 1, len - 1, len + 1, u64::MAX, u64::MAX - 7, 100_000_000, 100_000_001, 1 << 63])
        }
        _ => len,
    };
    let mut file = [&told.to_le_bytes()[..], &header].concat();
    file.resize(file.len() + parts.data, 0);
    if chance.below(20) == 0 {
        file.truncate(chance.below(file.len()));
    }
    file
}

/// What holds of a file that was accepted, computed with numbers that cannot wrap.
fn check(bytes: Vec<u8>) -> bool {
    let kept = bytes.clone();
    let Ok(file) = SafetensorsFile::from_source(ByteSource::memory(bytes, "mutant")) else {
        return false;
    };
    let start = 8 + u64::from_le_bytes(kept[..8].try_into().unwrap());
    let mut ranges = Vec::new();
    for (name, info) in file.tensors() {
        assert_eq!(name, &info.name);
        let elements: u128 = info.shape.iter().map(|&dim| dim as u128).product();
        assert_eq!(info.elements() as u128, elements);
        assert_eq!(u128::from(info.bytes) * 8, elements * info.dtype.bits() as u128);
        assert!(info.offset >= start);
        assert!(u128::from(info.offset) + u128::from(info.bytes) <= kept.len() as u128);
        ranges.push((info.offset, info.bytes));
        let raw = file.read_raw(name).unwrap();
        assert_eq!(raw, kept[info.offset as usize..][..info.bytes as usize]);
        if info.dtype.is_numeric() {
            assert_eq!(file.read_f32(name).map(|values| values.len() as u128).ok(), Some(elements));
        } else {
            assert!(file.read_f32(name).is_err());
        }
    }
    ranges.sort_unstable();
    let end = ranges.iter().fold(start, |end, &(offset, bytes)| {
        assert_eq!(offset, end, "a hole or an overlap");
        end + bytes
    });
    assert_eq!(end, kept.len() as u64, "trailing bytes");
    let peer = safetensors::SafeTensors::deserialize(&kept);
    assert_eq!(
        peer.map(|peer| peer.len()).ok(),
        Some(file.tensors().len()),
        "accepted here and not by its own crate"
    );
    true
}

#[test]
fn a_million_mutants() {
    let mutants = std::env::var("TRIMWICK_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let accepted: u64 = (0..mutants)
        .into_par_iter()
        .map(|seed| {
            let checked = std::panic::catch_unwind(|| check(mutant(seed)));
            u64::from(checked.unwrap_or_else(|_| panic!("mutant {seed}")))
        })
        .sum();
    // Both sides of the reader are exercised.
    assert!((mutants / 20..mutants / 2).contains(&accepted), "{accepted} of {mutants} accepted");
    println!("{accepted} of {mutants} mutants accepted");
}
