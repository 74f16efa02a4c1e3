"""The suite: `scripts/test` runs all of it."""
