//! Windows, their order, and batches.

use super::*;

fn windows(tokens: u32, context: usize) -> Windows {
    Windows::new((0..tokens).collect::<Vec<_>>(), context).unwrap()
}

#[test]
fn a_stream_is_cut_and_the_rest_kept() {
    let w = windows(11, 4);
    assert_eq!((w.len(), w.ids().len()), (2, 11));
    assert_eq!(w.window(0), Some(&[0, 1, 2, 3][..]));
    assert_eq!(w.window(1), Some(&[4, 5, 6, 7][..]));
    assert_eq!(w.window(2), None);
    assert_eq!(w.rest(), [8, 9, 10]);
    let w = w.limit(6);
    assert_eq!((w.len(), w.rest()), (1, &[4, 5][..]));
    assert!(Windows::new(vec![1, 2], 1).is_err());
    assert!(windows(3, 4).is_empty());
}

#[test]
fn windows_that_overlap_score_each_token_once() -> Result<()> {
    for (tokens, context, stride) in [(20usize, 8, 4), (20, 8, 1), (21, 8, 7), (8, 8, 3), (40, 5, 2)] {
        let ids: Vec<u32> = (0..tokens as u32).collect();
        let w = Windows::strided(&ids, context, stride)?;
        let mut scored = vec![];
        for i in 0..w.len() {
            let (window, trained) = (w.window(i).unwrap(), w.trained(i).unwrap());
            assert_eq!(window[0] as usize, i * stride);
            let new = window.iter().zip(trained).skip(1).filter(|(_, trained)| **trained);
            scored.extend(new.map(|(id, _)| *id));
        }
        let last = (tokens - context) / stride * stride + context;
        assert_eq!(scored, (1..last as u32).collect::<Vec<_>>(), "{tokens} {context} {stride}");
    }
    for stride in [0, 8, 9] {
        assert!(Windows::strided(&[0; 20], 8, stride).is_err(), "{stride}");
    }
    Ok(())
}

#[test]
fn an_epoch_visits_every_window_once_and_epochs_differ() {
    for n in [1, 2, 3, 7, 64, 1000] {
        let w = windows(n * 2, 2);
        let order = |seed, epoch| (0..w.len() as u64).map(|i| w.order(seed, epoch).at(i)).collect::<Vec<_>>();
        let mut sorted = order(42, 0);
        assert_eq!(sorted, order(42, 0), "{n} windows: not deterministic");
        sorted.sort_unstable();
        assert_eq!(sorted, (0..u64::from(n)).collect::<Vec<_>>(), "{n} windows: not a permutation");
        if n > 60 {
            assert_ne!(order(42, 0), order(42, 1), "{n} windows: epochs 0 and 1 alike");
            assert_ne!(order(42, 0), order(43, 0), "{n} windows: seeds 42 and 43 alike");
        }
    }
}

#[test]
fn a_cursor_walks_the_same_way_whatever_the_batch() -> Result<()> {
    let w = windows(14, 2); // 7 windows
    let walk = |count: usize| -> Result<Vec<u32>> {
        let mut cursor = Cursor::default();
        let mut seen = vec![];
        while seen.len() < 60 {
            seen.extend(cursor.take(&w, 3, count)?.iter().map(|w| w[0]));
        }
        assert_eq!(cursor.epoch * 7 + cursor.position, seen.len() as u64);
        seen.truncate(60);
        Ok(seen)
    };
    let one = walk(1)?;
    for count in [2, 3, 7, 20] {
        assert_eq!(walk(count)?, one, "batches of {count}");
    }
    assert!(matches!(Cursor::default().take(&windows(3, 4), 0, 1), Err(Error::TooShort { .. })));
    Ok(())
}

#[test]
fn a_batch_shifts_targets_by_one() -> Result<()> {
    let batch = Batch::new(&[&[1, 2, 3], &[7, 8, 9]], &Device::Cpu)?;
    assert_eq!(batch.inputs.to_vec2::<u32>()?, [[1, 2], [7, 8]]);
    assert_eq!(batch.targets, [2, 3, 8, 9]);
    for bad in [&[][..], &[&[1][..]], &[&[1, 2][..], &[1, 2, 3]]] {
        assert!(Batch::new(bad, &Device::Cpu).is_err(), "{bad:?}");
    }
    Ok(())
}
