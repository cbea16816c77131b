//! Which source each window of a mix is from.

use trimwick_kernels::{Rng, permute};

use crate::{Error, Result};

/// Most that the weights of a mix add up to: there is an entry for each in memory.
const MOST: u64 = 1 << 16;

/// Sources with their weights.
#[derive(Debug)]
pub(super) struct Mix {
    parts: Vec<Part>,
    /// For each window of a cycle its source, and how many of the cycle's windows before it are from there.
    cycle: Vec<(usize, u64)>,
}

#[derive(Debug)]
struct Part {
    first: u64,
    windows: u64,
    weight: u64,
}

impl Mix {
    /// Of sources that have so many windows, at least one, and these weights.
    pub(super) fn new(sources: &[(u64, u32)]) -> Result<Self> {
        let divisor = sources.iter().fold(0, |d, (_, weight)| gcd(d, u64::from(*weight))).max(1);
        let mut first = 0;
        let mut part = |&(windows, weight): &(u64, u32)| {
            let part = Part { first, windows, weight: u64::from(weight) / divisor };
            first += windows;
            part
        };
        let parts: Vec<Part> = sources.iter().map(&mut part).collect();
        if parts.is_empty() || parts.iter().any(|part| part.weight == 0) {
            return Err(Error::setting("weight", "sources, each with a weight of at least 1", 0));
        }
        let sum: u64 = parts.iter().map(|part| part.weight).sum();
        if sum > MOST {
            return Err(Error::setting("weight", format!("weights that add up to at most {MOST}"), sum));
        }
        // Whoever is furthest behind its share is next; of several the first.
        let mut taken = vec![0u64; parts.len()];
        let mut cycle = Vec::with_capacity(sum as usize);
        for slot in 1..=sum {
            let lag = |i: &usize| (slot * parts[*i].weight) as i64 - (taken[*i] * sum) as i64;
            let next = (0..parts.len()).rev().max_by_key(lag).unwrap_or(0);
            cycle.push((next, taken[next]));
            taken[next] += 1;
        }
        Ok(Self { parts, cycle })
    }

    /// The window at a position of the endless walk.
    pub(super) fn at(&self, seed: u64, position: u64) -> u64 {
        let sum = self.cycle.len() as u64;
        let (source, before) = self.cycle[(position % sum) as usize];
        let part = &self.parts[source];
        let drawn = position / sum * part.weight + before;
        let (epoch, at) = (drawn / part.windows, drawn % part.windows);
        let rng = Rng::new(seed, "order", epoch, &format!("windows.{source}"));
        let key = u64::from(rng.u32_at(0)) | u64::from(rng.u32_at(1)) << 32;
        part.first + permute(key, part.windows, at)
    }

    /// The source that a window is from.
    pub(super) fn source(&self, window: u64) -> usize {
        self.parts.partition_point(|part| part.first <= window).saturating_sub(1)
    }

    /// Windows and weights of the sources.
    pub(super) fn words(&self) -> Vec<u32> {
        self.parts.iter().flat_map(|p| [p.windows as u32, p.weight as u32]).collect()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::windows::{Cursor, Windows};
    use super::*;

    /// Sources of windows of two tokens, the first of which tells the source: 1000 to the source's index.
    fn mixed(sources: &[(u32, u32)]) -> Windows {
        let source = |(i, &(windows, weight)): (usize, &(u32, u32))| {
            let ids: Vec<u32> = (0..windows).flat_map(|n| [i as u32 * 1000 + n, 0]).chain([7]).collect();
            (Windows::new(ids, 2).unwrap(), weight)
        };
        Windows::mix(&sources.iter().enumerate().map(source).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_cycle_has_each_source_by_its_weight_and_every_epoch_each_window_once() {
        for sources in [&[(5, 2), (3, 1)][..], &[(1, 30), (7, 50), (4, 20)], &[(2, 1), (2, 1), (900, 7)]] {
            let windows = mixed(sources);
            let divisor = sources.iter().fold(0, |d, s| gcd(d, u64::from(s.1)));
            let cycle: u64 = sources.iter().map(|s| u64::from(s.1)).sum::<u64>() / divisor;
            let mut cursor = Cursor::default();
            let mut drawn = vec![Vec::new(); sources.len()];
            for round in 1..=(4000 / cycle) {
                for (step, index) in (0..cycle).zip(cursor.indices(&windows, 9, cycle as usize).unwrap()) {
                    let source = windows.source(index);
                    assert_eq!(windows.window(index).unwrap()[0] / 1000, source as u32);
                    drawn[source].push(index);
                    // As evenly as can be: never a whole window away from the share.
                    let share = (round - 1) as f64 * cycle as f64 + step as f64 + 1.;
                    let share = share * f64::from(sources[source].1) / (cycle * divisor) as f64;
                    assert!((drawn[source].len() as f64 - share).abs() < 1., "{sources:?} {share}");
                }
                for (list, (_, weight)) in drawn.iter().zip(sources) {
                    assert_eq!(list.len() as u64, round * u64::from(*weight) / divisor, "{sources:?}");
                }
            }
            for (list, (count, _)) in drawn.iter().zip(sources) {
                for epoch in list.chunks_exact(*count as usize) {
                    let mut sorted = epoch.to_vec();
                    sorted.sort_unstable();
                    assert!(sorted.windows(2).all(|w| w[0] + 1 == w[1]), "{sources:?}: {epoch:?}");
                }
            }
        }
    }

    #[test]
    fn a_walk_can_be_taken_up_anywhere() {
        let windows = mixed(&[(5, 3), (17, 2), (2, 2)]);
        let walk = |count: usize| {
            let mut cursor = Cursor::default();
            let mut all = Vec::new();
            while all.len() < 210 {
                all.extend(cursor.indices(&windows, 1, count).unwrap());
            }
            all.truncate(210);
            all
        };
        assert_eq!(walk(1), walk(7));
        assert_eq!(walk(3), walk(70));
        let mut late = Cursor { epoch: 0, position: 100 };
        assert_eq!(late.indices(&windows, 1, 110).unwrap(), walk(1)[100..]);
    }

    #[test]
    fn what_cannot_be_mixed_is_refused() {
        let of = |tokens: usize, context| Windows::new(vec![1; tokens], context).unwrap();
        for bad in [
            vec![],
            vec![(of(4, 2), 0)],
            vec![(of(4, 2), 1), (of(6, 3), 1)],
            vec![(of(4, 2), 1), (of(1, 2), 1)],
            vec![(of(4, 2), 65_536), (of(4, 2), 1)],
        ] {
            assert!(Windows::mix(&bad).is_err(), "{bad:?}");
        }
    }
}
