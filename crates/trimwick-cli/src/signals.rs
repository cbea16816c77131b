//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::progress::Keys;

/// What the handlers set.
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    caught: Arc<AtomicUsize>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub(crate) fn watch() -> std::io::Result<Self> {
        let signals = Self { stop: Arc::default(), caught: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it, the second finds it set.
            flag::register_conditional_shutdown(signal, exit_code(signal).into(), Arc::clone(&signals.stop))?;
            flag::register_usize(signal, Arc::clone(&signals.caught), signal as usize)?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        Ok(signals)
    }

    /// The same for a run on a screen of its own: `restore` gives the terminal back before the second signal ends the process.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub(crate) fn watch_on_screen(restore: fn()) -> std::io::Result<Self> {
        let signals = Self { stop: Arc::default(), caught: Arc::default() };
        let (stop, caught) = (Arc::clone(&signals.stop), Arc::clone(&signals.caught));
        let mut coming = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in coming.forever() {
                if stop.load(Ordering::Relaxed) {
                    restore();
                    std::process::exit(exit_code(signal).into());
                }
                caught.store(signal as usize, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(signals)
    }

    /// Set once a signal has come.
    pub(crate) fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// What keys of a screen do: the same as Ctrl-C elsewhere.
    pub(crate) fn keys(&self) -> Box<dyn Keys> {
        Box::new(Interrupt { stop: Arc::clone(&self.stop), caught: Arc::clone(&self.caught) })
    }

    /// The signal that came, by its name, and the exit code that it asks for.
    pub(crate) fn caught(&self) -> (&'static str, u8) {
        match self.caught.load(Ordering::Relaxed) as i32 {
            SIGINT => ("SIGINT", exit_code(SIGINT)),
            _ => ("SIGTERM", exit_code(SIGTERM)),
        }
    }
}

struct Interrupt {
    stop: Arc<AtomicBool>,
    caught: Arc<AtomicUsize>,
}

impl Keys for Interrupt {
    fn stop(&self) {
        self.caught.store(SIGINT as usize, Ordering::Relaxed);
        if self.stop.swap(true, Ordering::Relaxed) {
            std::process::exit(exit_code(SIGINT).into());
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A file that outgrows its limit (`ulimit -f`) ends a process with SIGXFSZ unless that is caught; then the write fails, and
/// that is told like any other error.
///
/// # Errors
/// The operating system's refusal.
pub(crate) fn report_full_files() -> std::io::Result<()> {
    #[cfg(unix)]
    flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}

/// 128 and the signal's number, as shells report a process that a signal ended.
fn exit_code(signal: i32) -> u8 {
    128 + signal as u8
}
