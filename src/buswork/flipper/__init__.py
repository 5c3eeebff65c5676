"""Flipper boards, several programs at once: the message runtime FMR over USB, UDP and a socket."""
