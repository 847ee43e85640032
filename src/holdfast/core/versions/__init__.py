"""Pure algorithms of data versions: keys as numbers, changes given directly, and three-way merges of rows and schemas."""
