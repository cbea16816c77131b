//! The recipe from its text to its faults, and passes at work, in one program.

mod configs;
mod faults;
mod files;
mod layers;
mod oneshot;
mod passes;
mod roundtrip;
mod sound;
