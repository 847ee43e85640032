"""The handlers that close the circle: ingest, features, train, deploy."""
