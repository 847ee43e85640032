"""How distributions move: measures over counts in fixed bins."""
