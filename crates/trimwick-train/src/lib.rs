//! The training loop: optimizer, schedules, data, distillation, checkpoints that resume bit for bit.
