"""Business logic, stores and the HTTP API."""
