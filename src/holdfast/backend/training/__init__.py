"""Training as an operation: one at a time per model, and nothing half done when it fails.

Map of the room: `session` (locks, the run's record, and what happens when a training fails or its process dies).
"""

from holdfast.backend.training.session import end_interrupted, model_locks, training_session

__all__ = ["end_interrupted", "model_locks", "training_session"]
