//! What the rooms with registers of their own share: loops that are compiled for every instruction set, and methods
//! that are an expression of intrinsics.
//!
//! A room defines a trait `Simd` of the operations that it needs and a token that implements it for each instruction
//! set. [`levels!`] gives it a trait `Loop`, and the `Level` that decides which token a loop is run with.

/// Defines `Loop` and `Level` for the trait `Simd` and the tokens of a room.
///
/// Given are, for each instruction set and the widest first, the architecture it belongs to, whether the processor has
/// the features that the room asks for, and the function that runs a loop with them; and the token that every processor
/// can use. The condition has to ask for every feature that its function is compiled with: the soundness of calling it
/// hangs on that.
macro_rules! levels {
    ($($arch:literal $name:ident: $has:expr => $run:path,)* baseline: $array:expr $(,)?) => {
        /// A loop to compile for every instruction set. Everything it calls with registers has to be inlined into it:
        /// functions as `#[inline(always)]`, and no closures.
        pub(super) trait Loop {
            type Output;
            fn run<S: Simd>(self, simd: S) -> Self::Output;
        }

        /// An instruction set that this processor has. Only [`Level::all`] makes one, after asking the processor.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Level(Features);

        #[derive(Clone, Copy, Debug)]
        enum Features {
            $(
                #[cfg(target_arch = $arch)]
                $name,
            )*
            Baseline,
        }

        impl Level {
            /// The widest.
            pub fn detect() -> Self {
                Self::all().next().unwrap_or(Self(Features::Baseline))
            }

            /// Every level of this processor, the widest first and the arrays last.
            pub fn all() -> impl Iterator<Item = Self> {
                let wide = [$({
                    #[cfg(target_arch = $arch)]
                    let level = ($has).then_some(Self(Features::$name));
                    #[cfg(not(target_arch = $arch))]
                    let level = None;
                    level
                },)*];
                wide.into_iter().flatten().chain([Self(Features::Baseline)])
            }

            /// Runs a loop with the registers of this level.
            pub fn run<L: Loop>(self, work: L) -> L::Output {
                match self.0 {
                    $(
                        // SAFETY: a level of these features exists only when `all` has found that the processor has them.
                        #[cfg(target_arch = $arch)]
                        Features::$name => unsafe { $run(work) },
                    )*
                    Features::Baseline => work.run($array),
                }
            }
        }
    };
}
pub(crate) use levels;

/// Methods of a token that are an expression of intrinsics.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $t:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $t),*) -> $out {
            // SAFETY: self is a token, so the processor has the features. What reads or writes memory is given arrays
            // of the length that it takes, or slices whose length was asserted.
            unsafe { $body }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use intrinsics;
