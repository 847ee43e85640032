"""Pure algorithms of data versions: keys as numbers, rows given directly, three-way merges."""
