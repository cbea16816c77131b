//! Calls into libraries that panic on what a stranger's file holds.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// What `call` returns; `None` where it panicked, and the caller has an error of the file to make. Whatever `call` was changing
/// is not to be used after that.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    /// Counts down whichever way the call ends.
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _inside = Inside;
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Whether this thread is within a [`guarded`] call: a program's panic hook has nothing to print then, because the panic becomes
/// an error that will be.
pub fn is_guarded() -> bool {
    DEPTH.get() > 0
}

#[cfg(test)]
mod tests {
    use super::{guarded, is_guarded};

    #[test]
    fn a_panic_is_nothing_and_the_count_goes_down() {
        assert!(!is_guarded());
        assert_eq!(guarded(|| guarded(is_guarded)), Some(Some(true)));
        assert_eq!(guarded(|| -> u8 { panic!("a fault of a library") }), None);
        assert!(!is_guarded());
    }
}
