"""One training loop for every stage that trains: its settings, data, schedule, checkpoints and ranks."""
