//! The recipe from its text to its faults, in one program.

mod configs;
mod faults;
mod files;
mod layers;
mod roundtrip;
mod sound;
