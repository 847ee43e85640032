"""Pure algorithms: Arrow and numpy in, Arrow and numpy out. No clock, files, sockets, database or settings."""
