"""The handlers: what a verb does, from its input to the moved pointer."""
