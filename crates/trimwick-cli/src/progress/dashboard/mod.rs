//! `run --dashboard`: the run on a screen of its own, and keys that pause it, save it and stop it.
//!
//! A thread draws what the run has told so far and reads the keys, so that the screen lives while a step takes its time. The
//! run itself looks at the keys whenever it tells something: between steps, windows and blocks. It never waits for the terminal.
//! When the screen goes, every line that was said stands on standard error as it would without; a process that is ended at once
//! (a second Ctrl-C) says no more.

mod draw;
mod state;

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show as ShowCursor};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use trimwick_recipe::run::MeasuredArm;
use trimwick_train::{Evaluation, StepReport};

use self::draw::Memory;
use self::state::State;
use super::line;
use super::show::Show;
use crate::memory::bytes_of;
use crate::text::plain;

/// How long the end of a run waits for a terminal that takes nothing any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Set when the terminal was given back: whatever is drawn later would stand among the lines.
static GONE: AtomicBool = AtomicBool::new(true);
/// Between two drawings.
const FRAME: Duration = Duration::from_millis(200);

/// What keys do to the process.
pub(crate) trait Keys: Send {
    /// Asks for an orderly end; a second time, ends at once.
    fn stop(&self);
    /// Whether that was asked for, by a key or a signal.
    fn stopping(&self) -> bool;
}

/// The screen of a run.
pub(crate) struct Dashboard {
    shared: Arc<Shared>,
    drawing: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Set when the screen is to go.
    over: AtomicBool,
    keys: Mutex<Box<dyn Keys>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, Box<dyn Keys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dashboard {
    /// Whether there is a terminal to draw on, and one to type at.
    pub(crate) fn possible() -> bool {
        io::stderr().is_terminal() && io::stdin().is_terminal()
    }

    /// Takes the terminal over for a run.
    ///
    /// # Errors
    /// The terminal's refusal.
    pub(crate) fn open(name: &str, keys: Box<dyn Keys>) -> io::Result<Self> {
        let screen = Screen::open()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(name)),
            over: AtomicBool::new(false),
            keys: Mutex::new(keys),
        });
        let drawn = Arc::clone(&shared);
        let drawing =
            thread::Builder::new().name("dashboard".into()).spawn(move || follow(screen, &drawn))?;
        Ok(Self { shared, drawing: Some(drawing) })
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while self.drawing.as_ref().is_some_and(|drawing| !drawing.is_finished())
            && begun.elapsed() < PATIENCE
        {
            thread::sleep(FRAME / 10);
        }
        restore();
        self.shared.state().said.iter().for_each(|text| line(text));
    }
}

impl Show for Dashboard {
    fn begin(&mut self, stage: &str, _trains: bool) {
        self.shared.state().begin(stage);
    }

    fn end(&mut self) {}

    fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>) {
        let mut state = self.shared.state();
        (state.parts, state.left) = ((done, total), left);
        state.facts = facts.into();
    }

    fn say(&mut self, text: &str) {
        self.shared.state().said.push(plain(text));
    }

    fn seconds(&self) -> f64 {
        self.shared.state().stage_begun.elapsed().as_secs_f64()
    }

    fn step(&mut self, arm: &str, report: &StepReport) {
        let mut state = self.shared.state();
        state.step(arm, report);
        report.save.set(std::mem::take(&mut state.wants_save));
    }

    fn validated(&mut self, arm: &str, evaluation: &Evaluation) {
        self.shared.state().validated(arm, evaluation);
    }

    fn measured(&mut self, arm: &MeasuredArm) {
        self.shared.state().measured(arm);
    }

    fn wait(&mut self) {
        while self.shared.state().paused && !self.shared.keys().stopping() {
            thread::sleep(FRAME);
        }
    }
}

/// Draws until the run is over.
fn follow(mut screen: Screen, shared: &Shared) {
    while !shared.over.load(Ordering::Relaxed) {
        // The run takes the state for all it tells, and must not wait for a terminal.
        let state = shared.state().clone();
        if !GONE.load(Ordering::Relaxed) {
            // A terminal that cannot be drawn on any more has lost its watcher, and the run has not.
            let _ = screen.terminal.draw(|frame| draw::draw(frame, &state, memory()));
        }
        match event::poll(FRAME) {
            Ok(true) => {
                if let Ok(event) = event::read() {
                    press(&event, shared);
                }
            }
            Ok(false) => {}
            Err(_) => thread::sleep(FRAME),
        }
    }
}

fn press(event: &Event, shared: &Shared) {
    let Event::Key(key) = event else { return };
    if key.kind != KeyEventKind::Press {
        return;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => stop(shared),
        KeyCode::Char('q') => stop(shared),
        KeyCode::Char('p') => {
            let mut state = shared.state();
            state.paused = !state.paused;
        }
        KeyCode::Char('c') => {
            let mut state = shared.state();
            state.wants_save = true;
            state.said.push("a checkpoint comes after the next step of training".into());
        }
        _ => {}
    }
}

fn stop(shared: &Shared) {
    let keys = shared.keys();
    if keys.stopping() {
        restore();
    }
    keys.stop();
}

/// The terminal in the hands of the screen; dropping it gives it back.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    fn open() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        enable_raw_mode()?;
        GONE.store(false, Ordering::Relaxed);
        let opened = execute!(io::stderr(), EnterAlternateScreen, Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        match opened {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once.
pub(crate) fn restore() {
    if GONE.swap(true, Ordering::Relaxed) {
        return;
    }
    // With the terminal gone there is nothing to give back.
    let _ = disable_raw_mode();
    let _ = execute!(io::stderr(), LeaveAlternateScreen, ShowCursor);
    let _ = io::stderr().flush();
}

/// What the process and the machine have, where the system tells (Linux).
fn memory() -> Memory {
    let status = |key| bytes_of("/proc/self/status", key).unwrap_or_default();
    let total = bytes_of("/proc/meminfo", "MemTotal:").unwrap_or_default();
    Memory { now: status("VmRSS:"), peak: status("VmHWM:"), total }
}

#[cfg(test)]
mod tests;
