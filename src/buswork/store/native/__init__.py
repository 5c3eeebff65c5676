"""The store's own doors: everything that is neither D-Bus nor a rule."""
