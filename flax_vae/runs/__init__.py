"""A training on disk: its configuration, its directory, and what makes and reads them."""
