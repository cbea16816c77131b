//! One loop, compiled for several vector widths; the processor decides which is run.
//!
//! A loop is a struct with an inlined [`Loop::run`]. Each level is that same code under other target features, and
//! no operation in it depends on the width (no sums across lanes, no fused multiply-add: Rust contracts nothing), so
//! all levels give the same bits. The baseline is the scalar twin that the tests compare with.

/// A loop to compile for every level. `run` has to be `#[inline(always)]`.
pub(super) trait Loop {
    type Output;
    fn run(self) -> Self::Output;
}

/// Vector instructions that this processor has. Only [`Level::all`] makes one, after asking the processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level(Features);

#[derive(Clone, Copy, Debug)]
enum Features {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the target has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
}

impl Level {
    /// The widest level.
    pub fn detect() -> Self {
        Self::all().next().unwrap_or(Self(Features::Baseline))
    }

    /// Every level of this processor, the widest first and the baseline last.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = {
            let avx2 = is_x86_feature_detected!("avx2");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            [avx512.then_some(Self(Features::Avx512)), avx2.then_some(Self(Features::Avx2))]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [Option<Self>; 0] = [];
        wide.into_iter().flatten().chain([Self(Features::Baseline)])
    }

    /// Runs a loop with the instructions of this level.
    pub fn run<L: Loop>(self, work: L) -> L::Output {
        match self.0 {
            // SAFETY: a Level of these features exists only when `all` has found that the processor has them.
            #[cfg(target_arch = "x86_64")]
            Features::Avx512 => unsafe { avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Features::Avx2 => unsafe { avx2(work) },
            Features::Baseline => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<L: Loop>(work: L) -> L::Output {
    work.run()
}
