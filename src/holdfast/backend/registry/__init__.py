"""Runs, model versions, packages and serving bundles.

Map of the room: `registry` (records, versions, pointers) → `face` (the readable folder data/model) and `package` (the
joblib package and what lies beside it); `bundle` (the file a server maps, free of the database). Nothing is imported
here, so that a server that needs a bundle pays for nothing else.
"""
