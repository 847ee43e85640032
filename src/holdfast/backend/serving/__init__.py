"""Answers: `predictor` (fast, immutable), `loader` (slow: load, verify, swap), `service` (answers and logs), `log`."""
