//! The training loop: data, schedules, metrics, checkpoints, export and import.
