"""Learning: parts of the rows, fitting, metrics, and the forms a model is kept in.

Map of the room: `split` (rows → train, validate, test) → `fit` (matrix → booster and threshold) → `metrics` (outputs →
figures, with bootstrap intervals); `forest` (booster → flat arrays and the kernel that scores them), `serving` (the one
binary form a server opens), `importance` (gains and crosses of a booster).
"""
