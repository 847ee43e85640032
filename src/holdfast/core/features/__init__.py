"""Features: definitions, synthesis, the one evaluator, and the encoding a model sees.

Map of the room: `primitives` (what there is) ← `definitions` (formulas as data) ← `synthesis` (makes them from a
schema); `world` (tables as sorted arrays) + `kernels` (loops) ← `evaluate` (definitions at cutoffs → `frame`);
`encoding` (frame or raw values → matrix).
"""
