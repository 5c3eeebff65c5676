"""The store's bytes: what is written on each of its doors, and how it is read back."""
