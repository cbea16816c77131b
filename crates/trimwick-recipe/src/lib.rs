//! TOML recipes: parsed, checked whole, run as resumable stages, reported.
