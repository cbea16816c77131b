//! The real binary, driven as a user drives it.

mod bad_input;
mod bench;
mod book;
mod chat;
mod early;
mod help;
mod inspect;
mod interrupted;
mod models;
mod quantize;
mod recipes;
mod report;
mod run;
mod support;
mod tampered;
mod tasks;
mod verify;
