//! Loops compiled for the vectors of several processors; the one that runs decides which is used.
//!
//! The crate is built for a baseline processor, whose vectors hold four floats on x86-64. A function that is defined in
//! [`wide!`] is compiled for AVX-512 and AVX2 as well. It is one loop in plain Rust: every element sees the same
//! operations in the same order at each width, nothing is contracted to a fused multiply-add, and reductions run over a
//! fixed number of lanes, so that all widths give the same bits. NEON belongs to the baseline of aarch64.
//!
//! What such a loop calls has to be inlined into it: functions as `#[inline(always)]`, and only small closures.

/// A width of vectors that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Eight floats.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the crate is built for.
    Baseline,
}

impl Level {
    /// The widest.
    #[inline]
    pub(crate) fn detect() -> Self {
        #[cfg(test)]
        if let Some(level) = tests::forced() {
            return level;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return Self::Avx512;
            }
            if has_avx2() {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// AVX-512 with products of bytes and with bits gathered into bytes: Ice Lake, Zen 4 and later.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_vnni() -> bool {
    has_avx512()
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi")
}

/// Defines a function that runs with the widest vectors of the processor.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$T:ident: $bound:ident>)? ($($arg:ident: $ty:ty),* $(,)?)
        $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$T: $bound>)? ($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn plain $(<$T: $bound>)? ($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$T: $bound>)? ($($arg: $ty),*) $(-> $out)? {
                plain($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$T: $bound>)? ($($arg: $ty),*) $(-> $out)? {
                plain($($arg),*)
            }

            match $crate::cpu::Level::detect() {
                // SAFETY: the processor was asked for every feature of the level.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Level::Avx2 => unsafe { avx2($($arg),*) },
                $crate::cpu::Level::Baseline => plain($($arg),*),
            }
        }
    };
}
pub(crate) use wide;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::*;

    /// 0: none; otherwise one more than the index into [`levels`].
    static FORCED: AtomicU8 = AtomicU8::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    pub(super) fn forced() -> Option<Level> {
        let index = FORCED.load(Ordering::Relaxed);
        (index > 0).then(|| levels()[usize::from(index) - 1])
    }

    /// Every level of this processor; the baseline comes last.
    fn levels() -> Vec<Level> {
        #[cfg(target_arch = "x86_64")]
        let wide = [has_avx512().then_some(Level::Avx512), has_avx2().then_some(Level::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [Option<Level>; 0] = [];
        wide.into_iter().flatten().chain([Level::Baseline]).collect()
    }

    fn same_at_every_level<const N: usize>(case: &str, lengths: [usize; N], f: impl Fn([&mut [f32]; N])) {
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        let run = |index: usize| {
            FORCED.store(index as u8 + 1, Ordering::Relaxed);
            let mut out = lengths.map(|n| vec![f32::NAN; n]);
            f(out.each_mut().map(|v| v.as_mut_slice()));
            FORCED.store(0, Ordering::Relaxed);
            out.map(|v| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        };
        let levels = levels();
        let want = run(levels.len() - 1);
        for (index, level) in levels.iter().enumerate() {
            assert!(run(index) == want, "{case}: {level:?} and the baseline differ");
        }
    }

    fn normal(name: &str, n: usize) -> Vec<f32> {
        let mut x = vec![0.0; n];
        Rng::new(7, "cpu", 0, name).fill_normal(0.0, 1.0, &mut x);
        x
    }

    /// Sizes with and without a rest, below and above what one task takes.
    const SIZES: [usize; 6] = [1, 15, 64, 1000, 16_387, 40_001];

    #[test]
    fn elementwise_loops() {
        for n in SIZES {
            let (x, y, g) = (normal("x", n), normal("y", n), normal("g", n));
            same_at_every_level("add", [n, n, n], |[sum, more, scaled]| {
                add(&x, &y, sum);
                more.copy_from_slice(&x);
                add_assign(more, &y);
                scale_into(&x, 0.7, scaled, false);
                scale_into(&y, 0.3, scaled, true);
                scale(scaled, 1.7);
            });
            same_at_every_level("swiglu", [n, n, n], |[out, dx, dy]| {
                swiglu(&x, &y, out);
                swiglu_backward(&x, &y, &g, dx, dy);
            });
            let bits: Vec<u8> = (0..bits_len(n)).map(|i| (i * 37 + 11) as u8).collect();
            same_at_every_level("mask", [n, n], |[y, dw]| {
                apply_mask(&x, &bits, y);
                mask_backward_decayed(&x, &g, &bits, 0.25, dw);
            });
            same_at_every_level("adamw", [n, n, n, n, n, n], |[w, m, v, kw, km, kv]| {
                let h = AdamW { step: 3, grad_scale: 0.3, ..AdamW::default() };
                let squares: Vec<f32> = y.iter().map(|v| v * v).collect();
                for (to, from) in [(&mut *w, &x), (&mut *m, &y), (&mut *v, &squares)] {
                    to.copy_from_slice(from);
                }
                for (to, from) in [(&mut *kw, &x), (&mut *km, &y), (&mut *kv, &squares)] {
                    to.copy_from_slice(from);
                }
                adamw(w, &g, m, v, &h);
                adamw_masked(kw, &g, km, kv, &h, &bits);
            });
            let blocks = n.div_ceil(MOMENT_BLOCK);
            for (case, keep) in [("adamw_8bit", None), ("adamw_8bit, masked", Some(&*bits))] {
                same_at_every_level(case, [n, n, n, blocks, blocks], |[w, m, v, ms, vs]| {
                    let (mut mc, mut vc) = (vec![0; n], vec![0; n]);
                    w.copy_from_slice(&x);
                    ms.fill(0.);
                    vs.fill(0.);
                    for (step, g) in (1..).zip([&g, &y]) {
                        let h = AdamW { step, grad_scale: 0.3, ..AdamW::default() };
                        let m = Moment8 { codes: &mut mc, scales: &mut *ms };
                        let v = Moment8 { codes: &mut vc, scales: &mut *vs };
                        adamw_8bit(w, g, m, v, keep, &Rng::new(7, "moments", step, "w"), &h);
                    }
                    for (to, codes) in [(m, mc), (v, vc)] {
                        to.iter_mut().zip(codes).for_each(|(to, code)| *to = code.into());
                    }
                });
            }
            same_at_every_level("sums", [4], |[out]| {
                let sum = sum_squares(&x).to_bits();
                let bits = [sum as u32, (sum >> 32) as u32, all_finite(&x).into(), 0];
                out.copy_from_slice(&bits.map(f32::from_bits));
            });
        }
    }

    #[test]
    fn loops_over_rows() {
        for d in [1, 15, 64, 577] {
            let (rows, eps) = (61, 1e-5);
            let n = rows * d;
            let (x, g, w) = (normal("x", n), normal("g", n), normal("w", d));
            same_at_every_level("norms", [n, n, d, n, n, d, d], |[y, dx, dw, ly, ldx, ldw, ldb]| {
                rms_norm(&x, &w, eps, y, d);
                rms_norm_backward(&x, &w, &g, eps, dx, dw, d);
                layer_norm(&x, &w, Some(&w), eps, ly, d);
                layer_norm_backward(&x, &w, &g, eps, ldx, ldw, ldb, d);
            });
            same_at_every_level("rows", [n, d], |[y, sum]| {
                y.copy_from_slice(&x);
                add_row(y, &w);
                sum_rows(&g, sum);
            });
            let (b, t, h, head) = (2, 7, 3, 2 * d);
            let (x, angles) = (normal("r", b * t * h * head), normal("a", t * d));
            same_at_every_level("rope", [x.len()], |[y]| {
                rope(&x, &angles, &angles, y, b, t, h, head, false);
            });
        }
    }

    #[test]
    fn losses_and_attention() {
        for v in [3, 64, 5003] {
            let n = 7;
            let (s, t, g) = (normal("s", n * v), normal("t", n * v), normal("g", n));
            let targets: Vec<u32> = (0..n as u32).map(|i| i * 3 % v as u32).collect();
            same_at_every_level("losses", [n, n * v, n, n * v], |[ce, dce, kl, dkl]| {
                cross_entropy(&s, &targets, 0, ce);
                cross_entropy_backward(&s, &targets, 0, &g, dce);
                kl_divergence(&s, &t, 2.0, kl);
                kl_divergence_backward(&s, &t, 2.0, &g, dkl);
            });
            let mix = LossMix { cross_entropy: 0.5, divergence: 1.5, temperature: 2.0, ignore: 0 };
            same_at_every_level("both losses", [n * v, 4 * n], |[grad, sums]| {
                grad.copy_from_slice(&s);
                let (mut ce, mut kl) = (vec![0.0; n], vec![0.0; n]);
                token_losses_gradient(grad, Some(&t), &targets, &mix, &mut ce, &mut kl);
                for (out, sum) in sums.chunks_exact_mut(2).zip(ce.iter().chain(&kl)) {
                    let bits = sum.to_bits();
                    out.copy_from_slice(&[bits as u32, (bits >> 32) as u32].map(f32::from_bits));
                }
            });
        }
        let dims = AttentionDims { b: 1, tq: 70, tk: 83, h: 4, hkv: 2, d: 12, scale: 0.3, window: Some(50) };
        let (nq, nkv) = (dims.q_len(), dims.kv_len());
        let (q, k, v, g) = (normal("q", nq), normal("k", nkv), normal("v", nkv), normal("g", nq));
        same_at_every_level("attention", [nq, nq, nkv, nkv], |[out, dq, dk, dv]| {
            attention(&q, &k, &v, &dims, out);
            attention_backward(&q, &k, &v, &g, &dims, dq, dk, dv);
        });
    }
}
