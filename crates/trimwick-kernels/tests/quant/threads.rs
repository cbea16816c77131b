//! The same bits in pools of 1, 2, 4 and 8 threads, at sizes that are cut into pieces.

use trimwick_kernels::quant::{
    Code, Grid, ScaleFormat, block_amax, block_range, decode, encode, fake_quant, fake_quant_backward,
    fake_quant_dynamic, lsq_backward, pack_bits, packed_len, scales,
};

use crate::reference::{bits, grids, tensor};

/// Everything the module computes from a tensor, as bits.
fn everything(grid: Grid, x: &[f32], g: &[f32], block: usize) -> (Vec<Vec<u32>>, Vec<u8>) {
    let (n, blocks) = (x.len(), x.len() / block);
    let (mut s, mut z) = (vec![0.0; blocks], vec![0.0; blocks]);
    scales(grid, x, block, None, &mut s, Some(&mut z)).unwrap();
    let zeros = matches!(grid.code, Code::Uint { .. }).then_some(z.as_slice());
    let (mut y, mut dynamic, mut decoded) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    let (mut clipped, mut learned, mut ds) = (vec![0.0; n], vec![0.0; n], vec![0.0; blocks]);
    let (mut amax, mut min, mut max) = (vec![0.0; blocks], vec![0.0; blocks], vec![0.0; blocks]);
    fake_quant(grid, x, block, &s, zeros, &mut y);
    fake_quant_dynamic(grid, x, block, None, &mut dynamic).unwrap();
    let half: Vec<f32> = s.iter().map(|s| s / 2.0).collect();
    fake_quant_backward(grid, x, block, &half, zeros, g, &mut clipped);
    lsq_backward(grid, x, block, &half, g, &mut learned, &mut ds);
    block_amax(x, block, &mut amax).unwrap();
    block_range(x, block, &mut min, &mut max).unwrap();
    let mut codes = vec![0; n];
    encode(grid, x, block, &s, zeros, &mut codes);
    decode(grid, &codes, block, &s, zeros, &mut decoded);
    let mut packed = vec![0; packed_len(n, grid.code.bits())];
    pack_bits(&codes, grid.code.bits(), &mut packed);
    let floats = [s, z, y, dynamic, decoded, clipped, learned, ds, amax, min, max];
    (floats.iter().map(|v| bits(v)).collect(), packed)
}

#[test]
fn same_bits_in_every_pool() {
    let pools =
        [1, 2, 4, 8].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for (i, grid) in grids().into_iter().enumerate() {
        let shapes = [(16, 80_000), (32, 96_000), (576, 115_200), (20_000, 100_000), (150_000, 300_000)];
        let (block, n) = if grid.scale == ScaleFormat::E4M3 { shapes[0] } else { shapes[i % shapes.len()] };
        let (x, g) = (tensor(0, i as u64, n), tensor(0, 50, n));
        let results = pools.each_ref().map(|pool| pool.install(|| everything(grid, &x, &g, block)));
        for (result, threads) in results[1..].iter().zip([2, 4, 8]) {
            assert!(*result == results[0], "{grid:?} in blocks of {block}: 1 and {threads} threads differ");
        }
    }
}
