"""Five small IPC worlds on the D-Bus system bus, guarded by polkit."""

__version__ = "0.1.0"
