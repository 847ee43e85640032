"""The handlers that close the circle: ingest, features, training, deployment."""
