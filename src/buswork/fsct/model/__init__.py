"""Players, displays, and which of the ones is shown on which of the others."""
